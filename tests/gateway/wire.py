"""The HTTP server without sockets: bytes in, what the application saw and what the client would hear out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

import h11

from trimtab.gateway.exchange import Exchange
from trimtab.gateway.server import Connection, Server


@dataclass(frozen=True)
class Seen:
    """One request as it was understood."""

    method: str
    path: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


@dataclass
class Heard:
    """Everything one connection led to. `refused` is the status of a refusal, if there was one."""

    requests: list[Seen] = field(default_factory=list)
    refused: int | None = None


class Transport:
    """A socket in memory."""

    def __init__(self) -> None:
        self.sent = b""
        self.closed = self.paused = False

    def write(self, data: bytes) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed = True

    abort = write_eof = close

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_extra_info(self, name: str) -> tuple[str, int]:
        return ("127.0.0.1", 1)

    def set_write_buffer_limits(self, high: int) -> None:
        return


def ours(pieces: Iterable[bytes]) -> Heard:
    """What our server understands of these bytes."""
    heard = Heard()

    def application(exchange: Exchange) -> None:
        if exchange.fault is not None:
            heard.refused = exchange.fault.status
            exchange.reply(exchange.fault.status, b"")
            return
        headers = tuple(sorted(exchange.headers.items()))
        heard.requests.append(Seen(exchange.method, exchange.path, headers, exchange.body))
        exchange.reply(200, b"")

    async def talk() -> None:
        server, transport = Server(application), Transport()
        connection = Connection(server)
        connection.connection_made(cast(asyncio.Transport, transport))
        for piece in pieces:
            if transport.closed:
                break
            connection.data_received(piece)
        connection.connection_lost(None)

    asyncio.run(talk())
    return heard


def oracle(data: bytes) -> Heard:
    """What h11, an independent implementation, understands of them.

    Empty lines before a request are taken away first: RFC 9112 section 2.2 lets a server skip them, and ours also
    skips a lone CR there.
    """
    heard, body = Heard(), b""
    while data := data.lstrip(b"\r\n"):
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=64 * 1024)
        connection.receive_data(data)
        try:
            request = connection.next_event()
            if not isinstance(request, h11.Request):
                break
            body = b""
            while isinstance(event := connection.next_event(), h11.Data):
                body += bytes(event.data)
        except h11.RemoteProtocolError as error:
            heard.refused = error.error_status_hint
            break
        if not isinstance(event, h11.EndOfMessage):
            break
        heard.requests.append(_seen(request, body))
        connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
        connection.send(h11.EndOfMessage())
        if connection.our_state is not h11.DONE:
            break  # the client said that this was its last request
        data = connection.trailing_data[0]
    return heard


def _seen(request: h11.Request, body: bytes) -> Seen:
    path = request.target.partition(b"?")[0].decode("latin-1")
    return Seen(request.method.decode(), path, tuple(sorted(_combined(request.headers).items())), body)


def _combined(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """RFC 9110 section 5.2: fields of the same name are one list."""
    values: dict[bytes, bytes] = {}
    for name, value in headers:
        values[name] = values[name] + b", " + value if name in values else value
    return values
