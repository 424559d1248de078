"""How patient and how trusting transfers are."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.images import registry_config
from engine.images.reference import endpoint_of, registry_of
from engine.images.registry_config import Mirror, RegistryEntry

_CERTIFICATES = (Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))
"""Where podman and Docker look for the certificates of a registry: in a folder named HOST[:PORT], every `*.crt`."""


@dataclass(frozen=True, slots=True)
class TransferPolicy:
    """Times in seconds, sizes in bytes."""

    attempts: int = 5
    """Tries in a row without progress."""
    connect_attempts: int = 2
    """Tries while nothing answers at all."""
    backoff: float = 0.5
    """Before the second try; doubles each time."""
    longest_wait: float = 60.0
    """A registry that asks for more patience than this is given up."""
    connect_timeout: float = 15.0
    read_timeout: float = 30.0
    """Without a single byte."""
    small_deadline: float = 60.0
    """For a manifest, a configuration or a token as a whole."""
    commit_timeout: float = 300.0
    """For a registry to say that it has put away what was pushed: it may copy gigabytes first."""
    slowest: int = 1024
    """Bytes a second, over `read_timeout`, below which a download counts as stuck."""
    progress: int = 1 << 20
    """Bytes after which a download that is cut counts its attempts anew."""
    largest_blob: int = 16 << 30


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom TLS believes."""

    authorities: tuple[Path, ...] = ()
    """Certificates beside those of the system."""
    verify: bool = True


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """What is known of registries before they are asked."""

    insecure: frozenset[str] = frozenset()
    """Registries, `HOST` or `HOST:PORT`, that are spoken to in plain HTTP."""
    entries: tuple[RegistryEntry, ...] = ()
    """What the configuration file says."""
    certificate_folders: tuple[Path, ...] = ()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> RegistrySettings:
        """MBUILD_INSECURE_REGISTRIES: names with commas between them; and the configuration file.

        Raises UsageError (`registry-config-invalid`).
        """
        text = (os.environ if environ is None else environ).get("MBUILD_INSECURE_REGISTRIES", "")
        names = frozenset(name.strip() for name in text.split(",") if name.strip())
        return cls(names, registry_config.load(environ), _CERTIFICATES)

    def is_plain(self, registry: str) -> bool:
        """Whether `HOST[:PORT]` is spoken to without TLS: what the user said, else one on this machine."""
        host = host_of(registry)
        if registry in self.insecure or host in self.insecure:
            return True
        entry = self._entry(registry)
        if entry is not None and entry.plain_http is not None:
            return entry.plain_http
        return is_loopback(host)

    def mirrors(self, registry: str) -> tuple[Mirror, ...]:
        """Where to pull from before the registry itself is asked."""
        entry = self._entry(registry)
        return entry.mirrors if entry is not None else ()

    def trust(self, registry: str) -> Trust:
        """Whose certificates count for `HOST[:PORT]`."""
        entry = self._entry(registry) or RegistryEntry(registry)
        names = sorted({registry, registry_of(registry)})
        listed = [
            file for folder in self.certificate_folders for name in names for file in _certificates(folder / name)
        ]
        return Trust((*entry.ca, *listed), verify=not entry.skip_verify)

    def _entry(self, registry: str) -> RegistryEntry | None:
        """Addresses leave out TLS's own port, where the name of an image may have it."""
        names = {registry, f"{registry}:443"}
        return next((one for one in self.entries if names & {one.registry, endpoint_of(one.registry)}), None)


def _certificates(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".crt")
    except OSError:  # hardly anybody has such a folder; one that we may not look into is not ours
        return []


def host_of(registry: str) -> str:
    """`HOST[:PORT]` in lower case without the port, and without the brackets of an IPv6 address."""
    if registry.startswith("["):
        return registry[1:].partition("]")[0].lower()
    return registry.partition(":")[0].lower()


def is_loopback(host: str) -> bool:
    """Whether the host is this machine, by its name alone."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
