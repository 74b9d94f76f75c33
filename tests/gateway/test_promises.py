"""One request is one row, on disk before the answer is whole, whatever ends the request."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import psutil
import pytest
from gateway_place import Place, chat, entity, until

import plain_http
from trimtab.gateway.answer import follow
from trimtab.gateway.app import answer
from trimtab.gateway.exchange import Exchange, Head
from trimtab.gateway.pool import Pool
from trimtab.gateway.routes import RoutesFile
from trimtab.gateway.rows import Gateway
from trimtab.gateway.shadow import Shadows
from trimtab.store import journal
from trimtab.store.journal import Journal

LONG = " ".join(f"word{i}" for i in range(400))


def stream(place: Place, text: str = LONG) -> Any:
    return httpx.stream("POST", f"{place.url}/v1/chat/completions", json=chat(text, stream=True), timeout=30)


def test_a_client_that_hangs_up_leaves_a_cancelled_row(place: Place) -> None:
    engine = place.engine("--chunk-ms", "20")
    place.route(entity(engine))
    place.gateway()
    with stream(place) as said:
        heard = next(said.iter_lines())
    row = until(lambda: place.closed().get(said.headers["x-request-id"]))
    assert (row.outcome, row.status_code) == ("cancelled", 499)
    assert heard.encode() in row.response
    assert LONG.startswith(row.output_text)
    assert 1 <= row.output_tokens == len(row.output_text.split()) < 400
    until(lambda: not connections_to(engine, engine.process.pid))  # the engine need not go on


def test_a_client_that_hangs_up_before_a_plain_answer_too(place: Place) -> None:
    place.route(entity(place.engine("--delay-ms", "60000")))
    place.gateway()
    with suppress(httpx.ReadTimeout):
        plain_http.post(f"{place.url}/predict", json={"input": "x"}, timeout=0.2)
    (row,) = until(lambda: place.closed().values())
    assert (row.outcome, row.status_code, row.output_text) == ("cancelled", 499, None)


def test_a_client_that_hangs_up_in_the_same_moment_too(tmp_path: Path) -> None:
    """The task that waits for the engine's connection is cancelled before it has run at all."""

    async def asked_and_gone() -> None:
        routes = {
            "model": "m",
            "revision": "1",
            "champion": {"model": "m", "version": 1, "address": "h:1", "template": {}},
        }
        (tmp_path / "routes.json").write_text(json.dumps(routes))
        folder = tmp_path / "journal"
        gateway = Gateway(RoutesFile(tmp_path / "routes.json"), Pool(), Journal(folder), folder, Shadows(folder))
        follow(gateway)
        head, wire = Head(), SimpleNamespace(peer="", lost=False, behind=False)
        head.method, head.path = "POST", "/v1/chat/completions"
        exchange = Exchange(wire, head, json.dumps(chat("x")).encode(), True)
        answer(gateway, exchange)
        wire.lost = True
        assert exchange.abandoned is not None
        exchange.abandoned()
        await asyncio.sleep(0)
        gateway.journal.close()

    asyncio.run(asked_and_gone())
    rows = [frame for path in journal.segments(tmp_path / "journal") for _, frame in journal.frames(path)]
    assert [type(row) for row in rows] == [journal.Opened, journal.Closed]
    assert rows[1].outcome == "cancelled"


def test_an_engine_that_dies_in_mid_stream_ends_the_stream_with_an_error(place: Place) -> None:
    engine = place.engine("--chunk-ms", "20")
    place.route(entity(engine))
    place.gateway()
    with openai.OpenAI(base_url=f"{place.url}/v1", api_key="k", max_retries=0) as client:
        said = client.chat.completions.create(model="m", messages=[{"role": "user", "content": LONG}], stream=True)
        next(said)
        engine.process.kill()
        with pytest.raises(openai.APIError, match="cut the connection"):
            list(said)
    (row,) = place.closed().values()
    assert (row.outcome, row.status_code) == ("error", 502)
    assert row.output_text
    assert LONG.startswith(row.output_text)


@pytest.mark.parametrize("version", [1, 2])
def test_an_engine_that_dies_before_it_spoke_is_asked_again_where_it_is_now(place: Place, version: int) -> None:
    """The request holds version 1 when its engine dies; the row names the version that answered."""
    first, second = place.engine("--delay-ms", "60000"), place.engine()
    place.route(entity(first))
    place.gateway()
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(httpx.post, f"{place.url}/predict", json={"input": "x"}, timeout=30)
        until(place.opened)
        place.route(entity(second, version))
        first.process.kill()
        said = asking.result()
    assert (said.status_code, said.json()["version"]) == (200, version)
    assert said.headers["x-trimtab-version"] == f"m/{version}"
    (row,) = place.closed().values()
    assert (row.version, row.outcome) == (version, "ok")


def test_a_dead_engine_is_a_502_and_a_row(place: Place) -> None:
    engine = place.engine()
    place.route(entity(engine))
    place.gateway("--deadline", "1")  # nobody starts it again: there is nothing to wait for
    engine.stop()
    for body in ({"input": "x"}, {"inputs": ["x", "y"]}):
        path = "/predict" if "input" in body else "/invocations"
        said = plain_http.post(f"{place.url}{path}", json=body)
        assert said.status_code == 502
        row = place.closed()[said.headers["x-request-id"]]
        assert (row.outcome, row.status_code, row.response) == ("error", 502, said.content)


@pytest.mark.parametrize("body", [chat("x"), chat("x", stream=True), chat(LONG, stream=True)])
def test_a_slow_engine_is_a_timeout(place: Place, body: dict[str, Any]) -> None:
    slow = ["--chunk-ms", "100"] if body["messages"][0]["content"] == LONG else ["--delay-ms", "60000"]
    place.route(entity(place.engine(*slow)))
    place.gateway("--deadline", "0.5")
    if slow[0] == "--chunk-ms":
        with stream(place) as said:
            lines = said.iter_lines()
            until(lambda: "engine_timeout" in next(lines))
            with pytest.raises(httpx.RemoteProtocolError):
                list(lines)
    else:
        assert plain_http.post(f"{place.url}/v1/chat/completions", json=body).status_code == 504
    (row,) = place.closed().values()
    assert (row.outcome, row.status_code) == ("timeout", 504)


def test_nothing_is_answered_that_the_journal_does_not_take(place: Place) -> None:
    """A file-size limit stands in for the full disk: the same failing write."""
    place.route(entity(place.engine("--delay-ms", "300")))
    gateway = place.gateway()
    pid, hard = gateway.process.pid, resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE)[1]
    with httpx.Client(base_url=place.url) as http, ThreadPoolExecutor(1) as pool:
        asking = pool.submit(http.post, "/predict", json={"input": "the end does not fit"})
        until(place.opened)
        full = sum(path.stat().st_size for path in journal.segments(place.journal))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (full, hard))
        unclosed, unopened = asking.result(), http.post("/predict", json={"input": "x"})
        told = http.post("/feedback", json={"request_id": "x", "value": {"a": 1}})
        for said in (unclosed, unopened, told, http.get("/readyz")):
            assert (said.status_code, said.json()["error"]["code"]) == (503, "journal_unavailable")
        assert http.get("/healthz").status_code == 200
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        good = http.post("/predict", json={"input": "y"})
    assert good.status_code == 200
    rows = place.closed()
    assert {row.status_code for row in rows.values()} == {200, 503}
    assert rows[unclosed.headers["x-request-id"]].outcome == "error"
    assert place.opened().keys() == rows.keys()


def test_kill_9_loses_no_answer_and_leaves_the_open_row(place: Place) -> None:
    place.route(entity(place.engine("--chunk-ms", "20")))
    gateway = place.gateway()
    answered: list[str] = []

    def ask() -> None:
        with suppress(httpx.TransportError), httpx.Client(base_url=place.url) as http:
            while True:
                answered.append(http.post("/predict", json={"input": "x"}).headers["x-request-id"])

    asking = [threading.Thread(target=ask) for _ in range(3)]
    with stream(place) as said:
        for thread in asking:
            thread.start()
        until(lambda: len(answered) >= 50)
        gateway.process.kill()
        with pytest.raises(httpx.TransportError):
            said.read()
    for thread in asking:
        thread.join()
    gateway.process.wait()  # its lock on the segment goes with it, a moment after its sockets
    cut = said.headers["x-request-id"]
    assert cut in place.opened().keys() - place.closed().keys()
    assert set(answered) <= place.closed().keys()
    journal.recover(place.journal)
    assert place.closed()[cut].outcome == "aborted"
    assert place.opened().keys() == place.closed().keys()


def test_sigterm_finishes_what_is_being_answered(place: Place) -> None:
    place.route(entity(place.engine("--chunk-ms", "5")))
    gateway = place.gateway()
    with stream(place, LONG[:600]) as said:
        gateway.process.send_signal(signal.SIGTERM)
        lines = list(said.iter_lines())
    assert "data: [DONE]" in lines
    assert gateway.process.wait(30) == 0
    assert place.closed()[said.headers["x-request-id"]].outcome == "ok"
    with pytest.raises(httpx.ConnectError):
        plain_http.get(f"{place.url}/healthz")


def test_sigterm_cuts_what_takes_too_long_and_says_so_in_the_row(place: Place) -> None:
    place.route(entity(place.engine("--delay-ms", "60000")))
    gateway = place.gateway("--drain", "0.1")
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(httpx.post, f"{place.url}/predict", json={"input": "x"}, timeout=30)
        until(place.opened)
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(30) == 0
        assert isinstance(asking.exception(), httpx.TransportError)
    (row,) = place.closed().values()
    assert (row.outcome, row.status_code) == ("aborted", 503)


def test_a_gateway_ends_with_the_process_that_holds_it(place: Place) -> None:
    gateway = place.gateway()
    assert gateway.process.stdin is not None
    gateway.process.stdin.close()
    assert gateway.process.wait(30) == 0


def test_connections_to_an_engine_end_when_it_leaves_the_routes(place: Place) -> None:
    old, new = place.engine(), place.engine()
    place.route(entity(old))
    gateway = place.gateway()
    with httpx.Client(base_url=place.url) as http:
        for _ in range(5):
            http.post("/predict", json={"input": "x"})
        assert len(connections_to(old, gateway.process.pid)) == 1, "the connection was not kept alive"
        place.route(entity(new, 2))
        until(lambda: not connections_to(old, gateway.process.pid))
        assert http.post("/predict", json={"input": "x"}).json()["version"] == 2


def connections_to(engine: Any, pid: int) -> list[Any]:
    """Established connections of a process that have the engine's port at either end."""
    port = int(engine.ready["address"].rpartition(":")[2])
    return [
        c
        for c in psutil.Process(pid).net_connections("tcp")
        if c.status == psutil.CONN_ESTABLISHED and c.raddr and port in (c.laddr.port, c.raddr.port)
    ]
