"""Ports of this machine that lead into a guest."""

from __future__ import annotations

import socket

from machinefile.errors import HostError
from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class PortForward:
    """A port here, and the guest's that it leads to."""

    guest: int
    host: int
    address: str = "127.0.0.1"
    """Of this machine: where it can be reached."""
    udp: bool = False

    def __str__(self) -> str:
        return f"{self.address}:{self.host}:{self.guest}" + ("/udp" if self.udp else "")

    @property
    def option(self) -> str:
        """As QEMU's user network takes it."""
        return f"hostfwd={'udp' if self.udp else 'tcp'}:{self.address}:{self.host}-:{self.guest}"

    def check_free(self) -> None:
        """QEMU only dies of a port that is taken. Raises HostError `port-taken`."""
        kind = socket.SOCK_DGRAM if self.udp else socket.SOCK_STREAM
        with socket.socket(socket.AF_INET, kind) as probe:
            if not self.udp:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.address, self.host))
            except OSError as error:
                raise HostError(
                    f"port {self.host} of {self.address} cannot be had for -p {self}: {error.strerror}",
                    code="port-taken",
                    hint="choose another with -p HOST:GUEST, or stop what listens there",
                ) from error
