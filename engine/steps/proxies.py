"""Proxies of the host as a step sees them."""

from __future__ import annotations

from engine.vm.network.addresses import GATEWAY, HOST_NAME, dotted, parse_address
from machinefile.imageconfig import Pairs

_PORTS = {"http": 80, "https": 443}
_OTHER_PORT = 1080


def for_guest(proxy: Pairs) -> tuple[Pairs, frozenset[int]]:
    """The settings with the host's loopback interface called what it is in a guest, and the ports of it they name."""
    found: list[tuple[str, str]] = []
    ports: set[int] = set()
    for name, value in proxy:
        rewritten, port = (value, None) if name.upper() == "NO_PROXY" else _for_guest(value)
        found.append((name, rewritten))
        if port is not None:
            ports.add(port)
    return tuple(found), frozenset(ports)


def _for_guest(value: str) -> tuple[str, int | None]:
    """A proxy's URL, and its port if it is on the host's loopback interface."""
    scheme, separator, rest = value.rpartition("://")
    authority, slash, path = rest.partition("/")
    user, at, place = authority.rpartition("@")
    host, _, port_text = place.rpartition(":") if place.rpartition("]")[2].count(":") else (place, "", "")
    if not _is_loopback(host.strip("[]").lower()):
        return value, None
    port = int(port_text) if port_text.isascii() and port_text.isdigit() else _PORTS.get(scheme.lower(), _OTHER_PORT)
    colon = f":{port_text}" if port_text else ""
    return f"{scheme}{separator}{user}{at}{dotted(GATEWAY)}{colon}{slash}{path}", port


def _is_loopback(host: str) -> bool:
    if host in ("localhost", "::1", HOST_NAME):
        return True
    address = parse_address(host)
    return address is not None and (address >> 24 == 127 or address == GATEWAY)
