"""EXPOSE: ports and protocols."""

from __future__ import annotations

import ipaddress
import re

_PROTOCOLS = ("tcp", "udp", "sctp")


def parse_ports(text: str) -> tuple[str, ...]:
    """Read `80`, `80/udp`, `8000-8002/tcp`, and Docker's `[ip:]host:container`, into `PORT/PROTOCOL` each.

    Raises ValueError with what is wrong.
    """
    *before, port = text.rsplit(":", 2) if text.count(":") > 1 else text.split(":")
    port, _, protocol = port.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in _PROTOCOLS:
        raise ValueError(f"{protocol} is not a protocol")
    first, last = _range(port)
    if before and before[-1]:
        host_first, host_last = _range(before[-1])
        if host_last - host_first != last - first and last != first:
            raise ValueError(f"the ranges {before[-1]} and {port} differ in length")
    if len(before) == 2 and before[0]:
        ipaddress.ip_address(before[0].removeprefix("[").removesuffix("]"))
    return tuple(f"{number}/{protocol}" for number in range(first, last + 1))


def _range(text: str) -> tuple[int, int]:
    matched = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", text)
    if matched is None:
        raise ValueError(f"{text or 'nothing'} is not a port")
    first, last = int(matched[1]), int(matched[2] or matched[1])
    if last > 65535:
        raise ValueError("ports end at 65535")
    if last < first:
        raise ValueError(f"the range {text} runs backwards")
    return first, last
