"""HTTP to engines: kept-alive connections, one request at a time on each, with back-pressure.

The boundary: bytes of a request in, bytes of a response out; what they mean is not known here. Everything that can go
wrong with an engine's connection is `EngineGone`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import cast

import httptools

PAUSE_AT = 256 * 1024
"""Bytes of an answer that may wait for a slow client before the engine is told to wait too."""


class EngineGone(Exception):
    """The engine refused the connection, cut it, or spoke something that is not HTTP."""


class EngineConnection(asyncio.Protocol):
    """One connection to one engine."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.reusable = False  # the last response came whole and the engine keeps the connection open
        self._transport: asyncio.Transport
        self._waiter: asyncio.Future[None] | None = None
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._paused = self._lost = self._busy = self._complete = False
        self._status = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection is there."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but inheritance
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes came. An engine that speaks without being asked, or not HTTP, is not spoken to again."""
        try:
            if not self._busy:
                raise httptools.HttpParserError("bytes outside a response")
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
        self._transport.write(request)

    async def status(self) -> int:
        """The response's status, when its headers are there."""
        while not self._status and not self._complete:
            await self._more()
        return self._status

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
            raise EngineGone(f"the engine at {self.address} cut the connection")
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Pool:
    """Idle connections by engine address."""

    def __init__(self) -> None:
        self._idle: dict[str, list[EngineConnection]] = {}
        self._wanted: set[str] = set()

    async def acquire(self, address: str, fresh: bool = False) -> EngineConnection:
        """A connection to an engine, a new one if `fresh`. Raises EngineGone when there is none to be had."""
        idle = self._idle.get(address, [])
        while idle and not fresh:
            connection = idle.pop()
            if connection.open:
                return connection
        host, _, port = address.rpartition(":")
        try:
            loop = asyncio.get_running_loop()
            return (await loop.create_connection(lambda: EngineConnection(address), host, int(port)))[1]
        except OSError as error:
            raise EngineGone(f"the engine at {address} does not answer: {error.strerror or error}") from error

    def release(self, connection: EngineConnection) -> None:
        """Give a connection back. It is cut when its response did not come whole or its engine is no longer routed."""
        if connection.reusable and connection.open and connection.address in self._wanted:
            self._idle.setdefault(connection.address, []).append(connection)
        else:
            connection.close()

    def keep(self, addresses: Iterable[str]) -> None:
        """Keep idle connections to these engines only."""
        self._wanted = set(addresses)
        for address in self._idle.keys() - self._wanted:
            for connection in self._idle.pop(address):
                connection.close()
