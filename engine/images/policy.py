"""How patient and how trusting transfers are."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass


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
    slowest: int = 1024
    """Bytes a second, over `read_timeout`, below which a download counts as stuck."""
    progress: int = 1 << 20
    """Bytes after which a download that is cut counts its attempts anew."""
    largest_blob: int = 16 << 30


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """What is known of registries before they are asked."""

    insecure: frozenset[str] = frozenset()
    """Registries, `HOST` or `HOST:PORT`, that are spoken to in plain HTTP."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> RegistrySettings:
        """MBUILD_INSECURE_REGISTRIES: names with commas between them."""
        text = (os.environ if environ is None else environ).get("MBUILD_INSECURE_REGISTRIES", "")
        return cls(frozenset(name.strip() for name in text.split(",") if name.strip()))

    def is_plain(self, registry: str) -> bool:
        """Whether `HOST[:PORT]` is spoken to without TLS: one on this machine, or one the user named."""
        host = host_of(registry)
        return is_loopback(host) or registry in self.insecure or host in self.insecure


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
