"""The wire: whatever bytes come, the process lives on and says what was wrong."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from contextlib import suppress
from functools import partial
from typing import cast

import pytest
from gateway_place import Place
from hypothesis import given
from hypothesis import strategies as st

from trimtab.gateway.routes import Entity, Template
from trimtab.gateway.upstream import EngineConnection

ASK = b'{"input":"%s"}'


def post(path: bytes, body: bytes, *headers: bytes, version: bytes = b"1.1") -> bytes:
    lines = [b"POST %s HTTP/%s" % (path, version), b"host: h", b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def talk(place: Place, data: bytes) -> None:
    """Send bytes, say that nothing follows, and read whatever comes until the gateway closes."""
    host, _, port = place.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection, suppress(ConnectionError):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass


def ask(place: Place, *data: bytes) -> list[tuple[int, bytes]]:
    """Send bytes whose last request says connection: close; returns status and body of each answer."""
    host, _, port = place.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        for piece in data:
            connection.sendall(piece)
        file = connection.makefile("rb")
        answers = []
        while line := file.readline():
            headers = dict(h.rstrip(b"\r\n").split(b": ", 1) for h in iter(file.readline, b"\r\n"))
            status = int(line.split()[1])
            if status >= 200:
                answers.append((status, file.read(int(headers[b"content-length"]))))
        file.close()
    return answers


CLOSE = b"connection: close"


def test_pipelined_requests_are_answered_in_order(shared: Place) -> None:
    requests = [post(b"/predict", ASK % b"%d" % i) for i in range(30)]
    answers = ask(shared, b"".join(requests) + post(b"/predict", ASK % b"last", CLOSE))
    assert [json.loads(body)["output"] for _, body in answers] == [str(i) for i in range(30)] + ["last"]


def test_a_refusal_waits_for_the_answers_before_it(shared: Place) -> None:
    answers = ask(shared, post(b"/predict", ASK % b"good") + b"\x16\x03\x01 this is not HTTP\r\n\r\n")
    assert [status for status, _ in answers] == [200, 400]


def test_a_request_in_single_bytes_and_chunks(shared: Place) -> None:
    head = b"POST /predict HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    body = b"".join(b"1\r\n%c\r\n" % byte for byte in ASK % b"slow") + b"0\r\nx-trailer: y\r\n\r\n"
    ((status, said),) = ask(shared, *(b"%c" % byte for byte in head + body))
    assert (status, json.loads(said)["output"]) == (200, "slow")


def test_http_1_0_and_expect(shared: Place) -> None:
    assert ask(shared, post(b"/predict", ASK % b"old", version=b"1.0"))[0][0] == 200
    request = post(b"/predict", ASK % b"careful", CLOSE, b"expect: 100-continue")
    assert [status for status, _ in ask(shared, request[:-20], request[-20:])] == [200]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x00\xff" * 40, 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n1\r\na\r\n0\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc", 400),
        (b"POST /predict HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nbad header\x01: x\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nhost: h\r\ncontent-length: 9999999999\r\n\r\n", 413),
        (
            b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n"
            + b"10000\r\n%b\r\n" % bytes(65536) * 17,
            413,
        ),
        (b"GET /" + b"a" * 40_000, 431),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 40_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 8_000 + b"\r\n", 431),
    ],
    ids=range(12),
)
def test_hostile_requests_are_refused(shared: Place, data: bytes, status: int) -> None:
    ((said, body),) = ask(shared, data)
    assert said == status
    assert json.loads(body)["error"]["message"]


def test_garbage_never_ends_the_process(shared: Place) -> None:
    noise = random.Random(7)  # noqa: S311
    good = post(b"/predict", ASK % b"x", CLOSE)
    for _ in range(60):
        spoiled = bytearray(good)
        for _ in range(noise.randrange(1, 12)):
            spoiled[noise.randrange(len(spoiled))] = noise.randrange(256)
        talk(shared, bytes(spoiled[: noise.randrange(1, len(spoiled) + 1)]))
    assert ask(shared, good)[0][0] == 200
    assert "Traceback" not in (shared.folder / "gateway.log").read_text()


class Wire:
    """The half of a transport that an engine's connection needs."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> partial[None]:
        return partial(self.calls.append, name)

    def write(self, data: bytes) -> None:
        self.calls.append("write")

    def is_closing(self) -> bool:
        return False


def test_an_engine_waits_while_it_is_told_to() -> None:
    wire, connection = Wire(), EngineConnection(Entity("m", 1, "h:1", Template()))
    connection.connection_made(cast(asyncio.Transport, wire))
    heard: list[bytes] = []
    connection.ask(b"request", lambda: heard.append(connection.take()))
    connection.data_received(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    connection.pause()
    connection.data_received(b"5\r\nabcde\r\n")  # was on its way already
    connection.resume()
    connection.data_received(b"0\r\n\r\n")
    assert wire.calls == ["write", "pause_reading", "resume_reading"]
    assert (b"".join(heard), connection.complete, connection.reusable) == (b"abcde", True, True)


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc"])
def test_an_engine_that_speaks_nonsense_or_half_an_answer_is_gone(said: bytes) -> None:
    connection = EngineConnection(Entity("m", 1, "h:1", Template()))
    connection.connection_made(cast(asyncio.Transport, Wire()))
    told: list[bool] = []
    connection.ask(b"request", lambda: told.append(connection.lost))
    connection.data_received(said)
    connection.connection_lost(None)
    assert told[-1]
    assert not connection.complete
    assert connection.lost
    assert "cut the connection" in str(connection.gone())


SAME = b"HTTP/1.1 200 OK\r\nserver: e\r\ncontent-length: %b\r\n\r\n%b"


@given(
    st.lists(
        st.sampled_from(
            [
                *(SAME % (b"%d" % len(body), body) for body in (b"", b"a", b"b" * 12)),
                SAME % (b"2", b"abc"),  # a byte too many
                SAME % (b"4", b"abc"),  # one too few
                SAME % (b"3\r\nconnection: close", b"abc"),
                SAME.replace(b"200 OK", b"500 No") % (b"3", b"abc"),
                SAME.replace(b"server: e", b"date: now") % (b"3", b"abc"),
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
                b"HTTP/1.1 100 Continue\r\n\r\n" + SAME % (b"3", b"abc"),
            ]
        ),
        max_size=5,
    )
)
def test_an_answer_whose_head_has_come_before_is_understood_as_if_it_had_not(answers: list[bytes]) -> None:
    """Whole answers may be compared with the one before; those that come in two pieces never are."""
    whole, halves = (engine_heard(answers, cut) for cut in (0, 20))
    assert whole == halves


def engine_heard(answers: list[bytes], cut: int) -> list[tuple[int, bytes, bool, bool, bool]]:
    connection = EngineConnection(Entity("m", 1, "h:1", Template()))
    connection.connection_made(cast(asyncio.Transport, Wire()))
    heard = []
    for answer in answers:
        connection.ask(b"request", lambda: None)
        for piece in filter(None, (answer[:cut], answer[cut:])):
            connection.data_received(piece)
        state = connection.complete, connection.reusable, connection.lost
        heard.append((connection.status, connection.take(), *state))
        if not connection.reusable:
            break
    return heard
