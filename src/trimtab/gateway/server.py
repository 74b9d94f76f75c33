"""HTTP/1.1 for clients: one asyncio Protocol, parsed by httptools, that hands whole requests to an application.

The boundary: sockets, framing, limits and timeouts are here; what a request means is the application's. Requests on
one connection are answered in order. The application never sees a request that broke a limit as a request: it gets
an `Exchange` whose `fault` says what to answer. Nothing here waits: a task is for what has to (`attempts`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from trimtab.gateway.exchange import Exchange, Head
from trimtab.gateway.framing import BODY_BYTES, HEAD_BYTES, check_framing, head_too_large, invalid, too_large
from trimtab.gateway.heads import Known, Remembered
from trimtab.gateway.shapes import Fault

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

_NEVER = float("inf")

_ONCE = frozenset((b"host", b"content-length", b"transfer-encoding", b"authorization"))


Application = Callable[[Exchange], None]
"""Answers a request, now or later; see `exchange`."""
Ended = Callable[[Exchange], None]
"""Told once of each exchange that was answered or given up."""


class Lender(Protocol):
    """Who may be lent connections: see `fast_path`."""

    @property
    def connections(self) -> int:
        """How many it has."""
        ...

    def offer(self, connection: Connection, head: Head) -> None:
        """Hear that a request was answered well on a connection that could be lent."""
        ...

    def begin(self, connection: Connection, head: Head, data: bytes) -> bool:
        """Take a connection with a whole request on it that nobody has looked at, if it may be plain."""
        ...

    def drain(self) -> None:
        """Answer what is in progress, and nothing more."""
        ...

    def cut(self) -> None:
        """Stop what is in progress."""
        ...


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._remembered = Remembered()
        self._queue: deque[Exchange] = deque()
        self._answering: Exchange | None = None
        self._reading: Head | None = None
        self._head_done = self._deaf = self._over = self._paused = self._going_on = False
        self._head_size = self._body_size = self._raw_size = 0
        self._url = b""
        self._body: list[bytes] = []
        self._fresh = False  # the head was learned here, and others do not know it yet
        self._last: Exchange | None = None  # what the parser has completed since it was fed last
        self.peer = ""
        self.lost = self.behind = False
        self.early: bytearray | None = (
            None  # what came of one that comes back from the fast path, until it is taken back
        )
        self.expires = 0.0

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but inheritance
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER)
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else ""
        self.expires = self.server.clock + IDLE_SECONDS
        self.server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Bytes came. After a refusal they are thrown away."""
        if self._deaf:
            return
        if self.early is not None:
            self.early += data
            return
        remembered, fresh = self._remembered, self._reading is None
        if fresh and remembered.head is None and (known := self.server.known.find(self.peer, data)) is not None:
            remembered.take(*known)
        if fresh and (head := remembered.head) is not None:
            body = remembered.body_of(data, BODY_BYTES)
            if body is not None:
                lender = self.server.lender
                if lender is None or not lender.begin(self, head, data):
                    self._take(Exchange(self, head, body, head.keep_alive))
                return
        self._raw_size += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, Fault) else Fault(400, "invalid_http", "not a valid request"))
        except httptools.HttpParserError as error:
            self._refuse(invalid(str(error)))
        else:
            self._check_unfinished()
            if fresh and self._last is not None:
                remembered.learn(data, self._last.head, self._last.body)
                self._fresh = True
        finally:
            self._last = None  # it refers to us

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone: what was being done for it stops."""
        self.lost = True
        del self._parser  # the two hold each other, and would both wait for a garbage collection that is rare here
        self.server.connections.discard(self)
        self._queue.clear()
        self.cut()

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self.behind = True

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.behind = False
        if self._answering is None:
            self._go_on()
        elif self._answering.caught_up is not None:
            self._answering.caught_up()

    # What httptools calls

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._reading = Head()
        self._head_done = False
        self._head_size = self._body_size = 0
        self._url, self._body = b"", []
        self.expires = self.server.clock + READ_SECONDS

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
                    raise invalid(f"{name.decode('latin-1')} is there more than once")
                value = headers[name] + b", " + value
            headers[name] = value

    def on_headers_complete(self) -> None:
        """Line and headers are whole."""
        head = self._reading
        assert head is not None  # noqa: S101 (on_message_begin came first)
        self._head_done = True
        head.method = self._parser.get_method().decode("ascii")
        head.path = self._url.partition(b"?")[0].decode("latin-1")
        check_framing(self._parser.get_http_version(), head.headers)
        if self._parser.should_upgrade():
            if head.method == "CONNECT":
                raise invalid("this is no proxy to CONNECT through")
            return  # it comes again, without
        if int(head.headers.get(b"content-length", b"0")) > BODY_BYTES:
            raise too_large()
        if head.headers.get(b"expect", b"").lower() == b"100-continue" and self._answering is None:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._body.append(data)
        self._body_size += len(data)
        if self._body_size > BODY_BYTES:
            raise too_large()

    def on_message_complete(self) -> None:
        """The request is whole. Only here does the parser know whether the connection stays open."""
        if self._parser.should_upgrade():
            return
        head = self._reading
        assert head is not None  # noqa: S101 (on_message_begin came first)
        self._reading, self._raw_size = None, 0
        head.chunked = self._parser.get_http_version() != "1.0"
        head.keep_alive = self._parser.should_keep_alive() and head.chunked
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._last = Exchange(self, head, body, head.keep_alive)
        self._take(self._last)

    # What exchanges call

    def write(self, data: bytes) -> None:
        """Send bytes; to a client that is gone they are lost."""
        if not self.lost:
            self._transport.write(data)

    def answered(self, exchange: Exchange) -> None:
        """An exchange sent its last byte."""
        if self._answering is exchange:
            self._over_with(exchange)
            if not exchange.keep_alive:
                self._close()
            elif self._queue:
                if not self._going_on:
                    self._go_on()
            elif exchange.status == 200:
                self._went_well(exchange.head)

    # What the fast path calls

    def idle(self, head: Head) -> bool:
        """Whether nothing is asked, answered or unsent, and requests with this head are what comes."""
        busy = self._answering is not None or self._queue or self._reading is not None or self.unsent
        ending = self.lost or self._deaf or self._over or self.behind or self.server.draining
        return not busy and not ending and self._remembered.head is head

    @property
    def unsent(self) -> int:
        """Bytes that wait to be sent."""
        return 0 if self.lost else self._transport.get_write_buffer_size()

    @property
    def head_around(self) -> tuple[bytes, bytes]:
        """The head that is remembered, before and behind the digits of Content-Length."""
        return self._remembered.around

    def detach(self) -> int:
        """A descriptor of the connection, which is over here. Raises OSError when there is none to be had."""
        fd = os.dup(self._transport.get_extra_info("socket").fileno())
        self._deaf = self._over = True
        self._transport.abort()
        return fd

    def taken_back(self, unsent: bytes, exchange: Exchange | None) -> None:
        """Go on with what was detached from another one: with bytes to send first, and an exchange in progress."""
        if unsent:
            self.write(unsent)
        if exchange is not None:
            self._answering, self.expires = exchange, _NEVER

    def go_on_reading(self, unread: bytes) -> None:
        """Read what the other one had read, and then what has come since."""
        data, self.early = unread + (self.early or b""), None
        if data and not self.lost:
            self.data_received(data)

    # What the server calls

    def expire(self) -> None:
        """Too long idle, too long reading, or too long closing."""
        if self._answering is not None:
            self.expires = _NEVER  # the application has a deadline of its own; reading goes on behind it
        elif self._deaf or self.behind:
            self._transport.abort()
        elif self._reading is not None:
            self._refuse(Fault(408, "request_timeout", f"the request did not come whole within {READ_SECONDS:g} s"))
        else:
            self._close()

    def finish(self) -> None:
        """Close, unless an answer is in progress."""
        if not self._deaf and self._answering is None and not self._queue:
            self._close()

    def cut(self) -> None:
        """Stop the answer in progress."""
        exchange = self._answering
        if exchange is not None:
            abandoned = exchange.abandoned
            self._over_with(exchange)
            if abandoned is not None:
                abandoned()
            self._close()

    # Inside

    def _went_well(self, head: Head) -> None:
        if self._remembered.head is not head:
            return
        if self._fresh:
            self._fresh = False
            before, after = self._remembered.around
            self.server.known.keep(self.peer, before, head, after)
        if self.server.lender is not None:
            self.server.lender.offer(self, head)

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
        head = self._reading
        assert head is not None  # noqa: S101 (it was just read)
        lines = b"".join(b"%b: %b\r\n" % line for line in head.headers.items() if line[0] != b"upgrade")
        version = self._parser.get_http_version().encode()
        return b"%b %b HTTP/%b\r\n%b\r\n" % (head.method.encode(), self._url, version, lines)

    def _grow_head(self, size: int) -> None:
        self._head_size += size
        if self._head_size > HEAD_BYTES:
            raise head_too_large()

    def _check_unfinished(self) -> None:
        """Limits on what the parser holds back: a header without an end, a body in chunks of nothing."""
        if self._reading is None:
            return
        if not self._head_done and self._raw_size > HEAD_BYTES:
            self._refuse(head_too_large())
        elif self._raw_size > HEAD_BYTES + 2 * BODY_BYTES:
            self._refuse(too_large())

    def _refuse(self, fault: Fault) -> None:
        """Answer with an error, after the answers to earlier requests, and hear nothing more."""
        head = self._reading or Head()
        head.path = head.path or self._url.partition(b"?")[0].decode("latin-1")
        head.keep_alive = False
        exchange = Exchange(self, head, b"", False, fault=fault)
        self._reading, self._deaf = None, True
        self._take(exchange)

    def _take(self, exchange: Exchange) -> None:
        """Answer now, or when its turn comes."""
        if self._over:
            return  # the answer before it closed the connection
        if self._answering is None and not self.behind and not self._queue:
            self._begin(exchange)
            return
        self._queue.append(exchange)
        if len(self._queue) > QUEUE and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _begin(self, exchange: Exchange) -> None:
        self._answering = exchange
        self.expires = _NEVER
        try:
            self.server.application(exchange)
        except Exception:  # the application answers for its own errors: what comes here is a bug; log and go on
            log.exception("the gateway failed")
            self._transport.abort()

    def _go_on(self) -> None:
        """Answer what is queued, in order, for as long as the client takes the answers."""
        self._going_on = True
        while self._queue and self._answering is None and not self.behind:
            self._begin(self._queue.popleft())
        self._going_on = False
        if self._paused and not self._queue and not self._over:
            self._paused = False
            self._transport.resume_reading()

    def _over_with(self, exchange: Exchange) -> None:
        self._answering = exchange.abandoned = exchange.caught_up = None
        seconds = WRITE_SECONDS if self.behind else IDLE_SECONDS if self._reading is None else READ_SECONDS
        self.expires = self.server.clock + seconds
        self.server.ended(exchange)

    def _close(self) -> None:
        """Close when the client has read everything; give up on one that does not."""
        self._queue.clear()
        self._over = True
        if self._deaf:
            self.expires = self.server.clock + LINGER_SECONDS
            if not self._transport.is_closing() and self._transport.can_write_eof():  # TLS has no half-closed state
                self._transport.write_eof()
        else:
            self._deaf = True
            self.expires = self.server.clock + READ_SECONDS
            self._transport.close()


class Server:
    """The listening socket and its connections."""

    def __init__(self, application: Application, ended: Ended = lambda exchange: None) -> None:
        self.application, self.ended = application, ended
        self.connections: set[Connection] = set()
        self.known = Known()
        self.draining = False
        self.lender: Lender | None = None
        self.date = b""
        self.clock = 0.0
        """The event loop's time, to the second: what connections measure their limits with."""
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
        if self.lender is not None:
            self.lender.drain()
        await self._emptied(seconds)
        if self.lender is not None:
            self.lender.cut()
        for connection in self.connections:
            connection.cut()
        await self._emptied(LINGER_SECONDS)

    async def _emptied(self, seconds: float) -> None:
        """Wait, with a limit, until every client has its last byte."""
        until = self.now() + seconds
        while (self.connections or (self.lender is not None and self.lender.connections)) and self.now() < until:
            for connection in [*self.connections]:
                connection.finish()
            await asyncio.sleep(0.01)

    def _tick(self) -> None:
        """Once a second: one clock for all connections, instead of a timer for each request."""
        asyncio.get_running_loop().call_later(1.0, self._tick)
        now = self.clock = self.now()
        self.date = time.strftime("date: %a, %d %b %Y %H:%M:%S GMT\r\n", time.gmtime()).encode()
        for connection in [c for c in self.connections if c.expires < now]:
            connection.expire()
