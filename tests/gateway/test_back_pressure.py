"""An engine waits for a client that does not read, and goes on when it does."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

from gateway_place import chat

from trimtab.gateway import app
from trimtab.gateway.answer import follow
from trimtab.gateway.pool import Pool
from trimtab.gateway.routes import RoutesFile
from trimtab.gateway.rows import Gateway
from trimtab.gateway.server import Server
from trimtab.gateway.shadow import Shadows
from trimtab.store.journal import Closed, Journal, frames, segments

EVENT = b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": "x" * 60_000}}]}).encode() + b"\n\n"
COUNTED = b'data: {"choices": [{"delta": {}}], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}\n\n'
MOST = 24 * 2**20
"""Far more than what fits into the buffers of two connections and of the gateway."""


class Talker:
    """An engine that says more and more, as fast as it is heard."""

    def __init__(self) -> None:
        self.said = 0
        self.cut = asyncio.Event()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%b\r\n" % (len(COUNTED), COUNTED))
        try:
            while self.said < 10 * MOST:
                writer.write(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
                await writer.drain()
                self.said += len(EVENT)
        except ConnectionError:
            self.cut.set()


def gateway(folder: Path, address: str) -> Gateway:
    entity: dict[str, Any] = {"model": "m", "version": 1, "address": address, "template": {}}
    (folder / "routes.json").write_text(json.dumps({"model": "m", "revision": "1", "champion": entity}))
    journal = folder / "journal"
    found = Gateway(RoutesFile(folder / "routes.json"), Pool(), Journal(journal), journal, Shadows(journal))
    follow(found)
    return found


async def still(talker: Talker) -> int:
    """What was said when nothing more is."""
    before = -1
    while before != talker.said:
        before = talker.said
        await asyncio.sleep(0.3)
    return before


async def scenario(folder: Path) -> None:
    talker = Talker()
    engine = await asyncio.start_server(talker.talk, "127.0.0.1", 0)
    ours = gateway(folder, "{}:{}".format(*engine.sockets[0].getsockname()[:2]))
    server = Server(partial(app.answer, ours), partial(app.left, ours))
    host, _, port = (await server.listen("127.0.0.1", 0)).rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps(chat("go on", stream=True)).encode()
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    first = await still(talker)
    assert 0 < first < MOST
    heard = 0
    while heard < 2 * MOST:
        heard += len(await reader.read(2**20))
    assert talker.said > first
    writer.transport.abort()
    await talker.cut.wait()  # nobody listens: the engine is not left talking
    await server.drain(0.0)
    engine.close()
    ours.journal.close()


def test_an_engine_waits_for_a_client_and_stops_when_it_hangs_up(tmp_path: Path) -> None:
    asyncio.run(scenario(tmp_path))
    rows = [frame for path in segments(tmp_path / "journal") for _, frame in frames(path)]
    (row,) = [frame for frame in rows if isinstance(frame, Closed)]
    assert (row.outcome, row.status_code) == ("cancelled", 499)
    assert (row.input_tokens, row.output_tokens) == (7, 3), "what the engine had counted so far"
    assert len(row.response) > MOST
