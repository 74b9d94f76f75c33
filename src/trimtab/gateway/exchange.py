"""One request as the application sees it, and the only way to answer it.

The boundary: what was asked, and the bytes of an answer; sockets, parsing and limits are `server`'s. An application is
called once with each exchange and returns at once. It answers there and then, or later from a callback: the exchange
is over with the last byte of its answer, or when the server calls `abandoned` because nobody waits for it any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Protocol

import msgspec

from trimtab.gateway.keys import Key
from trimtab.gateway.shapes import Fault

JSON = b"application/json"
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_STARTS: dict[tuple[int, bytes], bytes] = {}  # status lines with their content type, up to the date
_MOST_STARTS = 256


class Clock(Protocol):
    """What an exchange needs of the server: the Date header as a line, and whether it is about to stop."""

    date: bytes
    draining: bool


class Wire(Protocol):
    """What an exchange needs of its connection."""

    peer: str
    lost: bool
    behind: bool

    @property
    def server(self) -> Clock:
        """Whose connection it is."""
        ...

    def write(self, data: bytes) -> None:
        """Send bytes; to a client that is gone they are lost."""
        ...

    def answered(self, exchange: Exchange) -> None:
        """Hear that an exchange has sent its last byte."""
        ...


class Head:
    """Line and headers of a request. `known` is what the application made of them: good for every request with the
    same head on this connection."""

    __slots__ = ("chunked", "credit", "headers", "keep_alive", "known", "method", "path")

    def __init__(self) -> None:
        self.method = self.path = ""
        self.headers: dict[bytes, bytes] = {}
        self.keep_alive = False
        self.chunked = True  # False for a client of HTTP/1.0: its answer ends with the connection
        self.known: Any = None
        self.credit = 512
        """Above 0: requests with it may be tried on the fast path (`fast_path`)."""


class Exchange(msgspec.Struct, eq=False):
    """One request, and the only way to answer it."""

    wire: Wire
    head: Head
    body: bytes
    keep_alive: bool
    """Whether the connection goes on behind the answer."""
    at: float = msgspec.field(default_factory=time.perf_counter)
    """When it was whole."""
    fault: Fault | None = None
    """What the server has against it: it is no request then."""
    key: Key | None = None
    """Whose request it is, once that was checked."""
    started: bool = False
    """Whether a streamed answer has begun."""
    status: int = 0
    """Of the answer, once there is one."""
    abandoned: Callable[[], None] | None = None
    """Called when nobody waits for the answer any more: then none may be sent."""
    caught_up: Callable[[], None] | None = None
    """Called when a client that was `behind` has read enough."""

    @property
    def path(self) -> str:
        """What is asked for, without a query."""
        return self.head.path

    @property
    def method(self) -> str:
        """GET, POST, …"""
        return self.head.method

    @property
    def headers(self) -> dict[bytes, bytes]:
        """By lower-case name. Shared by requests whose heads differ in Content-Length only: that is the first one's.
        Nothing here may be changed."""
        return self.head.headers

    @property
    def peer(self) -> str:
        """The client's address."""
        return self.wire.peer

    @property
    def hung_up(self) -> bool:
        """Whether the client is gone."""
        return self.wire.lost

    @property
    def behind(self) -> bool:
        """Whether the client reads too slowly: a streamed answer waits for `caught_up`."""
        return self.wire.behind

    def aside(self) -> Exchange:
        """The same request once more, for what is done with it after it was answered: nothing may be sent on it."""
        return Exchange(self.wire, self.head, self.body, False)

    def reply(self, status: int, body: bytes, headers: bytes = b"", content_type: bytes = JSON) -> None:
        """Send a whole answer. `headers` are complete lines."""
        head = b"%b%bcontent-length: %d\r\n\r\n" % (self._start(status, content_type), headers, len(body))
        self.wire.write(head if self.head.method == "HEAD" else head + body)
        self.wire.answered(self)

    def start(self, headers: bytes, content_type: bytes, first: bytes = b"") -> None:
        """Begin a streamed answer with status 200, with its first piece. A client of HTTP/1.0 gets it unframed."""
        self.started = True
        framing = b"transfer-encoding: chunked\r\n\r\n" if self.head.chunked else b"\r\n"
        self.wire.write(self._start(200, content_type) + headers + framing + self._framed(first))

    def send(self, data: bytes) -> None:
        """Send a piece of a streamed answer. Look at `behind` afterwards."""
        self.wire.write(b"%x\r\n%b\r\n" % (len(data), data) if self.head.chunked else data)

    def end(self, data: bytes, whole: bool = True) -> None:
        """Send the last piece. Not `whole`: the stream is left open-ended, so that the client cannot mistake it."""
        data = self._framed(data)
        self.keep_alive = self.keep_alive and whole
        self.wire.write(data + b"0\r\n\r\n" if whole and self.head.chunked else data)
        self.wire.answered(self)

    def _framed(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if data and self.head.chunked else data

    def _start(self, status: int, content_type: bytes) -> bytes:
        """An answer's line and first headers."""
        self.status = status
        wire = self.wire
        start = _STARTS.get((status, content_type)) or _start(status, content_type)
        if self.keep_alive and not wire.server.draining:
            return start + wire.server.date
        self.keep_alive = False
        return start + wire.server.date + b"connection: close\r\n"


def _start(status: int, content_type: bytes) -> bytes:
    reason = _REASONS.get(status, b"Unknown")
    start = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\n" % (status, reason, content_type)
    if len(_STARTS) < _MOST_STARTS:
        _STARTS[status, content_type] = start
    return start
