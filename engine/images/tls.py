"""Whom TLS believes, who we are there, and which HTTP it may carry."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable
from pathlib import Path

from engine.images.policy import Trust
from machinefile.errors import UsageError


class _Context(ssl.SSLContext):
    """Offers what it was made to offer. httpcore sets the protocols anew at each connection, on a context that other
    threads may be shaking hands with at that moment."""

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        """Does nothing: see `offer`."""

    def offer(self, *protocols: str) -> None:
        """What the server may choose from, best first. Source: RFC 7301."""
        super().set_alpn_protocols(protocols)


def nobody() -> ssl.SSLContext:
    """Trusts nobody: right for a client that never speaks TLS."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def context(trust: Trust, *, http2: bool) -> ssl.SSLContext:
    """A context for many connections. Takes 20 ms to make, most of them for the system's certificates.

    Raises UsageError (`registry-config-invalid`) for a certificate or a key that cannot be used.
    """
    made = _Context(ssl.PROTOCOL_TLS_CLIENT)
    made.offer(*(["h2", "http/1.1"] if http2 else ["http/1.1"]))
    _load_system(made)
    for file in trust.authorities:
        try:
            made.load_verify_locations(cafile=file)
        except OSError as error:  # ssl.SSLError is one
            raise _unusable("certificate", file, error, "no certificate in PEM is in it") from error
    # Of several identities with the same kind of key the last one loaded is shown, and the first one counts.
    for certificate, key in reversed(trust.identities):
        _identify(made, certificate, key)
    if not trust.verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made


def _load_system(made: ssl.SSLContext) -> None:
    """The system's certificates, or SSL_CERT_FILE's; certifi's where the system has none."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile or paths.capath:
        made.load_default_certs()
        return
    import certifi

    made.load_verify_locations(cafile=certifi.where())


def _identify(made: ssl.SSLContext, certificate: Path, key: Path) -> None:
    for file in (certificate, key):
        if not os.access(file, os.R_OK):
            reason = "it may not be read" if file.exists() else "it is not there"
            raise _wrong("certificate" if file == certificate else "key", file, reason)
    try:
        # Without a password at hand, OpenSSL would ask the terminal for that of an encrypted key.
        made.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise _unusable("key", key, error, f"it is encrypted, no key in PEM, or not that of {certificate}") from error


def _unusable(what: str, file: Path, error: Exception, reason: str) -> UsageError:
    plain = isinstance(error, OSError) and not isinstance(error, ssl.SSLError)
    return _wrong(what, file, (str(error.strerror) if plain else "") or reason)  # type: ignore[attr-defined]


def _wrong(what: str, file: Path, reason: str) -> UsageError:
    return UsageError(
        f"the {what} {file} cannot be used: {reason}",
        code="registry-config-invalid",
        hint="mend the file, or the configuration of registries that names it",
    )
