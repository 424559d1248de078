"""A spec: one small build, and what is to be said of it. They stand in specs/*.toml."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import tarfile
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

FOLDER = Path(__file__).parent / "specs"
_RUN = re.compile(r"^\s*(?:ONBUILD\s+)?RUN\b", re.MULTILINE | re.IGNORECASE)
_KEYS = {"name", "machinefile", "context", "args", "differs", "refused", "tree", "config"}
_FILE_KEYS = {"text", "mode", "link", "hard", "fifo", "dir", "owner", "tar", "members", "device"}


@dataclass(frozen=True)
class Spec:
    """One build of both builders."""

    topic: str
    name: str
    machinefile: str
    """`@base@` stands for the plain base image, `@rich@` for the one whose configuration is full."""
    context: Mapping[str, Any] = field(default_factory=dict)
    """Path to text, or to a table: see `_write`."""
    args: tuple[str, ...] = ()
    """More options, the same for both."""
    differs: str = ""
    """The heading of docs/differences.md that says why buildah's result is not ours."""
    refused: str = ""
    """The code of the error with which mbuild refuses it. Without `differs`, buildah refuses it too."""
    tree: Mapping[str, str] | None = None
    """What is in the image and not in its base, as Image.tree says it."""
    config: Mapping[str, Any] | None = None
    """Some of the image's configuration."""

    @property
    def needs_vm(self) -> bool:
        """Whether a RUN is in it."""
        return _RUN.search(self.machinefile) is not None and not self.refused

    def write_context(self, folder: Path) -> None:
        """Make the build context, with exact modes whatever the umask."""
        folder.mkdir(mode=0o755)
        files = sorted(self.context.items(), key=lambda item: isinstance(item[1], dict) and "hard" in item[1])
        for path, given in files:
            _write(folder, path, given if isinstance(given, dict) else {"text": given})


def load_specs() -> list[Spec]:
    """All specs of the folder; fails on unknown words and repeated names."""
    specs = []
    for path in sorted(FOLDER.glob("*.toml")):
        for table in tomllib.loads(path.read_text())["spec"]:
            assert not set(table) - _KEYS, f"{path.name}: {set(table) - _KEYS}"
            assert "differs" not in table or {"tree", "config", "refused"} & set(table), f"{table['name']}: then what?"
            specs.append(Spec(path.stem, **{**table, "args": tuple(table.get("args", ()))}))
    names = [(spec.topic, spec.name) for spec in specs]
    assert len(names) == len(set(names)), sorted({name for name in names if names.count(name) > 1})
    return specs


def _write(folder: Path, path: str, given: Mapping[str, Any]) -> None:
    """`text`, `dir = true`, `link`, `hard` (both name another path), `fifo = true`, or `tar` (a compression) with
    `members`; each with `mode` (octal), some with `owner` ("uid:gid", needs root)."""
    assert not set(given) - _FILE_KEYS, given
    target = folder / path
    for above in reversed(target.relative_to(folder).parents[:-1]):
        if not (folder / above).exists():
            (folder / above).mkdir()
            (folder / above).chmod(0o755)
    if "link" in given:
        target.symlink_to(given["link"])
        return
    if "hard" in given:
        target.hardlink_to(folder / given["hard"])
        return
    if given.get("dir"):
        target.mkdir(exist_ok=True)
    elif given.get("fifo"):
        os.mkfifo(target)
    elif "tar" in given:
        target.write_bytes(_COMPRESSIONS[given["tar"]](_tar(given["members"])))
    else:
        target.write_bytes(given["text"].encode("utf-8", "surrogateescape"))
    if "owner" in given:
        os.chown(target, *(int(number) for number in given["owner"].split(":")))
    target.chmod(int(given.get("mode", "755" if given.get("dir") else "644"), 8))


def _tar(members: Mapping[str, Any]) -> bytes:
    """Members are as `_write` has them; and `device` ("major,minor"), `xattrs`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, value in members.items():
            given = value if isinstance(value, dict) else {"text": value}
            entry = tarfile.TarInfo(path)
            content = given.get("text", "").encode()
            entry.size, entry.mtime = len(content), 1_000_000_000
            entry.mode = int(given.get("mode", "755" if given.get("dir") else "644"), 8)
            entry.uid, entry.gid = (int(number) for number in given.get("owner", "0:0").split(":"))
            for word, kind in _MEMBER_KINDS.items():
                if word in given:
                    entry.type = kind
            entry.linkname = given.get("link", given.get("hard", ""))
            entry.pax_headers = {f"SCHILY.xattr.{name}": value for name, value in given.get("xattrs", {}).items()}
            if "device" in given:
                entry.devmajor, entry.devminor = (int(number) for number in given["device"].split(","))
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


_MEMBER_KINDS = {
    "dir": tarfile.DIRTYPE,
    "link": tarfile.SYMTYPE,
    "hard": tarfile.LNKTYPE,
    "fifo": tarfile.FIFOTYPE,
    "device": tarfile.CHRTYPE,
}
_COMPRESSIONS: Mapping[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data,
    "gz": lambda data: gzip.compress(data, mtime=0),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: zstandard.ZstdCompressor().compress(data),
}
