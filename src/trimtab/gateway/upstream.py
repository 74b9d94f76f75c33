"""HTTP to engines and providers: a connection, one request at a time on it, with back-pressure.

The boundary: bytes of a request in, bytes of a response out; what they mean is not known here. Everything that can go
wrong with an engine's connection is `EngineGone`.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from functools import lru_cache
from typing import cast

import httptools

from trimtab.gateway.routes import Entity
from trimtab.gateway.turnstile import Turnstile

PAUSE_AT = 256 * 1024
"""Bytes of an answer that may wait for a slow client before the engine is told to wait too."""


UNLIMITED = 600.0
"""Seconds to a first byte from which on the request's own deadline is the only limit."""
_RETRY_AFTER = re.compile(rb"\r\nretry-after:[ \t]*([^\r\n]*)", re.IGNORECASE)


class EngineGone(Exception):
    """The engine refused the connection, cut it, kept silent, or spoke something that is not HTTP.

    `stale`: it was a kept connection that the engine had closed meanwhile, which says nothing about the engine.
    """

    def __init__(self, message: str, stale: bool = False) -> None:
        super().__init__(message)
        self.stale = stale


def request(entity: Entity, path: str, body: bytes, deadline: float, trace: bytes = b"") -> bytes:
    """The bytes of a POST to an upstream. `path` is ours (/v1/…); `deadline`, in seconds, is passed on to providers;
    `trace` are complete header lines."""
    where = f"{entity.path}{path.removeprefix('/v1')}{entity.query}"
    head = _head(where, entity.address, entity.tls, entity.key_header, entity.api_key)
    if entity.name:
        head = b"%bx-trimtab-deadline-ms: %d\r\n" % (head, max(1, deadline * 1000))
    return b"%b%bcontent-length: %d\r\n\r\n%b" % (head, trace, len(body), body)


@lru_cache(maxsize=64)
def _head(path: str, address: str, tls: bool, key_header: str, api_key: str) -> bytes:
    """What is the same in every request to an upstream."""
    host = address.removesuffix(":443") if tls else address
    bearer = "Bearer " if key_header == "authorization" else ""
    key = f"{key_header}: {bearer}{api_key}\r\n" if api_key else ""
    return f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n{key}".encode()


class EngineConnection(asyncio.Protocol):
    """One connection to one engine."""

    def __init__(self, entity: Entity) -> None:
        self.address = entity.address
        self.entity = entity
        self.turnstile: Turnstile | None = None  # where it holds a place
        self.since = 0.0  # since when
        self.kept = False  # it has served an earlier request
        self.reusable = False  # the last response came whole and the engine keeps the connection open
        self._transport: asyncio.Transport
        self._waiter: asyncio.Future[None] | None = None
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._paused = self._lost = self._busy = self._complete = False
        self._status = 0
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection is there."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but inheritance
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes came. An engine that speaks without being asked, or not HTTP, is not spoken to again."""
        try:
            if not self._busy:
                raise httptools.HttpParserError("bytes outside a response")
            if not self._status:
                self._head += data
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._lost, self.reusable = True, False
            self._transport.abort()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self._lost, self.reusable = True, False
        self._wake()

    def on_headers_complete(self) -> None:
        """httptools: status and headers are there."""
        self._status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        """httptools: a piece of the body."""
        self._chunks.append(data)
        self._held += len(data)
        if self._held > PAUSE_AT and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """httptools: the response is whole. Only here does the parser know whether the connection stays open."""
        if self._status >= 200:  # not 100 Continue
            self._busy, self._complete = False, True
            self.reusable = self._parser.should_keep_alive()

    @property
    def open(self) -> bool:
        """Whether another request may be sent."""
        return not self._lost and not self._transport.is_closing()

    def send(self, request: bytes) -> None:
        """Send one whole request."""
        if self._paused:  # the last answer was whole, but nobody took it
            self._paused = False
            self._transport.resume_reading()
        self._chunks.clear()
        self._busy, self._complete, self.reusable, self._status, self._held = True, False, False, 0, 0
        self._head = b""
        self._transport.write(request)

    async def status(self, seconds: float = UNLIMITED) -> int:
        """The response's status, when its headers are there; they may take so long."""
        if seconds < UNLIMITED:
            try:
                async with asyncio.timeout(seconds):
                    return await self.status()
            except TimeoutError as error:
                raise EngineGone(f"{self.entity.upstream} did not begin to answer within {seconds:g} s") from error
        while self._status < 200:
            await self._more()
        return self._status

    def retry_after(self) -> str | None:
        """The response's Retry-After."""
        found = _RETRY_AFTER.search(self._head.partition(b"\r\n\r\n")[0])
        return found.group(1).decode("latin-1") if found else None

    async def chunk(self) -> bytes:
        """The next piece of the body: all that has come; b"" at the end."""
        while not self._chunks:
            if self._complete:
                return b""
            await self._more()
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._held = 0
        if self._paused:
            self._paused = False
            if self.open:
                self._transport.resume_reading()
        return data

    async def body(self) -> bytes:
        """The whole body."""
        data = await self.chunk()
        while more := await self.chunk():
            data += more
        return data

    def close(self) -> None:
        """Cut the connection: the engine stops working on an answer nobody waits for."""
        self._lost = True
        self._transport.abort()

    async def _more(self) -> None:
        if self._lost:
            stale = self.kept and not self._status
            raise EngineGone(f"the engine at {self.address} cut the connection", stale)
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
