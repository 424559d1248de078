"""--add-host."""

from __future__ import annotations

import re

from machinefile.errors import UsageError
from machinefile.imageconfig import Pairs

HOST_GATEWAY = "host-gateway"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,253}")
_HINT = "write it as --add-host NAME:ADDRESS; the host itself is --add-host NAME:host-gateway"


def parse_hosts(values: list[str]) -> Pairs:
    """`NAME=ADDRESS` or `NAME:ADDRESS`, an IPv6 address also in brackets, each once, in the order given.

    Raises UsageError (`bad-host`).
    """
    if not values:
        return ()
    import ipaddress  # slow to import, and most builds have no use for it

    found: dict[tuple[str, str], None] = {}
    for value in values:
        name, _, text = value.partition("=" if "=" in value else ":")
        address = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        if not _NAME.fullmatch(name):
            raise UsageError(f"--add-host {value}: {name or 'nothing'} is no name", code="bad-host", hint=_HINT)
        if address != HOST_GATEWAY:
            try:
                address = str(ipaddress.ip_address(address))
            except ValueError:
                reason = f"{text or 'nothing'} is no address"
                raise UsageError(f"--add-host {value}: {reason}", code="bad-host", hint=_HINT) from None
        found[name, address] = None
    return tuple(found)
