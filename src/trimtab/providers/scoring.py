"""The HTTP side of an engine that scores rows: what arrives together is answered together, in one call of the model.

The boundary: bytes in, bytes out, on loopback, for one gateway that holds the key; what a row is, only the model knows.
`POST /invocations` takes MLflow's JSON, `/invocations/csv` and `/invocations/parquet` the other two formats of its
scoring protocol: the format stands in the path, not in a header. `/invocations/batch` takes several JSON bodies at
once, each with its length in front (32 bits), and answers with a part for each: status (16 bits), length (32 bits),
body; all little-endian. `GET /slots` says whether it is at work, as llama.cpp does.

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
from struct import Struct
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
BATCH = b"/invocations/batch"
_LENGTH, _STATUS = Struct("<I"), Struct("<HI")
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
ScoreBatch = Callable[[bytes], bytes | None]
"""The answer to the body of a batch where it is quicker to answer it as a whole, else None. It raises nothing."""


def serve(score: Score, port: int, ready: dict[str, object], score_batch: ScoreBatch = lambda batch: None) -> None:
    """Serve on loopback until SIGTERM. Prints `ready` with the address as one JSON line when it listens."""
    uvloop.run(_serve(score, port, ready, score_batch))


async def _serve(score: Score, port: int, ready: dict[str, object], score_batch: ScoreBatch) -> None:
    batches, loop = _Batches(score, score_batch), asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(batches), "127.0.0.1", port)
    host, port = server.sockets[0].getsockname()[:2]
    print(json.dumps({"address": f"{host}:{port}", **ready}), flush=True)
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    await stopping.wait()
    server.close()


def parts(body: bytes) -> list[bytes] | None:
    """The bodies in the body of a batch; None when it is none."""
    found, at = list[bytes](), 0
    while at < len(body):
        begin = at + _LENGTH.size
        if begin > len(body):
            return None
        at = begin + _LENGTH.unpack_from(body, begin - _LENGTH.size)[0]
        found.append(body[begin:at])
    return found if at == len(body) else None


def joined(answers: list[Answer]) -> bytes:
    """The answer to a batch."""
    return b"".join(_STATUS.pack(status, len(body)) + body for status, body in answers)


class _Batches:
    """Questions that wait for the model, which works in this thread: they are few, and it is the only work."""

    def __init__(self, score: Score, score_batch: ScoreBatch) -> None:
        self._score, self._score_batch = score, score_batch
        self.key = os.environ.get("TRIMTAB_ENGINE_KEY", "").encode()
        self._waiting: list[tuple[_Connection, Question]] = []
        self._batches: list[tuple[_Connection, bytes]] = []

    @property
    def waiting(self) -> int:
        return len(self._waiting) + len(self._batches)

    def add(self, connection: _Connection, question: Question) -> None:
        self._wake()
        self._waiting.append((connection, question))

    def add_batch(self, connection: _Connection, batch: bytes) -> None:
        self._wake()
        self._batches.append((connection, batch))

    def _wake(self) -> None:
        if not self.waiting:  # called when all that has arrived is read
            asyncio.get_running_loop().call_soon(self._answer)

    def _answer(self) -> None:
        waiting, batches = self._waiting, self._batches
        self._waiting, self._batches = [], []
        waiting = [one for one in waiting if not one[0].lost]
        answers = self._score([question for _, question in waiting]) if waiting else []
        for (connection, _), answer in zip(waiting, answers, strict=True):
            connection.reply(answer)
        for connection, batch in batches:
            if not connection.lost:
                connection.reply(self._answer_to(batch))

    def _answer_to(self, batch: bytes) -> Answer:
        whole = self._score_batch(batch)
        if whole is not None:
            return Answer(200, whole)
        bodies = parts(batch)
        if bodies is None:
            return Answer(400, b'{"error_code":"BAD_REQUEST","message":"these are no parts with their lengths"}')
        return Answer(200, joined(self._score([Question("json", body) for body in bodies])))


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
        url, key, body = self._url, self._key, self._body
        self._reset()
        if url == b"/health":
            self.reply(Answer(200, b'{"status":"ok"}'))
        elif self._batches.key and not hmac.compare_digest(key, b"Bearer " + self._batches.key):
            self.reply(Answer(401, b'{"error_code":"UNAUTHENTICATED","message":"Invalid API Key"}'))
        elif url == b"/slots":
            self.reply(Answer(200, b'[{"is_processing":%s}]' % (b"true" if self._batches.waiting else b"false")))
        elif url not in (BATCH, *FORMATS) or self._parser.get_method() != b"POST":
            self.reply(Answer(404, b'{"error_code":"ENDPOINT_NOT_FOUND","message":"there is nothing here"}'))
        elif url == BATCH:
            self._batches.add_batch(self, body)
        else:
            self._batches.add(self, Question(FORMATS[url], body))

    def reply(self, answer: Answer) -> None:
        """Send an answer, if anybody still waits for it."""
        head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        reason = _REASONS.get(answer.status, "Unknown").encode()
        self._transport.write(head % (answer.status, reason, len(answer.body)) + answer.body)
