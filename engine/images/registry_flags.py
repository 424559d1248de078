"""What the command line says about registries. It goes before the configuration file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from engine.images.reference import DEFAULT_REGISTRY
from engine.images.registry_config import Mirror, RegistryEntry, parse_place
from machinefile.errors import UsageError
from machinefile.values import dataclass

MIRROR, PLAIN_HTTP, AUTHORITY, CONFIG = "--registry-mirror", "--plain-http", "--registry-ca", "--registries-config"


@dataclass(frozen=True, slots=True)
class RegistryFlags:
    """The values of the four options, read."""

    mirrors: tuple[tuple[str, Mirror], ...] = ()
    """By registry, in the order in which they are asked."""
    plain: frozenset[str] = frozenset()
    authorities: tuple[tuple[str, Path], ...] = ()
    """Certificates by registry."""
    config: Path | None = None
    """In place of the configuration file that the environment names."""

    @classmethod
    def parse(
        cls, mirrors: Sequence[str] = (), plain: Sequence[str] = (), authorities: Sequence[str] = (), config: str = ""
    ) -> RegistryFlags:
        """Read `[REGISTRY=]HOST[:PORT][/PREFIX]`, `HOST[:PORT]`, `HOST[:PORT]=FILE` and a path.

        Raises UsageError (`usage`).
        """
        insecure = frozenset(_registry(name, PLAIN_HTTP, "HOST[:PORT]") for name in plain)
        trusted = tuple(_authority(text) for text in authorities)
        for name, _ in trusted:
            if name in insecure:
                raise UsageError(
                    f"{PLAIN_HTTP} and {AUTHORITY} name {name} both", code="usage", hint="leave one of them out"
                )
        return cls(tuple(_mirror(text) for text in mirrors), insecure, trusted, Path(config) if config else None)

    def over(self, entries: Iterable[RegistryEntry]) -> tuple[RegistryEntry, ...]:
        """The entries of the configuration file with these put before them."""
        merged = {entry.registry: entry for entry in entries}
        for name, place in reversed(self.mirrors):
            entry = merged.get(name) or RegistryEntry(name)
            merged[name] = replace(entry, mirrors=(place, *(one for one in entry.mirrors if one != place)))
        for name, file in self.authorities:
            entry = merged.get(name) or RegistryEntry(name)
            # Whoever names a certificate wants TLS, and wants it checked.
            merged[name] = replace(entry, ca=(*entry.ca, file), plain_http=False, skip_verify=False)
        return tuple(merged.values())


def _mirror(text: str) -> tuple[str, Mirror]:
    """Without a registry it is for the default one, as with other tools' option of that name."""
    name, equals, written = text.rpartition("=")
    form = "REGISTRY=HOST[:PORT][/PREFIX]"
    registry = _registry(name, MIRROR, form) if equals else DEFAULT_REGISTRY
    place = parse_place(written.rstrip("/"))
    if place is None:
        scheme, _, bare = written.rpartition("://")
        hint = f"write {bare.rstrip('/')}" + (f", and {PLAIN_HTTP} for plain HTTP" if scheme == "http" else "")
        raise _wrong(MIRROR, text, form, hint if scheme else "")
    return registry, place


def _authority(text: str) -> tuple[str, Path]:
    name, equals, file = text.partition("=")
    form = "HOST[:PORT]=FILE"
    if not equals or not file:
        raise _wrong(AUTHORITY, text, form)
    return _registry(name, AUTHORITY, form), Path(file)


def _registry(name: str, option: str, form: str) -> str:
    place = parse_place(name)
    if place is None or place.prefix:
        raise _wrong(option, name, form)
    return place.registry


def _wrong(option: str, text: str, form: str, hint: str = "") -> UsageError:
    return UsageError(f"{option} {text}: this is not {form}", code="usage", hint=hint or "see docs/registries.md")
