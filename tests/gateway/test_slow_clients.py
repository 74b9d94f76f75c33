"""Clients that send or read slowly, or too much: each costs a bounded amount, is let go, and holds up nobody."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from trimtab.gateway import server as server_module
from trimtab.gateway.exchange import Exchange
from trimtab.gateway.framing import BODY_BYTES, HEAD_BYTES
from trimtab.gateway.server import QUEUE, WRITE_BUFFER, Connection, Server

HEAD = b"POST / HTTP/1.1\r\nhost: h\r\n"
GET = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"
LARGE = bytes(WRITE_BUFFER // 4)

Dialled = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial = Callable[[], Awaitable[Dialled]]


def large(exchange: Exchange) -> None:
    """Answer with much."""
    exchange.reply(exchange.fault.status if exchange.fault else 200, LARGE)


def endless(exchange: Exchange) -> None:
    """Stream for ever, as fast as the client reads."""

    def go_on() -> None:
        while not exchange.behind:
            exchange.send(LARGE)

    exchange.caught_up = go_on
    exchange.start(b"", b"text/event-stream")
    go_on()


def with_server(application: server_module.Application, scenario: Callable[[Server, Dial], Awaitable[None]]) -> None:
    """Run a scenario against a real listening server."""

    async def run() -> None:
        server = Server(application)
        host, _, port = (await server.listen("127.0.0.1", 0)).rpartition(":")

        async def dial() -> Dialled:
            return await asyncio.open_connection(host, int(port))

        await scenario(server, dial)
        await server.drain(0.0)

    asyncio.run(run())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting is not what is tested: every limit in seconds is nothing."""
    for name in ("READ_SECONDS", "IDLE_SECONDS", "WRITE_SECONDS"):
        monkeypatch.setattr(server_module, name, 0.0)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nhost: h\r\nx-slow: ",
        HEAD + b"content-length: 5\r\n\r\nab",
        HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\nab",
    ],
    ids=["nothing", "head", "body", "chunk"],
)
def test_a_client_that_does_not_finish_is_told_so_and_let_go(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    hurry(monkeypatch)

    async def scenario(server: Server, dial: Dial) -> None:
        reader, writer = await dial()
        writer.write(sent)
        heard = await reader.read()
        assert heard.startswith(b"HTTP/1.1 408 ") if sent else heard == b""
        await until(lambda: not server.connections)
        writer.close()

    with_server(large, scenario)


def test_a_client_that_sends_a_byte_now_and_then_gains_no_time_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is on the whole request, not on the pause between two bytes."""

    async def scenario(server: Server, dial: Dial) -> None:
        _, writer = await dial()
        writer.write(b"G")
        await until(lambda: server.connections and all(one._reading for one in server.connections))
        (connection,) = server.connections
        first = connection.expires
        for byte in b"ET / HTTP/1.1\r\nhost: h\r\nx: yyyyyyyy":
            writer.write(b"%c" % byte)
            await asyncio.sleep(0)
        await until(lambda: connection._raw_size > 30)
        assert connection.expires == first
        writer.close()

    with_server(large, scenario)


def waiting(connection: Connection) -> int:
    """Bytes of answers that wait for the client."""
    return connection._transport.get_write_buffer_size()


def test_a_client_that_asks_on_and_reads_nothing_is_held_to_one_buffer() -> None:
    async def scenario(server: Server, dial: Dial) -> None:
        _, writer = await dial()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        held = set[int]()
        for _ in range(300):
            writer.write(GET * 16)
            await asyncio.sleep(0.001)
            held |= {waiting(connection) for connection in server.connections}
        assert 0 < max(held) <= WRITE_BUFFER + 2 * len(LARGE)
        assert len(next(iter(server.connections))._queue) >= QUEUE, "it was still read from"
        writer.transport.abort()
        await until(lambda: not server.connections)

    with_server(large, scenario)


def test_a_client_that_takes_no_answer_for_too_long_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)

    async def scenario(server: Server, dial: Dial) -> None:
        _, writer = await dial()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        with suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(GET * 64)
                await asyncio.sleep(0.001)
                if not server.connections:
                    break
        await until(lambda: not server.connections)
        writer.close()

    with_server(large, scenario)


def test_a_stream_waits_for_its_reader_and_nobody_else_waits() -> None:
    async def scenario(server: Server, dial: Dial) -> None:
        _, slow = await dial()
        slow.transport.pause_reading()  # type: ignore[attr-defined]
        slow.write(GET)
        await until(lambda: any(one.behind for one in server.connections))
        (connection,) = server.connections
        held = waiting(connection)
        assert held <= WRITE_BUFFER + 2 * len(LARGE)
        reader, quick = await dial()
        quick.write(GET)
        assert (await reader.readexactly(15)).startswith(b"HTTP/1.1 200 OK")
        assert waiting(connection) == held
        quick.transport.abort()
        slow.transport.abort()
        await until(lambda: not server.connections)

    with_server(endless, scenario)


@pytest.mark.parametrize(
    ("start", "more", "most", "status"),
    [
        (b"GET /", b"a" * 1000, HEAD_BYTES, 431),
        (b"GET / HTTP/1.1\r\nx: ", b"a" * 1000, HEAD_BYTES, 431),
        (b"GET / HTTP/1.1\r\n", b"x: y\r\n" * 100, HEAD_BYTES, 431),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n", b"1000\r\n%b\r\n" % bytes(4096), BODY_BYTES, 413),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n", b"1\r\na\r\n" * 1000, HEAD_BYTES + 6 * BODY_BYTES, 413),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n1;", b"a" * 1000, HEAD_BYTES + 2 * BODY_BYTES, 413),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\n", b"x: y\r\n" * 100, HEAD_BYTES, 431),
    ],
    ids=["target", "header", "headers", "body", "small chunks", "chunk extension", "trailers"],
)
def test_what_never_ends_is_refused_when_it_is_too_much(start: bytes, more: bytes, most: int, status: int) -> None:
    async def scenario(server: Server, dial: Dial) -> None:
        reader, writer = await dial()
        writer.write(start)
        sent, said = 0, asyncio.ensure_future(reader.readline())
        while not said.done():
            assert sent < most + (1 << 20), "nothing was said"
            writer.write(more)
            sent += len(more)
            with suppress(ConnectionError):
                await writer.drain()
            await asyncio.sleep(0)
        assert said.result().startswith(b"HTTP/1.1 %d " % status)
        writer.transport.abort()

    with_server(large, scenario)


def test_a_connection_that_is_over_leaves_nothing_to_be_collected() -> None:
    async def scenario(server: Server, dial: Dial) -> None:
        reader, writer = await dial()
        writer.write(GET)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        over = weakref.ref(next(iter(server.connections)))
        gc.disable()
        try:
            writer.transport.abort()
            await until(lambda: over() is None)
        finally:
            gc.enable()

    with_server(large, scenario)
