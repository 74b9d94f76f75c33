"""Rows of MLflow models on the fast path: they reach the engine together, and every caller gets what he would alone.

The oracle is the gateway without it, before the same engine, which is asked for each request by itself there.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from gateway_place import until
from pairs import Pair, agree, metrics, on_the_fast_path, same, told
from scripted import Client, Deed, Engine, pieces, plain

from trimtab.gateway import fast_path
from trimtab.providers.scoring import Answer, joined, parts

pytestmark = pytest.mark.skipif(not fast_path.LIBRARY.exists(), reason="the fast path was not compiled: no C compiler")
CHAMPION = {"model": "m", "version": 3, "protocol": "mlflow", "path": "", "template": {"messages": [], "params": {}}}
SAID: dict[str, Answer] = {
    "plain": Answer(200, b'{"predictions":[3]}'),
    "two": Answer(200, b'{"predictions":[1,2.50]}'),
    "none": Answer(200, b'{"predictions":[]}'),
    "spaces": Answer(200, b' { "predictions" : [ [1, 2] ] ,\n"more":{} } '),
    "texts": Answer(200, b'{"predictions":["a,b]}\\u00fc\\""]}'),
    "object": Answer(200, b'{"predictions":{"a":[1]}}'),
    "null": Answer(200, b'{"predictions":null}'),
    "twice": Answer(200, b'{"predictions":[1],"predictions":[2]}'),
    "other": Answer(200, b'{"outputs":[1]}'),
    "not json": Answer(200, b'{"predictions":[1'),
    "empty": Answer(200, b""),
    "refused": Answer(400, b'{"error_code":"INVALID_PARAMETER_VALUE","message":"no such column"}'),
    "busy": Answer(503, b'{"error_code":"TEMPORARILY_UNAVAILABLE","message":"busy"}'),
    "broken": Answer(500, b'{"error_code":"INTERNAL_ERROR","message":"broken"}'),
}
WIRE: dict[str, Deed] = {
    "hangs up": pieces(b"", closes=True),
    "half a head": pieces(b"HTTP/1.1 200 OK\r\ncontent-", closes=True),
    "half a body": pieces(b'HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{"predictions', closes=True),
    "not http": pieces(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", closes=True),
}
BATCH: dict[str, Deed] = {
    "no parts": plain(b"abc"),
    "too few parts": plain(b""),
    "a part too long": plain(pack("<HI", 200, 10**6) + b"{}"),
    "more behind": plain(joined([Answer(200, b'{"predictions":[9]}')]) + b"x"),
    "more on the wire": pieces(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1"),
    "chunked": pieces(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    "unknown path": plain(b'{"error_code":"ENDPOINT_NOT_FOUND"}', status=404),
    "last": plain(joined([SAID["plain"]]), headers=b"connection: close\r\n"),
    "in pieces": pieces(b"HTTP/1.1 200 X\r\ncontent-length: 25\r\n\r\n" + joined([SAID["plain"]]), cut=3),
}


class Scorer(Engine):
    """Answers rows, alone and in batches: does the deed that the first row names, and counts what came together."""

    def __init__(self) -> None:
        super().__init__(WIRE | {"silence": lambda connection: not time.sleep(5)})
        self.batches = list[int]()

    def answer(self, connection: socket.socket, path: str, body: bytes) -> bool:
        together = path.endswith("/batch")
        bodies = (parts(body) or []) if together else [body]
        self.batches.append(len(bodies))
        for deed in map(_deed, bodies):
            if deed in self.deeds or (together and deed in BATCH):
                return (BATCH | self.deeds)[deed](connection)
        time.sleep(0.001 * len(bodies))
        said = [_said(one) for one in bodies]
        return plain(joined(said) if together else said[0].body, 200 if together else said[0].status)(connection)


def _deed(body: bytes) -> str:
    """The first word of the first row; "plain" where there is none."""
    try:
        told = json.loads(body.decode("latin-1"))
    except ValueError:
        return "plain"
    (row,) = (told.get("inputs") or told.get("dataframe_records") or ["plain"])[:1]
    first = next(iter(row.values() if isinstance(row, dict) else row), "") if isinstance(row, list | dict) else row
    return str(first)


def _said(body: bytes) -> Answer:
    deed = _deed(body)
    return Answer(200, b'{"predictions":[%b]}' % deed.encode()) if deed.isdigit() else SAID.get(deed, SAID["plain"])


def rows(*row: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": [row], **more}).encode()


def one(*row: Any) -> bytes:
    return json.dumps({"input": row}).encode()


ROWS: dict[str, bytes] = {
    "records": b'{"dataframe_records":[{"a":1}]}',
    "spaces": b' {\n "inputs" : [ [ "two" , -1.5e-3 , true , null , {"a":[]} ] ] } ',
    "parameters": rows(1, params={"x": 1}),
    "named": rows(1, model="m"),
    "misnamed": rows(1, model="other"),
    "escaped name": b'{"inputs":[[1]],"mod\\u0065l":"other"}',
    "with an id": rows(1, client_request_id="mine"),
    "somebody": rows(1, user="ann"),
    "streamed": rows(1, stream=True),
    "not streamed": rows(1, stream=False),
    "deep": b'{"inputs":' + b"[" * 80 + b"]" * 80 + b"}",
    "large": rows(*range(20000)),
    "not json": b'{"inputs":[[1]]',
    "no object": b"[1]",
    "bad utf-8": b'{"inputs":[["\xff"]]}',
    "half a pair": b'{"inputs":[["\\ud83d"]]}',
    "infinite": b'{"inputs":[[1e999]]}',
    "not a number": b'{"inputs":[[NaN]]}',
    "empty": b"",
}
ONE: dict[str, bytes] = {
    "object": b'{"input":{"a":1}}',
    "single": b'{"input":7}',
    "spaces": b' { "input" :\n [ "two" , 1 ] } ',
    "twice": b'{"input":[1],"input":[2]}',
    "parameters": b'{"input":[1],"params":{"x":1}}',
    "unknown": b'{"input":[1],"more":1}',
    "named": b'{"input":[1],"model":"other"}',
    "missing": b"{}",
    "null": b'{"input":null}',
    "not json": b'{"input":[1}',
}


@pytest.fixture(scope="module", params=["/invocations", "/predict"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    warm = rows("plain") if request.param == "/invocations" else one("plain")
    found = Pair(tmp_path_factory.mktemp("rows"), Scorer(), ("on", "off"), CHAMPION, request.param, warm)
    yield found
    found.stop()


@pytest.fixture(autouse=True)
def hung_up(pair: Pair) -> Iterator[None]:
    """No connection outlives its test."""
    yield
    pair.hang_up()


def asking(pair: Pair, *row: Any) -> bytes:
    return one(*row) if pair.path == "/predict" else rows(*row)


@pytest.mark.parametrize("deed", [*SAID, *WIRE])
def test_whatever_the_engine_does_both_say_and_record_the_same(pair: Pair, deed: str) -> None:
    same(pair, asking(pair, deed), asking(pair, "plain"))


def test_whatever_a_client_asks_both_say_record_and_pass_on_the_same(pair: Pair) -> None:
    for name, body in (ONE if pair.path == "/predict" else ROWS).items():
        before = len(pair.engine.heard) + 4  # behind the warm ones of both
        same(pair, body)
        passed = pair.engine.heard[before:]
        assert len(passed) in (0, 2), name
        assert [(parts(one) or [one])[0] for one in passed[:1]] == passed[1:], name


def test_plain_rows_are_answered_there_and_all_books_agree(pair: Pair) -> None:
    def ask(client: Client) -> None:
        for number in range(40):
            assert client.asks(asking(pair, str(number)))[0] == 200
            assert client.asks(asking(pair, "refused"))[0] == 400 or number

    agree(pair, ask, 39)


@pytest.mark.parametrize("deed", BATCH)
def test_an_engine_that_answers_a_batch_badly_is_asked_again_for_each(pair: Pair, deed: str) -> None:
    (client, _), place = pair.clients(), pair.places[0]
    said = [client.asks(asking(pair, one)) for one in (deed, "plain")]
    assert [status for status, *_ in said] == [200, 200]
    rows_ = place.closed()
    assert [rows_[headers["x-request-id"]].outcome for _, headers, _ in said] == ["ok", "ok"]
    assert place.opened().keys() == rows_.keys()


def test_what_comes_together_goes_together_and_everybody_gets_his_own(pair: Pair) -> None:
    place, wrong = pair.places[0], list[Any]()
    before, clients = metrics(place), [pair.clients()[0] for _ in range(24)]

    def ask(number: int, client: Client) -> None:
        for request in range(20):
            value = number * 100 + request
            status, headers, body = client.asks(asking(pair, "refused" if request == 7 else str(value), value))
            expected = {"predictions": [value]}
            if pair.path == "/predict":
                expected = {"output": value, "request_id": headers["x-request-id"], "version": 3}
            if (status != 400) if request == 7 else (status, json.loads(body)) != (200, expected):
                wrong.append((status, body))

    both(ask, clients)
    assert wrong == []
    assert isinstance(pair.engine, Scorer)
    assert max(pair.engine.batches) > 4
    assert on_the_fast_path(place) - before["trimtab_fast_path_requests_total"] > 24 * 19 * 0.9
    assert place.opened().keys() == place.closed().keys()


def test_who_hangs_up_or_is_late_harms_nobody_beside_him(pair: Pair) -> None:
    place, clients = pair.places[0], [pair.clients()[0] for _ in range(6)]
    clients[0].headers += "x-trimtab-deadline-ms: 700\r\n"
    assert [clients[0].asks(pair.warm)[0] for _ in range(3)] == [200] * 3
    before = place.closed().keys()
    clients[0].send(asking(pair, "silence"))  # with whom all others wait for the model
    time.sleep(0.2)
    for client in clients[1:]:
        client.send(asking(pair, "5"))
    time.sleep(0.2)
    clients[1].close()
    assert clients[0].answer()[0] == 504
    assert [client.answer()[0] for client in clients[2:]] == [200] * 4
    ended = until(lambda: (place.opened().keys() == place.closed().keys()) and place.closed())
    outcomes = sorted(ended[key].outcome for key in ended.keys() - before)
    assert outcomes == ["cancelled", "ok", "ok", "ok", "ok", "timeout"]


def test_csv_is_not_taken_there(pair: Pair) -> None:
    clients, said = pair.clients(), []
    for client in clients:
        client.headers += "x-csv: 1\r\n"
        whole = client.request(b"a\n1\n").replace(b"application/json", b"text/csv")
        client.socket.sendall(whole * 2)
        said.append([told(client.answer()) for _ in range(2)])
    assert said[0] == said[1]


def test_limits_of_a_key_hold_there(pair: Pair) -> None:
    said = []
    for place, client in zip(pair.places, pair.clients(), strict=True):
        path = place.folder / "keys.json"
        keys = json.loads(path.read_text())
        few = [keys["keys"][0] | {"requests": {"count": 3, "seconds": 3600}, "slot": 1}]
        _replace(path, few)
        until(lambda client=client: client.asks(pair.warm)[1].get("x-ratelimit-limit-requests") == "3")
        said.append(sum(client.asks(pair.warm)[0] == 200 for _ in range(6)))
        _replace(path, keys["keys"])
        until(lambda client=client: client.asks(pair.warm)[0] == 200)
    assert said == [2, 2]


def _replace(path: Path, keys: list[Any]) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"keys": keys}))
    new.replace(path)


def both(work: Any, clients: list[Client]) -> None:
    """Each client in a thread of its own."""
    threads = [threading.Thread(target=work, args=one) for one in enumerate(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
