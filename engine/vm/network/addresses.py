"""The guest's network as QEMU's user networking has it, and which addresses mean something of their own there."""

from __future__ import annotations

import functools
from pathlib import Path

GUEST, GATEWAY, RESOLVER = 0x0A00020F, 0x0A000202, 0x0A000203
"""10.0.2.15; 10.0.2.2, behind which is the host's loopback interface; 10.0.2.3, which answers names."""
HOST_NAME = "host.mbuild.internal"
"""The name of the gateway, where the policy opens it."""
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def parse_address(text: str) -> int | None:
    """An IPv4 address in four decimal parts as a number, or None."""
    import socket  # with selectors: plans need neither

    try:
        return int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big")
    except (OSError, ValueError):
        return None


def dotted(address: int) -> str:
    """The address as text."""
    import socket

    return socket.inet_ntoa(address.to_bytes(4, "big"))


def is_group(address: int) -> bool:
    """Multicast, broadcast and reserved (224.0.0.0 and above)."""
    return address >= 0xE0000000


def is_special(address: int) -> bool:
    """Never somewhere else: this network, any loopback address, groups, and the guest's own network.

    User networking would connect to 127.x and 0.x as they are, and leads every address of 10.0.2.x but the resolver's
    to the host's loopback (libslirp, sotranslate_out).
    """
    return address >> 24 in (0, 127) or is_group(address) or address >> 8 == GATEWAY >> 8


@functools.cache
def ephemeral_ports() -> range:
    """The ports of this host that the kernel gives to clients which ask for none (ip(7), ip_local_port_range)."""
    try:
        first, last = map(int, _EPHEMERAL.read_text().split())
    except (OSError, ValueError):
        first, last = 32768, 60999
    return range(first, last + 1)
