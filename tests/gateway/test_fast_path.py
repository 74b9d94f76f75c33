"""The fast path answers as the rest of the gateway does, and what it cannot answer comes back with nothing lost.

The oracle is the same gateway with it switched off: the same requests, on kept connections, to the same engine, must
lead to the same answers, the same rows, the same numbers and the same money.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from gateway_place import until
from pairs import SECRET, Pair, agree, asking, same, told
from scripted import ANSWER, USAGE, Client, Deed, Engine, event, pieces, plain, stream, word
from wire import Transport

from trimtab.gateway import fast_path
from trimtab.gateway.server import Connection, Server
from trimtab.store import journal

pytestmark = pytest.mark.skipif(not fast_path.LIBRARY.exists(), reason="the fast path was not compiled: no C compiler")

FINISH = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
TOLD = event({"choices": [], "usage": USAGE})
DONE = event("[DONE]")
NO_USAGE = {name: value for name, value in ANSWER.items() if name != "usage"}
TOOL = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {}}]}

DEEDS: dict[str, Deed] = {
    "plain": plain(ANSWER),
    "in pieces": plain(ANSWER, cut=7),
    "without usage": plain(NO_USAGE),
    "two choices": plain(ANSWER | {"choices": [*ANSWER["choices"], *ANSWER["choices"]]}),
    "tool call": plain(ANSWER | {"choices": [{"index": 0, "message": TOOL}]}),
    "not json": plain(b"{nonsense"),
    "no answer": plain({"choices": [], "usage": USAGE}),
    "odd usage": plain(ANSWER | {"usage": {"prompt_tokens": 9.5}}),
    "refuses": plain({"error": {"message": "too long"}}, status=400),
    "busy": plain({"error": {"message": "busy"}}, status=429, headers=b"retry-after: 0\r\n"),
    "broken": plain({"error": {"message": "broken"}}, status=500),
    "last": plain(ANSWER, headers=b"connection: close\r\n"),
    "hangs up": pieces(b"", closes=True),
    "half a head": pieces(b"HTTP/1.1 200 OK\r\ncontent-", closes=True),
    "half a body": pieces(b'HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{"choices"', closes=True),
    "two lengths": pieces(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}x", closes=True),
    "not http": pieces(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", closes=True),
    "chunked": pieces(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        + b"".join(b"%x;x=1\r\n%b\r\n" % (1, bytes([c])) for c in json.dumps(ANSWER).encode())
        + b"0\r\nx-t: 1\r\n\r\n"
    ),
    "stream": stream(word("one "), word("two"), FINISH, TOLD, DONE),
    "stream in pieces": stream(word("one "), word("zwö", x='"usage"'), word(None), FINISH, TOLD, DONE, cut=11),
    "stream in one": stream(word("one ") + word("two") + FINISH + TOLD + DONE),
    "stream with crlf": stream(*(one.replace(b"\n", b"\r\n") for one in (word("one"), FINISH, TOLD, DONE))),
    "stream counts on": stream(word("a", usage=USAGE), word("b", usage=None), FINISH, TOLD, DONE),
    "stream with comment": stream(b": hello\n\n", word("one"), FINISH, TOLD, DONE),
    "stream without usage": stream(word("one "), word("two"), FINISH, DONE),
    "stream of calls": stream(event({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0}]}}]}), TOLD, DONE),
    "stream cut": stream(word("one "), word("two"), end=b""),
    "stream cut early": stream(end=b""),
    "stream ends early": stream(word("one ")),
    "stream fails": stream(word("one "), event({"error": {"message": "out of memory"}}), end=b"", cut=40, pause=0.02),
    "stream odd": stream(word("one "), event('{"usage": nonsense}'), end=b"", cut=40, pause=0.02),
    "stream of nothing": stream(DONE),
}
ENDPOINT = {"attempts": 2, "backoff": 0.0, "breaker_failures": 10**6}
STREAMS = [name for name in DEEDS if name.startswith("stream")]
BODIES: dict[str, dict[str, Any] | bytes] = {
    "parameters": {"temperature": 0.5, "top_p": 1, "max_tokens": 7, "seed": -3},
    "exponent": b'{"messages":[{"role":"user","content":"hi"}],"temperature":1e-1}',
    "newer limit": {"max_completion_tokens": 5},
    "named": {"model": "m@champion"},
    "misnamed": {"model": "other"},
    "unknown field": {"nonsense": 1},
    "null": {"temperature": None},
    "too hot": {"temperature": 3},
    "no tokens": {"max_tokens": 0},
    "somebody": {"user": "ann"},
    "several choices": {"n": 2},
    "format": {"response_format": {"type": "json_object"}},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
    "conversation": {
        "messages": [
            {"role": "system", "content": "Be \u201ebrief\u201c."},
            {"role": "user", "content": "a\t\u00fc\ud83d\ude00"},
            {"role": "assistant", "content": ""},
        ]
    },
    "no messages": {"messages": []},
    "odd role": {"messages": [{"role": "robot", "content": "hi"}]},
    "twice": b'{"messages":[{"role":"user","content":"hi"}],"seed":1,"seed":2}',
    "half a pair": b'{"messages":[{"role":"user","content":"\\ud83d"}]}',
    "bad utf-8": b'{"messages":[{"role":"user","content":"\xff"}]}',
    "spaces": b' {\n "messages" : [ { "role" : "user" , "content" : "hi" } ] , "stream" : false } ',
    "not json": b'{"messages":[{"role":"user","content":"hi"}]',
    "empty": b"",
    "options alone": {"stream_options": {"include_usage": True}},
}


@pytest.fixture(autouse=True)
def hung_up(pair: Pair) -> Iterator[None]:
    """No connection outlives its test."""
    yield
    pair.hang_up()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    found = Pair(tmp_path_factory.mktemp("pair"), Engine(dict(DEEDS)))
    yield found
    found.stop()


@pytest.mark.parametrize("deed", DEEDS)
def test_whatever_the_engine_does_both_say_and_record_the_same(pair: Pair, deed: str) -> None:
    streams = [True] if deed in STREAMS else [False, True] if deed in ("refuses", "hangs up", "busy") else [False]
    for stream_it in streams:
        more = {"stream": True} if stream_it else {}
        same(pair, asking(deed, **more), asking("plain"))
    if deed in STREAMS:
        same(pair, asking(deed, stream=True, stream_options={"include_usage": True}), asking("plain"))


@pytest.mark.parametrize("name", BODIES)
def test_whatever_a_client_asks_both_say_record_and_pass_on_the_same(pair: Pair, name: str) -> None:
    body, before = BODIES[name], len(pair.engine.heard) + 4  # behind the warm ones of both
    same(pair, body if isinstance(body, bytes) else json.dumps(json.loads(asking("plain")) | body).encode())
    passed = [json.loads(one) for one in pair.engine.heard[before:]]
    assert len(passed) in (0, 2)
    assert passed[:1] == passed[1:]


def test_most_plain_requests_are_answered_there_and_all_books_agree(pair: Pair) -> None:
    def ask(client: Client) -> None:
        for number in range(50):
            streams = {"stream": True} if number % 5 == 0 else {}
            assert client.asks(asking("stream" if streams else "plain", max_tokens=20 + number, **streams))[0] == 200

    agree(pair, ask, 49)


def test_what_keys_have_used_is_the_same(pair: Pair) -> None:
    spent = [bytes((place.folder / "ledger").read_bytes()[: 16 * 8]) for place in pair.places]
    words = [memoryview(one).cast("q") for one in spent]
    for place in (5, 7, 9):  # what was spent in this hour, day and month
        assert words[0][place] == words[1][place] > 0


def test_pipelined_requests_are_answered_in_order(pair: Pair) -> None:
    said = []
    for client in pair.clients():
        bodies = [asking(deed, seed=number) for number, deed in enumerate(["plain", "in pieces", "refuses", "plain"])]
        client.socket.sendall(b"".join(map(client.request, bodies)))
        said.append([told(client.answer()) for _ in bodies])
    assert said[0] == said[1]


def test_a_request_that_comes_in_pieces_is_one_request(pair: Pair) -> None:
    for client in pair.clients():
        whole = client.request(asking("plain", seed=5))
        for at in range(0, len(whole), 50):
            client.socket.sendall(whole[at : at + 50])
            time.sleep(0.002)
        assert client.answer()[0] == 200
        assert client.asks(asking("plain"))[0] == 200


def test_another_head_on_the_same_connection_is_read_anew(pair: Pair) -> None:
    said = []
    for client in pair.clients():
        client.headers = "authorization: Bearer tt-nobody\r\n"
        refused = told(client.asks(asking("plain")))
        client.headers = f"authorization: Bearer {SECRET}\r\nx-trimtab-deadline-ms: 5000\r\n"
        said.append([refused, *(told(client.asks(asking("plain"))) for _ in range(3))])
    assert said[0] == said[1]
    assert [status for status, *_ in said[0]] == [401, 200, 200, 200]


def test_what_comes_while_a_connection_comes_back_is_read_behind_what_had_come(pair: Pair) -> None:
    """Head and body apart, as many clients send them: the head is unknown there, and the body may be quicker than the
    way back. About one in 5,000 was."""

    def ask(number: int) -> None:
        client, chance = pair.clients()[0], random.Random(number)  # noqa: S311 (no secret)
        for request in range(400):
            client.headers = f"authorization: Bearer {SECRET}\r\n" + f"x-number: {request}\r\n" * (request % 2)
            whole, at = client.request(asking("plain")), time.perf_counter() + chance.random() * 0.0006
            head = whole.index(b"\r\n\r\n") + 4
            client.socket.sendall(whole[:head])
            while time.perf_counter() < at:
                continue
            client.socket.sendall(whole[head:])
            statuses.append(client.answer()[0])

    statuses = list[int]()
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 1200


def test_bytes_that_come_before_a_connection_is_taken_back_wait_for_that() -> None:
    heard = list[bytes]()

    async def talk() -> None:
        connection = Connection(Server(lambda exchange: heard.append(exchange.body)))
        connection.early = bytearray()
        connection.connection_made(cast(asyncio.Transport, Transport()))
        connection.data_received(b"hi")
        assert heard == []
        connection.go_on_reading(b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n")
        connection.connection_lost(None)

    asyncio.run(talk())
    assert heard == [b"hi"]


def test_who_hangs_up_is_on_record_with_what_was_heard(pair: Pair) -> None:
    ends = []
    for place, client in zip(pair.places, pair.clients(), strict=True):
        before = set(place.closed())
        pair.engine.deeds["slow stream"] = stream(*[word("x")] * 40, DONE, cut=60)
        client.send(asking("slow stream", stream=True))
        client._until(b"x")
        client.close()
        (new,) = until(lambda place=place, before=before: set(place.closed()) - before)
        ended = place.closed()[new]
        assert set(ended.output_text or "") == {"x"}
        assert len(ended.output_text) == ended.output_tokens
        ends.append((ended.status_code, ended.outcome))
    assert ends[0] == ends[1] == (499, "cancelled")


def test_an_engine_that_says_nothing_in_time_is_given_up_with_the_same_words(pair: Pair) -> None:
    said = []
    pair.engine.deeds["silence"] = lambda connection: not time.sleep(5)
    for client in pair.clients():
        client.headers += "x-trimtab-deadline-ms: 1500\r\n"
        assert [client.asks(asking("plain"))[0] for _ in range(3)] == [200] * 3
        said.append([told(client.asks(asking("silence"))), told(client.asks(asking("plain")))])
    assert said[0] == said[1]
    assert said[0][0][0] == 504


def test_a_version_that_is_routed_anew_answers_at_once_and_old_answers_are_finished(pair: Pair, tmp_path: Path) -> None:
    place = pair.places[0]
    routed = json.loads((place.folder / "routes.json").read_text())
    pair.engine.deeds["slow"] = stream(*[word("x")] * 20, TOLD, DONE, cut=400)
    running, other = pair.clients()[0], pair.clients()[0]
    running.send(asking("slow", stream=True))
    running._until(b"x")
    place.route(routed["champion"] | {"version": 7})
    seen = until(lambda: (found := other.asks(asking("plain"))[1]["x-trimtab-version"]) == "m/7" and found)
    assert seen == "m/7"
    assert {other.asks(asking("plain"))[1]["x-trimtab-version"] for _ in range(5)} == {"m/7"}
    rest = running._until(b"0\r\n\r\n")
    assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert running.asks(asking("plain"))[1]["x-trimtab-version"] == "m/7"
    place.route(routed["champion"], routed["canary"], 50, endpoint=routed["endpoint"])
    until(lambda: other.asks(asking("plain"))[1]["x-trimtab-version"] != "m/7")


@pytest.mark.parametrize("room", [0, 60, 400])
def test_nothing_is_answered_there_that_the_journal_does_not_take(pair: Pair, room: int) -> None:
    """A file-size limit stands in for the full disk: there is room for nothing, half of *opened*, half of *closed*."""
    said = []
    for place, client in zip(pair.places, pair.clients(), strict=True):
        pid = place.children[0].process.pid
        hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
        full = max(path.stat().st_size for path in journal.segments(place.journal))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (full + room, hard))
        refused = client.asks(asking("plain", seed=room))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        good = client.asks(asking("plain"))
        said.append([told(refused), told(good)])
        assert place.opened().keys() == place.closed().keys()
        if refused[1]["x-request-id"] in place.closed():
            assert place.closed()[refused[1]["x-request-id"]].outcome == "error"
    assert said[0] == said[1]
    assert [status for status, *_ in said[0]] == [503, 200]


def test_kill_9_leaves_a_row_for_every_answer_and_every_question(tmp_path: Path) -> None:
    pair = Pair(tmp_path, Engine(dict(DEEDS)), ("on",))
    place, clients = pair.places[0], [pair.clients()[0] for _ in range(4)]
    answered: list[str] = []

    def ask(client: Client) -> None:
        while (one := client.asks(asking("plain")))[0]:
            answered.append(one[1]["x-request-id"])

    threads = [threading.Thread(target=ask, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    until(lambda: len(answered) > 200)
    place.children[0].process.kill()
    place.children[0].process.wait()
    for thread in threads:
        thread.join()
    assert set(answered) <= place.closed().keys()
    journal.recover(place.journal)
    assert place.opened().keys() == place.closed().keys()
    pair.stop()


def test_a_gateway_that_is_told_to_stop_finishes_what_is_in_progress(tmp_path: Path) -> None:
    pair = Pair(tmp_path, Engine(dict(DEEDS)))
    pair.engine.deeds["slow"] = stream(*[word("x")] * 30, TOLD, DONE, cut=100)
    running, idle = pair.clients()[0], pair.clients()[0]
    running.send(asking("slow", stream=True))
    running._until(b"x")
    place = pair.places[0]
    place.children[0].process.terminate()
    assert running._until(b"0\r\n\r\n").endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert idle.answer()[2] == b"<closed>"
    assert place.children[0].process.wait(20) == 0
    assert {one.outcome for one in place.closed().values()} == {"ok"}
    assert place.closed().keys() == place.opened().keys()
    pair.stop()
