"""What the user says about registries: mirrors, plain HTTP, certificates. A file in TOML:

[registry."docker.io"]
mirrors = ["mirror.example.org", "cache.example.org:5000/hub"]

[registry."cache.example.org:5000"]
plain-http = true

[registry."registry.example.org"]
ca = "/etc/ssl/example.pem"
client-cert = "me.pem"
client-key = "me.key"
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from engine.images.reference import Reference, registry_of
from machinefile.errors import UsageError
from machinefile.values import dataclass

VARIABLE = "MBUILD_REGISTRIES_CONFIG"
_MAX_BYTES = 1 << 20
_MAX_MIRRORS = 16
_KEYS = ("mirrors", "plain-http", "ca", "client-cert", "client-key", "insecure-skip-verify")


@dataclass(frozen=True, slots=True)
class Mirror:
    """Another registry that serves the same images."""

    registry: str
    """`HOST` or `HOST:PORT`."""
    prefix: str = ""
    """Goes before the repository's name there: `hub` for `HOST/hub/library/debian`; empty for none."""

    def __str__(self) -> str:
        return f"{self.registry}/{self.prefix}".rstrip("/")


@dataclass(frozen=True, slots=True)
class RegistryEntry:
    """What is said about one registry."""

    registry: str
    """As image names have it: `docker.io`, `localhost:5000`."""
    mirrors: tuple[Mirror, ...] = ()
    """Asked in this order before the registry itself, for pulls alone."""
    plain_http: bool | None = None
    """None where nothing is said."""
    ca: tuple[Path, ...] = ()
    """Certificates, in PEM, trusted beside those of the system."""
    skip_verify: bool = False
    """Whoever answers is believed to be the registry."""
    identity: tuple[Path, Path] | None = None
    """The certificate, with what it needs up to its authority, and the key that a client shows; in PEM."""


def config_file(environ: Mapping[str, str]) -> Path | None:
    """The file that is read, if it is there: MBUILD_REGISTRIES_CONFIG, else mbuild/registries.toml in XDG_CONFIG_HOME
    or ~/.config; None where neither is known."""
    if chosen := environ.get(VARIABLE):
        return Path(chosen)
    if base := environ.get("XDG_CONFIG_HOME"):
        return Path(base) / "mbuild" / "registries.toml"
    home = environ.get("HOME")
    return Path(home) / ".config" / "mbuild" / "registries.toml" if home else None


def load(environ: Mapping[str, str] | None = None, chosen: Path | None = None) -> tuple[RegistryEntry, ...]:
    """What the file says, `chosen` or that of the environment; nothing when there is none.

    Raises UsageError (`registry-config-invalid`) for one that makes no sense, or that was named and cannot be read.
    """
    found = os.environ if environ is None else environ
    path = chosen or config_file(found)
    if path is None:
        return ()
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        # HOME may be another user's when privileges were dropped: what may not be read is not ours.
        if chosen or found.get(VARIABLE):
            named = "--registries-config" if chosen else VARIABLE
            raise _invalid(path, f"it cannot be read: {error.strerror}", f"see {named}") from error
        return ()
    except OSError as error:
        raise _invalid(path, f"it cannot be read: {error.strerror}") from error
    return parse(data, path)


def parse(data: bytes, path: Path) -> tuple[RegistryEntry, ...]:
    """Read a file's content; `path` is for messages, and where relative names begin. Raises as `load`."""
    import tomllib

    if len(data) > _MAX_BYTES:
        raise _invalid(path, f"it is longer than {_MAX_BYTES} bytes")
    try:
        content = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # TOML's own errors are ValueErrors, and so are UTF-8's
        raise _invalid(path, str(error) or "it is nested too deeply") from error
    for name in content:
        if name != "registry":
            raise _invalid(path, f"there is no setting {name!r}", 'write a section [registry."HOST"] for each registry')
    sections = content.get("registry", {})
    if not isinstance(sections, dict):
        raise _invalid(path, "registry is not a table", 'write a section [registry."HOST"] for each registry')
    entries: dict[str, RegistryEntry] = {}
    for name, fields in sections.items():
        entry = _Section(path, name, fields).read()
        if entry.registry in entries:
            raise _invalid(path, f"{entry.registry} has two sections, one of them {name!r}", "put them together")
        entries[entry.registry] = entry
    return tuple(entries.values())


def parse_place(name: str) -> Mirror | None:
    """HOST[:PORT][/PREFIX], by the rules for images' names; None for anything else."""
    try:
        reference = Reference.parse(f"{name}/image")
    except UsageError:
        return None
    prefix = reference.repository.rpartition("/")[0]
    host = name.partition("/")[0]
    # A first part without dot or port is no registry: `team` is docker.io/team.
    if reference.repository.startswith(f"{host}/") or reference.tag != "latest":
        return None
    written = name.partition("/")[2]
    return Mirror(registry_of(reference.registry), prefix if written else "")


class _Section:
    """One registry's table, read key by key."""

    def __init__(self, path: Path, name: str, fields: object) -> None:
        self._path = path
        self._name = name
        if not isinstance(fields, dict):
            self._wrong("is not a table", f'quote the name, it has dots: [registry."{name}"]')
        self._fields: dict[str, object] = fields

    def read(self) -> RegistryEntry:
        for key, value in self._fields.items():
            if key not in _KEYS:
                import difflib

                near = difflib.get_close_matches(key, _KEYS, n=1)
                table = isinstance(value, dict)  # [registry.docker.io]: TOML takes the dot for a table in a table
                hint = f'if it is part of the name, quote that: [registry."{self._name}.{key}"]' if table else ""
                self._wrong(f"has no setting {key!r}", f"did you mean {near[0]}?" if near else hint or _known())
        place = parse_place(self._name)
        if place is None or place.prefix:
            self._wrong("is not the name of a registry", "write HOST or HOST:PORT, as in the names of images")
        entry = RegistryEntry(
            registry=place.registry,
            mirrors=self._mirrors(),
            plain_http=self._flag("plain-http"),
            ca=self._certificates(),
            skip_verify=bool(self._flag("insecure-skip-verify")),
            identity=self._identity(),
        )
        if entry.plain_http and (entry.ca or entry.skip_verify or entry.identity):
            self._wrong("has plain-http = true, and settings for TLS too", "remove one or the other")
        return entry

    def _mirrors(self) -> tuple[Mirror, ...]:
        names = self._texts("mirrors")
        if len(names) > _MAX_MIRRORS:
            self._wrong(f"has more than {_MAX_MIRRORS} mirrors")
        return tuple(self._mirror(name) for name in names)

    def _mirror(self, name: str) -> Mirror:
        if "://" in name:
            bare = name.partition("://")[2].rstrip("/")
            hint = f'write {bare}; plain HTTP is said in a section of its own: [registry."{bare}"]'
            self._wrong(f"has the mirror {name!r}, which is an address", hint)
        place = parse_place(name.rstrip("/"))
        if place is None:
            self._wrong(f"has the mirror {name!r}, which is not the name of a registry", "write HOST[:PORT][/PREFIX]")
        return place

    def _certificates(self) -> tuple[Path, ...]:
        if isinstance(self._fields.get("ca"), str):
            return (self._path.parent / str(self._fields["ca"]),)
        return tuple(self._path.parent / name for name in self._texts("ca"))

    def _identity(self) -> tuple[Path, Path] | None:
        values = [self._fields.get(key) for key in ("client-cert", "client-key")]
        named = [value for value in values if isinstance(value, str) and value]
        if values == [None, None]:
            return None
        if len(named) < 2:
            self._wrong("needs client-cert and client-key together, the name of a file each")
        certificate, key = (self._path.parent / name for name in named)
        return certificate, key

    def _flag(self, key: str) -> bool | None:
        value = self._fields.get(key)
        if value is not None and not isinstance(value, bool):
            self._wrong(f"{key} is neither true nor false")
        return value

    def _texts(self, key: str) -> tuple[str, ...]:
        value = self._fields.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            self._wrong(f"{key} is not a list of names", f'for example {key} = ["..."]')
        return tuple(value)

    def _wrong(self, reason: str, hint: str = "") -> NoReturn:
        raise _invalid(self._path, f'[registry."{self._name}"] {reason}', hint)


def _known() -> str:
    return f"there are: {', '.join(_KEYS)}"


def _invalid(path: Path, reason: str, hint: str = "") -> UsageError:
    return UsageError(
        f"the configuration of registries {path} cannot be used: {reason}",
        code="registry-config-invalid",
        hint=hint or "mend or remove the file; see docs/registries.md",
    )
