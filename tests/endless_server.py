"""A server whose answer never ends."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def endless_server(begins: bytes, goes_on: bytes, *, asked: threading.Event | None = None) -> Iterator[str]:
    """Answers each connection with some bytes and then, every 5 ms, some more; `asked` is set when it begins. Gives its
    address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            while not over.is_set():
                connection, _ = listening.accept()
                serving.append(threading.Thread(target=serve, args=(connection,)))
                serving[-1].start()

        def serve(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                connection.settimeout(10)
                connection.recv(1 << 16)
                connection.sendall(begins)
                if asked is not None:
                    asked.set()
                while not over.wait(0.005):
                    connection.sendall(goes_on)

        over, serving = threading.Event(), [threading.Thread(target=accept)]
        serving[0].start()
        host, port = listening.getsockname()
        try:
            yield f"http://{host}:{port}/"
        finally:
            over.set()
            socket.create_connection((host, port)).close()  # the last to be accepted
            for thread in serving:
                thread.join(15)
