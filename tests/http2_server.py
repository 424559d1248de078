"""A server that speaks HTTP/2 over TLS, and ends exchanges in every way that HTTP/2 has."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.exceptions


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    announced: int | None = None
    """The Content-Length, if it is not the truth."""
    reset: bool = False
    """Reset the stream after the body, in place of ending it."""
    leave: bool = False
    """Say goodbye (GOAWAY) after the body, and hang up."""
    early: bool = False
    """Answer as soon as the request's headers are there, then reset its stream without an error."""
    pings: bool = False
    """Never answer, and ask for signs of life without end."""


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    connection: int
    """Which one, counted from 0."""


class Http2Server:
    """A context manager; `answer` says what to answer."""

    def __init__(self, context: ssl.SSLContext, answer: Callable[[Asked], Answer]) -> None:
        context.set_alpn_protocols(["h2"])
        self._context = context
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept)]
        self.seen: list[Asked] = []
        self.connections = 0

    def __enter__(self) -> Http2Server:
        self._threads[0].start()
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with self._lock:
            for one in self._open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._socket.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self._socket.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(raw, self.connections))
            self.connections += 1
            self._threads.append(thread)
            thread.start()

    def _serve(self, raw: socket.socket, number: int) -> None:
        raw.settimeout(30)
        try:
            with self._context.wrap_socket(raw, server_side=True) as stream:
                with self._lock:
                    self._open.add(stream)
                try:
                    _Connection(self, stream, number, self._answer).run()
                finally:
                    with self._lock:
                        self._open.discard(stream)
        except (OSError, h2.exceptions.ProtocolError):
            pass  # the client may well hang up
        finally:
            raw.close()


class _Connection:
    def __init__(
        self, server: Http2Server, stream: ssl.SSLSocket, number: int, answer: Callable[[Asked], Answer]
    ) -> None:
        self._server = server
        self._stream = stream
        self._number = number
        self._answer = answer
        self._state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self._left: dict[int, tuple[Answer, bytes]] = {}
        self._asked: dict[int, Asked] = {}
        self._answers: dict[int, Answer] = {}
        self._leaving = False

    def run(self) -> None:
        self._state.initiate_connection()
        self._flush()
        while not self._leaving:
            data = self._stream.recv(1 << 16)
            if not data:
                return
            for event in self._state.receive_data(data):
                self._take(event)
            for number in list(self._left):
                self._send(number)
            self._flush()

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            fields = dict(event.headers or ())
            asked = Asked(fields.pop(":method"), fields.pop(":path"), fields, self._number)
            self._server.seen.append(asked)
            self._asked[event.stream_id] = asked
            answer = self._answers[event.stream_id] = self._answer(asked)
            while answer.pings:  # until the client hangs up
                self._state.ping(bytes(8))
                self._flush()
                time.sleep(0.005)
            if answer.early:
                self._begin(event.stream_id, answer)
                self._send(event.stream_id)
                self._state.reset_stream(event.stream_id, 0)
        elif isinstance(event, h2.events.DataReceived):
            if event.flow_controlled_length and not self._answers[event.stream_id].early:
                self._state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            answer = self._answers[event.stream_id]
            if not answer.early:
                self._begin(event.stream_id, answer)

    def _begin(self, number: int, answer: Answer) -> None:
        length = len(answer.body) if answer.announced is None else answer.announced
        headers = [(":status", str(answer.status)), ("content-length", str(length))]
        headers += [(name.lower(), value) for name, value in answer.headers.items()]
        is_head = self._asked[number].method == "HEAD"
        self._state.send_headers(number, headers, end_stream=is_head)
        if not is_head:
            self._left[number] = (answer, answer.body)

    def _send(self, number: int) -> None:
        answer, body = self._left[number]
        while body:
            size = min(self._state.local_flow_control_window(number), self._state.max_outbound_frame_size, len(body))
            if not size:
                self._left[number] = (answer, body)
                return
            self._state.send_data(number, body[:size])
            body = body[size:]
        del self._left[number]
        if answer.leave:
            self._state.close_connection()
            self._leaving = True
        elif answer.reset:
            self._state.reset_stream(number, 2)
        else:
            self._state.end_stream(number)

    def _flush(self) -> None:
        self._stream.sendall(self._state.data_to_send())
