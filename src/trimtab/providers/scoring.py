"""The HTTP side of an engine that scores rows: what arrives together is answered together, in one call of the model.

The boundary: bytes in, bytes out, on loopback, for one gateway that holds the key; what a row is, only the model knows.
`POST /invocations` takes MLflow's JSON, `/invocations/csv` and `/invocations/parquet` the other two formats of its
scoring protocol: the format stands in the path, not in a header. `GET /slots` says whether it is at work, as llama.cpp
does.

Nothing waits for a batch to fill: a batch is whatever came while the model was at work, so one client alone is
answered at once, and thirty-two share the cost of a call.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import signal
from collections.abc import Callable
from http import HTTPStatus
from typing import Literal, NamedTuple, cast

import httptools
import uvloop

BODY_BYTES = 64 * 2**20
"""Most bytes of a request's body; the gateway's own limit is lower."""
Format = Literal["json", "csv", "parquet"]
FORMATS: dict[bytes, Format] = {
    b"/invocations": "json",
    b"/invocations/csv": "csv",
    b"/invocations/parquet": "parquet",
}
_REASONS = {status.value: status.phrase for status in HTTPStatus}


class Question(NamedTuple):
    """One request's rows, as they came."""

    format: Format
    body: bytes


class Answer(NamedTuple):
    """What it gets: JSON."""

    status: int
    body: bytes


Score = Callable[[list[Question]], list[Answer]]
"""Answers in the order of the questions. It raises nothing."""


def serve(score: Score, port: int, ready: dict[str, object]) -> None:
    """Serve on loopback until SIGTERM. Prints `ready` with the address as one JSON line when it listens."""
    uvloop.run(_serve(score, port, ready))


async def _serve(score: Score, port: int, ready: dict[str, object]) -> None:
    batches, loop = _Batches(score), asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(batches), "127.0.0.1", port)
    host, port = server.sockets[0].getsockname()[:2]
    print(json.dumps({"address": f"{host}:{port}", **ready}), flush=True)
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    await stopping.wait()
    server.close()


class _Batches:
    """Questions that wait for the model, which works in this thread: they are few, and it is the only work."""

    def __init__(self, score: Score) -> None:
        self.score = score
        self.key = os.environ.get("TRIMTAB_ENGINE_KEY", "").encode()
        self._waiting: list[tuple[_Connection, Question]] = []

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def add(self, connection: _Connection, question: Question) -> None:
        if not self._waiting:  # called when all that has arrived is read
            asyncio.get_running_loop().call_soon(self._answer)
        self._waiting.append((connection, question))

    def _answer(self) -> None:
        waiting = [one for one in self._waiting if not one[0].lost]
        self._waiting = []
        answers = self.score([question for _, question in waiting]) if waiting else []
        for (connection, _), answer in zip(waiting, answers, strict=True):
            connection.reply(answer)


class _Connection(asyncio.Protocol):
    """The gateway's connection."""

    def __init__(self, batches: _Batches) -> None:
        self._batches = batches
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._reset()
        self.lost = False

    def _reset(self) -> None:
        self._url, self._body, self._size, self._key = b"", b"", 0, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        del self._parser  # the two hold each other

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"authorization":
            self._key = value

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > BODY_BYTES:
            self._transport.abort()
            return
        self._body = self._body + data if self._body else data

    def on_message_complete(self) -> None:
        url, key, question = self._url, self._key, Question(FORMATS.get(self._url, "json"), self._body)
        self._reset()
        if url == b"/health":
            self.reply(Answer(200, b'{"status":"ok"}'))
        elif self._batches.key and not hmac.compare_digest(key, b"Bearer " + self._batches.key):
            self.reply(Answer(401, b'{"error_code":"UNAUTHENTICATED","message":"Invalid API Key"}'))
        elif url == b"/slots":
            self.reply(Answer(200, b'[{"is_processing":%s}]' % (b"true" if self._batches.waiting else b"false")))
        elif url not in FORMATS or self._parser.get_method() != b"POST":
            self.reply(Answer(404, b'{"error_code":"ENDPOINT_NOT_FOUND","message":"there is nothing here"}'))
        else:
            self._batches.add(self, question)

    def reply(self, answer: Answer) -> None:
        """Send an answer, if anybody still waits for it."""
        head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        reason = _REASONS.get(answer.status, "Unknown").encode()
        self._transport.write(head % (answer.status, reason, len(answer.body)) + answer.body)
