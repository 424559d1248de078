"""How patient and how trusting transfers are."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path

from engine.images import registry_config
from engine.images.reference import endpoint_of, registry_of
from engine.images.registry_config import Mirror, RegistryEntry
from engine.images.registry_flags import RegistryFlags
from machinefile.errors import UsageError
from machinefile.values import dataclass

_CERTIFICATES = (Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))
"""Where podman and Docker look for the certificates of a registry: in a folder named HOST[:PORT], every `*.crt` is an
authority's, and every `*.cert` with its `*.key` one that a client shows."""
_NO_FLAGS = RegistryFlags()


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
    """Whom TLS believes, and who we are to it."""

    authorities: tuple[Path, ...] = ()
    """Certificates beside those of the system."""
    verify: bool = True
    identities: tuple[tuple[Path, Path], ...] = ()
    """Certificates that we show when we are asked for one, each with its key; the first has precedence."""


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """What is known of registries before they are asked."""

    insecure: frozenset[str] = frozenset()
    """Registries, `HOST` or `HOST:PORT`, that are spoken to in plain HTTP."""
    entries: tuple[RegistryEntry, ...] = ()
    """What the configuration file says."""
    certificate_folders: tuple[Path, ...] = ()

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str] | None = None, flags: RegistryFlags = _NO_FLAGS
    ) -> RegistrySettings:
        """MBUILD_INSECURE_REGISTRIES: names with commas between them; and the configuration file. `flags` go first.

        Raises UsageError (`registry-config-invalid`).
        """
        text = (os.environ if environ is None else environ).get("MBUILD_INSECURE_REGISTRIES", "")
        names = frozenset(name.strip() for name in text.split(",") if name.strip())
        entries = flags.over(registry_config.load(environ, flags.config))
        return cls(names - {name for name, _ in flags.authorities} | flags.plain, entries, _CERTIFICATES)

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
        folders = [folder / name for folder in self.certificate_folders for name in names]
        listed = [file for folder in folders for file in _files(folder, ".crt")]
        own = (entry.identity,) if entry.identity is not None else ()
        found = [pair for folder in folders for pair in _identities(folder)]
        return Trust((*entry.ca, *listed), not entry.skip_verify, (*own, *found))

    def _entry(self, registry: str) -> RegistryEntry | None:
        """Addresses leave out TLS's own port, where the name of an image may have it."""
        names = {registry, f"{registry}:443"}
        return next((one for one in self.entries if names & {one.registry, endpoint_of(one.registry)}), None)


def _files(folder: Path, suffix: str) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == suffix)
    except OSError:  # hardly anybody has such a folder; one that we may not look into is not ours
        return []


def _identities(folder: Path) -> list[tuple[Path, Path]]:
    """Certificates with their keys, less those that are for root alone. Source: Docker's ReadCertsDirectory.

    Raises UsageError (`registry-config-invalid`) for a certificate without a key.
    """
    found = []
    for certificate in _files(folder, ".cert"):
        key = certificate.with_suffix(".key")
        if not key.exists():
            raise UsageError(
                f"the certificate {certificate} has no key: there is no {key.name} beside it",
                code="registry-config-invalid",
                hint="put its key there; the certificate of an authority must be called *.crt",
            )
        if os.access(certificate, os.R_OK) and os.access(key, os.R_OK):
            found.append((certificate, key))
    return found


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
