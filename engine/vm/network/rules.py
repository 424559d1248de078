"""What a step may reach: the rules of --allow-net, and what is opened beside them."""

from __future__ import annotations

import re

from engine.vm.network.addresses import GATEWAY, HOST_NAME, is_special, parse_address
from machinefile.errors import UsageError
from machinefile.hosts import HOST_GATEWAY
from machinefile.values import dataclass

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")
_HINT = "write it as NAME, *.NAME, ADDRESS or ADDRESS/BITS, with :PORT for a single port"


@dataclass(frozen=True, slots=True)
class Rule:
    """One --allow-net: a name or addresses, and a port or all."""

    name: str = ""
    """In lower case; `*.x` for everything below x; `*` for everything. Empty for addresses."""
    network: int = 0
    bits: int = 32
    """How many of the address's first bits count."""
    port: int | None = None
    """None for all ports."""

    def allows_name(self, name: str) -> bool:
        """Whether a name, in lower case, may be looked up."""
        if self.name.startswith("*"):
            return name.endswith(self.name[1:]) and name != self.name[2:]
        return bool(self.name) and name == self.name

    def allows_address(self, address: int, port: int | None) -> bool:
        """Whether an address may be reached at a port, or at all of them (None)."""
        if self.port is not None and port != self.port:
            return False
        if self.name or (address == GATEWAY and self.bits != 32):  # a wide net does not catch the host
            return self.name == "*" and address != GATEWAY
        return (address ^ self.network) >> (32 - self.bits) == 0


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """What the steps of a build may reach."""

    rules: tuple[Rule, ...] | None = None
    """Only what these allow; None for everything but the host's loopback interface."""
    host_network: bool = False
    """Whether a RUN may have --network=host: the host's loopback interface, at the gateway."""


def parse_rule(text: str) -> Rule:
    """The value of an --allow-net. Raises UsageError (`bad-allow-net`)."""
    if text.count(":") > 1:
        raise _bad(text, "a guest has IPv4 only")
    host, colon, port_text = text.partition(":")
    port = _port(text, port_text) if colon else None
    host = host.lower()
    if not host.startswith("*"):
        host = host.removesuffix(".")
    if host in (HOST_NAME, HOST_GATEWAY):
        return Rule(network=GATEWAY, port=port)
    if host == "*" or (_NAME.fullmatch(host) and len(host) < 254 and not _numeric(host)):
        return Rule(name=host, port=port)
    address_text, slash, bits_text = host.partition("/")
    address = parse_address(address_text)
    if address is None or (slash and not (bits_text.isascii() and bits_text.isdigit() and int(bits_text) <= 32)):
        raise _bad(text, "it is neither a name nor an IPv4 address")
    bits = int(bits_text) if slash else 32
    if bits == 32 and is_special(address) and address != GATEWAY:
        raise UsageError(
            f"--allow-net {text}: this address never leads out of a guest",
            code="bad-allow-net",
            hint=f"the host's own loopback interface is {HOST_NAME}",
        )
    shift = 32 - bits
    return Rule(network=address >> shift << shift, bits=bits, port=port)


def _numeric(host: str) -> bool:
    return host.replace(".", "").isdigit()


def _port(text: str, port: str) -> int:
    if not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 1 << 16):
        raise _bad(text, f"{port or 'nothing'} is no port")
    return int(port)


def _bad(text: str, reason: str) -> UsageError:
    return UsageError(f"--allow-net {text}: {reason}", code="bad-allow-net", hint=_HINT)
