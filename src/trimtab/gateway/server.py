"""HTTP/1.1 for clients: one asyncio Protocol, parsed by httptools, that hands whole requests to an application.

The boundary: sockets, framing, limits and timeouts are here; what a request means is the application's. Requests on
one connection are answered in order. The application never sees a request that broke a limit as a request: it gets
an `Exchange` whose `fault` says what to answer.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import cast

import httptools

from trimtab.gateway.keys import Key
from trimtab.gateway.shapes import Fault

HEAD_BYTES = 32 * 1024
"""Most bytes of a request's line and headers."""
BODY_BYTES = 1024 * 1024
"""Most bytes of a request's body."""
QUEUE = 16
"""Most requests a client may pipeline before it is not read from."""
READ_SECONDS = 20.0
"""A request must have come whole this long after its first byte."""
IDLE_SECONDS = 75.0
"""A connection without a request is closed after this long."""
WRITE_SECONDS = 20.0
"""A client that has sent more requests must read its answers; it is let go when it takes none for this long."""
LINGER_SECONDS = 1.0
"""After a refusal the client may still be sending: closing at once would reset the connection under the answer."""
WRITE_BUFFER = 256 * 1024
"""Bytes a slow client may leave unread before the application has to wait."""

log = logging.getLogger("trimtab.gateway")

JSON = b"application/json"
_ONCE = frozenset((b"host", b"content-length", b"transfer-encoding", b"authorization"))
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


class Exchange:
    """One request, and the only way to answer it."""

    __slots__ = (
        "_connection",
        "at",
        "body",
        "chunked",
        "fault",
        "headers",
        "keep_alive",
        "key",
        "method",
        "path",
        "peer",
        "started",
        "status",
    )

    def __init__(self, connection: Connection, peer: str) -> None:
        self._connection = connection
        self.peer = peer
        self.method = self.path = ""
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.fault: Fault | None = None
        self.key: Key | None = None  # whose request it is, once that was checked
        self.keep_alive = False
        self.started = False
        self.chunked = True  # False for a client of HTTP/1.0: its answer ends with the connection
        self.at = 0.0  # perf_counter when it was whole
        self.status = 0  # of the answer, once there is one

    @property
    def hung_up(self) -> bool:
        """Whether the client is gone."""
        return self._connection.lost

    def aside(self) -> Exchange:
        """The same request once more, for what is done with it after it was answered: nothing may be sent on it."""
        copy = Exchange(self._connection, self.peer)
        copy.method, copy.path, copy.headers, copy.body = self.method, self.path, self.headers, self.body
        copy.at = time.perf_counter()
        return copy

    def reply(self, status: int, body: bytes, headers: bytes = b"", content_type: bytes = JSON) -> None:
        """Send a whole answer. `headers` are complete lines."""
        head = self._head(status, content_type, headers) + b"content-length: %d\r\n\r\n" % len(body)
        self._connection.write(head if self.method == "HEAD" else head + body)

    def start(self, headers: bytes, content_type: bytes) -> None:
        """Begin a streamed answer with status 200. A client of HTTP/1.0 gets it unframed."""
        self.started = True
        framing = b"transfer-encoding: chunked\r\n\r\n" if self.chunked else b"\r\n"
        self._connection.write(self._head(200, content_type, headers) + framing)

    async def send(self, data: bytes) -> None:
        """Send a piece of a streamed answer; waits while the client does not read."""
        self._connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)
        await self._connection.drain()

    def end(self, data: bytes, whole: bool = True) -> None:
        """Send the last piece. Not `whole`: the stream is left open-ended, so that the client cannot mistake it."""
        if self.chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data) + (b"0\r\n\r\n" if whole else b"")
        self.keep_alive = self.keep_alive and whole
        self._connection.write(data)

    def _head(self, status: int, content_type: bytes, headers: bytes) -> bytes:
        self.status = status
        self.keep_alive = self.keep_alive and not self._connection.draining
        return b"HTTP/1.1 %d %b\r\ndate: %b\r\ncontent-type: %b\r\n%b%b" % (
            status,
            _REASONS.get(status, b"Unknown"),
            self._connection.date,
            content_type,
            headers,
            b"" if self.keep_alive else b"connection: close\r\n",
        )


Application = Callable[[Exchange], Awaitable[None]]


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[Exchange] = deque()
        self._task: asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._peer = ""
        self._reading: Exchange | None = None
        self._head_done = self._deaf = self._paused = False
        self._head_size = self._body_size = self._raw_size = 0
        self._url = b""
        self._body: list[bytes] = []
        self.lost = False
        self.expires = 0.0

    @property
    def draining(self) -> bool:
        """Whether the gateway is about to stop."""
        return self._server.draining

    @property
    def date(self) -> bytes:
        """Now, for the Date header; to the second."""
        return self._server.date

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but inheritance
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER)
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else ""
        self.expires = self._server.now() + IDLE_SECONDS
        self._server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Bytes came. After a refusal they are thrown away."""
        if self._deaf:
            return
        self._raw_size += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, Fault) else Fault(400, "invalid_http", "not a valid request"))
        except httptools.HttpParserError as error:
            self._refuse(_invalid(str(error)))
        else:
            self._check_unfinished()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone: what was being done for it stops."""
        self.lost = True
        del self._parser  # the two hold each other, and would both wait for a garbage collection that is rare here
        self._server.connections.discard(self)
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """The client has caught up."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # What httptools calls

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._reading = Exchange(self, self._peer)
        self._head_done = False
        self._head_size = self._body_size = 0
        self._url, self._body = b"", []
        self.expires = self._server.now() + READ_SECONDS

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        self._url += url
        self._grow_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer behind a chunked body: those are not looked at."""
        self._grow_head(len(name) + len(value) + 4)
        if not self._head_done:
            assert self._reading is not None  # noqa: S101 (on_message_begin came first)
            name, headers = name.lower(), self._reading.headers
            if name in headers:  # RFC 9110 section 5.2: a list, and of these headers a list is never good
                if name in _ONCE:
                    raise _invalid(f"{name.decode('latin-1')} is there more than once")
                value = headers[name] + b", " + value
            headers[name] = value

    def on_headers_complete(self) -> None:
        """Line and headers are whole."""
        exchange = self._reading
        assert exchange is not None  # noqa: S101 (on_message_begin came first)
        self._head_done = True
        exchange.method = self._parser.get_method().decode("ascii")
        exchange.path = self._url.partition(b"?")[0].decode("latin-1")
        _check_framing(self._parser.get_http_version(), exchange.headers)
        if self._parser.should_upgrade():
            if exchange.method == "CONNECT":
                raise _invalid("this is no proxy to CONNECT through")
            return  # it comes again, without
        if int(exchange.headers.get(b"content-length", b"0")) > BODY_BYTES:
            raise _too_large()
        if exchange.headers.get(b"expect", b"").lower() == b"100-continue" and self._task is None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._body.append(data)
        self._body_size += len(data)
        if self._body_size > BODY_BYTES:
            raise _too_large()

    def on_message_complete(self) -> None:
        """The request is whole. Only here does the parser know whether the connection stays open."""
        if self._parser.should_upgrade():
            return
        exchange = self._reading
        assert exchange is not None  # noqa: S101 (on_message_begin came first)
        self._reading, self._raw_size = None, 0
        exchange.chunked = self._parser.get_http_version() != "1.0"
        exchange.keep_alive = self._parser.should_keep_alive() and exchange.chunked
        exchange.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._take(exchange)

    # What exchanges call

    def write(self, data: bytes) -> None:
        """Send bytes; to a client that is gone they are lost."""
        if not self.lost:
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the client has read enough."""
        if self._writable is not None:
            await self._writable

    # What the server calls

    def expire(self) -> None:
        """Too long idle, too long reading, or too long closing."""
        if self._task is not None:
            self.expires = float("inf")  # the application has a deadline of its own; reading goes on behind it
        elif self._deaf:
            self._transport.abort()
        elif self._reading is not None:
            self._refuse(Fault(408, "request_timeout", f"the request did not come whole within {READ_SECONDS:g} s"))
        else:
            self._close()

    def finish(self) -> None:
        """Close, unless an answer is in progress."""
        if not self._deaf and (self._task is None or self._task.done()):
            self._close()

    def cut(self) -> None:
        """Stop the answer in progress."""
        if self._task is not None:
            self._task.cancel()

    # Inside

    def _feed(self, data: bytes) -> None:
        """Parse. A wish to upgrade is passed over, as RFC 9110 section 7.8 allows.

        The parser takes what follows such a head for another protocol, its body too, which would then be read as the
        next request: so a new parser is told the same head without the wish.
        """
        rest = memoryview(data)
        while True:
            try:
                self._parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest, again = rest[upgrade.args[0] :], self._without_upgrade()
                self._parser = httptools.HttpRequestParser(self)
                self._parser.feed_data(again)
            else:
                return

    def _without_upgrade(self) -> bytes:
        exchange = self._reading
        assert exchange is not None  # noqa: S101 (its head was just read)
        lines = b"".join(b"%b: %b\r\n" % line for line in exchange.headers.items() if line[0] != b"upgrade")
        version = self._parser.get_http_version().encode()
        return b"%b %b HTTP/%b\r\n%b\r\n" % (exchange.method.encode(), self._url, version, lines)

    def _grow_head(self, size: int) -> None:
        self._head_size += size
        if self._head_size > HEAD_BYTES:
            raise _head_too_large()

    def _check_unfinished(self) -> None:
        """Limits on what the parser holds back: a header without an end, a body in chunks of nothing."""
        if self._reading is None:
            return
        if not self._head_done and self._raw_size > HEAD_BYTES:
            self._refuse(_head_too_large())
        elif self._raw_size > HEAD_BYTES + 2 * BODY_BYTES:
            self._refuse(_too_large())

    def _refuse(self, fault: Fault) -> None:
        """Answer with an error, after the answers to earlier requests, and hear nothing more."""
        exchange = self._reading or Exchange(self, self._peer)
        exchange.path = exchange.path or self._url.partition(b"?")[0].decode("latin-1")
        exchange.fault, exchange.keep_alive = fault, False
        self._reading, self._deaf = None, True
        self._take(exchange)

    def _take(self, exchange: Exchange) -> None:
        exchange.at = time.perf_counter()
        self._queue.append(exchange)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())
            self.expires = float("inf")
        elif len(self._queue) > QUEUE and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    async def _work(self) -> None:
        """Answer what is queued, in order."""
        while self._queue:
            exchange = self._queue.popleft()
            try:
                await self._server.application(exchange)
            except Exception:  # the application answers for its own errors: what comes here is a bug; log and go on
                log.exception("the gateway failed")
                self._transport.abort()
                return
            if not exchange.keep_alive:
                self._task = None
                self._close()
                return
            if self._writable is not None and not await self._caught_up():
                return
        self._task = None
        self.expires = self._server.now() + (IDLE_SECONDS if self._reading is None else READ_SECONDS)
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    async def _caught_up(self) -> bool:
        """Wait until the client has read enough to be worth another answer; False when it was let go."""
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await self.drain()
        except TimeoutError:
            self._transport.abort()
            return False
        return True

    def _close(self) -> None:
        """Close when the client has read everything; give up on one that does not."""
        self._queue.clear()
        if self._deaf:
            self.expires = self._server.now() + LINGER_SECONDS
            if not self._transport.is_closing() and self._transport.can_write_eof():  # TLS has no half-closed state
                self._transport.write_eof()
        else:
            self._deaf = True
            self.expires = self._server.now() + READ_SECONDS
            self._transport.close()


class Server:
    """The listening socket and its connections."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self.connections: set[Connection] = set()
        self.draining = False
        self.date = b""
        self.now = asyncio.get_running_loop().time
        self._tick()

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None = None, share_port: bool = False) -> str:
        """Start to accept. Returns host:port. Raises OSError when the address is taken or unknown.

        `share_port`: other processes that say so too listen on it as well; the kernel spreads connections over them.
        """
        loop, more = asyncio.get_running_loop(), {}
        if tls is not None:
            more = {"ssl": tls, "ssl_handshake_timeout": READ_SECONDS, "ssl_shutdown_timeout": LINGER_SECONDS}
        self._listener = await loop.create_server(
            lambda: Connection(self), host, port, backlog=1024, reuse_port=share_port or None, **more
        )
        bound: socket.socket = self._listener.sockets[0]
        return "{}:{}".format(*bound.getsockname()[:2])

    async def drain(self, seconds: float) -> None:
        """Stop accepting; wait for the answers in progress, then cut those that take longer."""
        self.draining = True
        self._listener.close()
        await self._emptied(seconds)
        for connection in self.connections:
            connection.cut()
        await self._emptied(LINGER_SECONDS)

    async def _emptied(self, seconds: float) -> None:
        """Wait, with a limit, until every client has its last byte."""
        until = self.now() + seconds
        while self.connections and self.now() < until:
            for connection in [*self.connections]:
                connection.finish()
            await asyncio.sleep(0.01)

    def _tick(self) -> None:
        """Once a second: one clock for all connections, instead of a timer for each request."""
        asyncio.get_running_loop().call_later(1.0, self._tick)
        now = self.now()
        self.date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()).encode()
        for connection in [c for c in self.connections if c.expires < now]:
            connection.expire()


def _check_framing(version: str, headers: dict[bytes, bytes]) -> None:
    """What RFC 9112 wants refused and the parser lets pass (sections 2.3, 3.2 and 6.1)."""
    if version not in ("1.1", "1.0"):
        raise _invalid(f"HTTP/{version} is not spoken here; use HTTP/1.1")
    if version == "1.1" and b"host" not in headers:
        raise _invalid("there is no Host header")
    if b"transfer-encoding" in headers:
        if headers[b"transfer-encoding"].lower() != b"chunked":
            raise Fault(501, "invalid_http", "the only transfer coding that is understood here is chunked")
        if version == "1.0":
            raise _invalid("HTTP/1.0 has no chunked bodies")


def _invalid(why: str) -> Fault:
    return Fault(400, "invalid_http", f"not a valid HTTP request: {why}")


def _too_large() -> Fault:
    return Fault(413, "body_too_large", f"the body is larger than {BODY_BYTES} bytes; send less")


def _head_too_large() -> Fault:
    return Fault(
        431, "headers_too_large", f"line and headers are larger than {HEAD_BYTES} bytes; send fewer or shorter"
    )
