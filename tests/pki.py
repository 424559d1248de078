"""Certificates made by openssl: an authority, and what it signs."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Pair:
    """Files in PEM."""

    certificate: Path
    key: Path


def authority(folder: Path, name: str = "authority") -> Pair:
    """A certificate that may sign others."""
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.pem")
    _openssl("req", "-x509", *_KEY, "-keyout", pair.key, "-out", pair.certificate, "-days", "2", "-subj", f"/CN={name}")
    return pair


def signed(folder: Path, by: Pair, name: str, *names: str) -> Pair:
    """A certificate of that authority's, for these DNS names or none: `NAME.cert` and `NAME.key`."""
    pair = Pair(folder / f"{name}.cert", folder / f"{name}.key")
    request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
    _openssl("req", *_KEY, "-keyout", pair.key, "-out", request, "-subj", f"/CN={name}")
    alternatives = ",".join(["IP:127.0.0.1", *(f"DNS:{one}" for one in names)])
    extensions.write_text(f"subjectAltName={alternatives}\n")
    argv = ["x509", "-req", "-in", request, "-CA", by.certificate, "-CAkey", by.key, "-CAcreateserial"]
    _openssl(*argv, "-out", pair.certificate, "-days", "2", "-extfile", extensions)
    for file in (request, extensions):
        file.unlink()
    return pair


def encrypted(pair: Pair, to: Path) -> Pair:
    """The same with a key that nobody can read without the password."""
    _openssl("ec", "-in", pair.key, "-aes128", "-passout", "pass:secret", "-out", to)
    return Pair(pair.certificate, to)


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=30)
