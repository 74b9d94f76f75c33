"""HTTP to engines and providers: a connection, one request at a time on it, with back-pressure.

The boundary: bytes of a request in, bytes of a response out; what they mean is not known here. Everything that can go
wrong with an engine's connection is `EngineGone`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import cast

import httptools

from trimtab.gateway.exchange import Head
from trimtab.gateway.heads import Remembered
from trimtab.gateway.routes import Entity
from trimtab.gateway.turnstile import Turnstile

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


def request(entity: Entity, operation: str, body: bytes, deadline: float, trace: bytes = b"") -> bytes:
    """The bytes of a POST to an upstream. `operation` ends its path; `deadline`, in seconds, is passed on to providers;
    `trace` are complete header lines."""
    head = head_of(entity, operation)
    if entity.name:
        head = b"%bx-trimtab-deadline-ms: %d\r\n" % (head, max(1, deadline * 1000))
    return b"%b%bcontent-length: %d\r\n\r\n%b" % (head, trace, len(body), body)


def head_of(entity: Entity, operation: str) -> bytes:
    """What is the same in every request to an upstream."""
    return entity.heads.get(operation) or _head(entity, operation)


def _head(entity: Entity, operation: str) -> bytes:
    where = f"{entity.path}/{operation}{entity.query}"
    host = entity.address.removesuffix(":443") if entity.tls else entity.address
    bearer = "Bearer " if entity.key_header == "authorization" else ""
    key = f"{entity.key_header}: {bearer}{entity.api_key}\r\n" if entity.api_key else ""
    head = f"POST {where} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n{key}".encode()
    entity.heads[operation] = head
    return head


class EngineConnection(asyncio.Protocol):
    """One connection to one engine. Whoever asks is called with every piece that comes: see `ask`."""

    def __init__(self, entity: Entity) -> None:
        self.address = entity.address
        self.entity = entity
        self.turnstile: Turnstile | None = None  # where it holds a place
        self.since = 0.0  # since when
        self.kept = False  # it has served an earlier request
        self.status = 0  # of the response, once its headers are there
        self.complete = False  # the response came whole
        self.reusable = False  # and the engine keeps the connection open
        self.lost = False
        self._transport: asyncio.Transport
        self._heard: Callable[[], None] = _nobody
        self._chunks: list[bytes] = []
        self._silent = self._paused = self._busy = False
        self._head = b""
        self._remembered = Remembered()  # the head of a plain answer
        self._failure: EngineGone | None = None

    @classmethod
    def of(
        cls,
        entity: Entity,
        status: int,
        head: bytes,
        body: bytes,
        *,
        complete: bool,
        kept: bool,
        silent: bool,
        failure: EngineGone | None,
    ) -> EngineConnection:
        """What the fast path has heard of an engine, on a connection that is not there any more. `failure` says why
        there never was one."""
        one = cls(entity)
        one._transport, one.status, one._head, one._chunks = _Closed(), status, head, [body]
        one.complete, one.lost, one.kept, one._silent, one._failure = complete, not complete, kept, silent, failure
        return one

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection is there."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but inheritance
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes came. An engine that speaks without being asked, or not HTTP, is not spoken to again."""
        if self._busy and not self.status and not self._head and self._remembered.head is not None:
            body = self._remembered.body_of(data, len(data))
            if body is not None:
                self.status, self._busy, self.complete, self.reusable = 200, False, True, True
                self._chunks.append(body)
                self._heard()
                return
        try:
            if not self._busy:
                raise httptools.HttpParserError("bytes outside a response")
            if not self.status:
                self._head += data
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.lost, self.reusable = True, False
            self._transport.abort()
        else:
            if self.reusable and self.status == 200 and self._head == data and len(self._chunks) == 1:
                self._remembered.learn(data, _KEPT, self._chunks[0])
        self._heard()

    def eof_received(self) -> None:
        """asyncio: the engine says no more, so the connection is closed: `connection_lost` comes next."""
        self.lost, self.reusable = True, False

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self.lost, self.reusable = True, False
        self._heard()

    def on_headers_complete(self) -> None:
        """httptools: status and headers are there."""
        status = self._parser.get_status_code()
        self.status = status if status >= 200 else 0  # not 100 Continue

    def on_body(self, data: bytes) -> None:
        """httptools: a piece of the body."""
        self._chunks.append(data)

    def on_message_complete(self) -> None:
        """httptools: the response is whole. Only here does the parser know whether the connection stays open."""
        if self.status:
            self._busy, self.complete = False, True
            self.reusable = self._parser.should_keep_alive()

    def ask(self, request: bytes, heard: Callable[[], None]) -> None:
        """Send one whole request. `heard` is called whenever something came, and when the connection is lost."""
        self._chunks.clear()  # the last answer was whole, but nobody took it
        self.resume()
        self._busy, self.complete, self.reusable, self.status = True, False, False, 0
        self._head, self._heard = b"", heard
        self._transport.write(request)

    @property
    def has_more(self) -> bool:
        """Whether a piece of the body has come that nobody took."""
        return bool(self._chunks)

    def take(self) -> bytes:
        """The piece of the body that has come meanwhile; more may come."""
        chunks = self._chunks
        if len(chunks) == 1:
            return chunks.pop()
        whole = b"".join(chunks)
        chunks.clear()
        return whole

    def pause(self) -> None:
        """Let the engine wait."""
        if not self._paused and not self.lost:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Hear the engine again."""
        if self._paused:
            self._paused = False
            if not self.lost:
                self._transport.resume_reading()

    def retry_after(self) -> str | None:
        """The response's Retry-After."""
        found = _RETRY_AFTER.search(self._head.partition(b"\r\n\r\n")[0])
        return found.group(1).decode("latin-1") if found else None

    def gone(self) -> EngineGone:
        """What to say of a connection that was lost in mid-answer."""
        if self._failure is not None:
            return self._failure
        if self._silent:
            seconds = self.entity.first_byte_seconds
            return EngineGone(f"{self.entity.upstream} did not begin to answer within {seconds:g} s")
        return EngineGone(f"the engine at {self.address} cut the connection", self.kept and not self.status)

    def fall_silent(self) -> None:
        """It did not begin to answer in time, and is not waited for any more."""
        self._silent = self.lost = True
        self._transport.abort()
        self._heard()

    def forget(self) -> None:
        """Nobody waits for what comes any more."""
        self._heard = _nobody

    def close(self) -> None:
        """Cut the connection: the engine stops working on an answer nobody waits for."""
        self.lost = True
        self._transport.abort()


class _Closed(asyncio.Transport):
    """The transport of a connection that is over."""

    def abort(self) -> None:
        """Nothing is left to cut."""


_KEPT = Head()
"""Of an answer behind which the connection stays open."""
_KEPT.keep_alive = True


def _nobody() -> None:
    """Who hears an engine that nobody has asked."""
