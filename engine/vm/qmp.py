"""QEMU's machine protocol, as much of it as mbuild needs.

Source: QEMU's docs/interop/qmp-spec.rst.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable
from typing import Any


class QmpError(Exception):
    """QEMU refused a command, went away, or did not answer in time."""


def request(name: str, **arguments: Any) -> bytes:
    """A command as bytes. Underscores in argument names become dashes."""
    body: dict[str, Any] = {"execute": name}
    if arguments:
        body["arguments"] = {key.replace("_", "-"): value for key, value in arguments.items()}
    return json.dumps(body).encode() + b"\n"


class Qmp:
    """A session over a connected socket. `watch` is called often while waiting and may raise."""

    def __init__(self, end: socket.socket, watch: Callable[[], None]) -> None:
        self._socket = end
        self._watch = watch
        self._buffer = b""

    def command(self, name: str, *, timeout: float, fd: int | None = None, **arguments: Any) -> Any:
        """Run a command and give what it returns; `fd` is passed along with it. Raises QmpError."""
        deadline = time.monotonic() + timeout
        data = request(name, **arguments)
        try:
            socket.send_fds(self._socket, [data], [] if fd is None else [fd])
        except OSError as error:
            raise QmpError(f"{name}: {error.strerror}") from error
        while True:
            message = self._message(name, deadline)
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise QmpError(f"{name}: {message['error'].get('desc', 'no reason given')}")

    def skip(self, count: int, *, timeout: float) -> None:
        """Read the answers to commands that were sent without waiting. Raises QmpError when one failed."""
        deadline = time.monotonic() + timeout
        while count:
            message = self._message("a command", deadline)
            if "error" in message:
                raise QmpError(str(message["error"].get("desc", "no reason given")))
            count -= "return" in message

    def _message(self, name: str, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            self._watch()
            left = deadline - time.monotonic()
            if left <= 0:
                raise QmpError(f"{name}: no answer in time")
            if not select.select([self._socket], [], [], min(left, 0.05))[0]:
                continue
            data = self._socket.recv(65536)
            if not data:
                raise QmpError(f"{name}: QEMU closed the connection")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError as error:
            raise QmpError(f"{name}: an answer that is not JSON") from error
        if not isinstance(message, dict):
            raise QmpError(f"{name}: an answer that is no object")
        return message
