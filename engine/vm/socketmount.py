"""Sockets of a guest that lead to sockets of this machine."""

from __future__ import annotations

from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class SocketMount:
    """A socket of the guest that leads to a socket of this machine."""

    target: str
    """Absolute, in the root; made if it is missing."""
    address: str
    """The path of the socket here."""
    mode: int = 0o600
    uid: int = 0
    gid: int = 0
    screen: type[Screen] | None = None
    """Looks through what the guest sends, one a connection."""


class Screen:
    """Passes on what a guest sends over one connection; one that changes it is derived from this."""

    def pass_on(self, data: bytes) -> bytes:
        """What is sent in place of `data`; it need not be as long, and may be kept back for the next."""
        return data
