"""What a client says is understood as h11 understands it, or refused: no third way for a request to hide in."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import Heard, Seen, oracle, ours

from trimtab.gateway.exchange import Head
from trimtab.gateway.heads import Remembered

TOKEN = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=8).map(lambda name: f"x-{name}".encode())
VALUE = st.text("abc XYZ019\t,;=\"'/()", max_size=12).map(lambda value: value.strip().encode())
PATH = st.text("abcXYZ09-._~/%?=&", max_size=12).map(lambda path: f"/{path}".encode())


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One well-formed request."""
    method = draw(st.sampled_from([b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS"]))
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.1", b"1.0"]))
    headers = [b"Host: h", *(b"%b: %b" % (draw(TOKEN), draw(VALUE)) for _ in range(draw(st.integers(0, 3))))]
    headers += draw(st.lists(st.sampled_from([b"Connection: close", b"Connection: keep-alive"]), max_size=1))
    body = draw(st.binary(max_size=40))
    framing = draw(st.sampled_from(["none", "length", "chunked"] if version == b"1.1" else ["none", "length"]))
    if framing == "length":
        headers.append(b"Content-Length: %d" % len(body))
    elif framing == "chunked":
        headers.append(b"Transfer-Encoding: chunked")
        body = draw(chunks(body))
    else:
        body = b""
    return b"%b %b HTTP/%b\r\n%b\r\n\r\n%b" % (method, draw(PATH), version, b"\r\n".join(headers), body)


@st.composite
def chunks(draw: st.DrawFn, body: bytes) -> bytes:
    """A body in chunks of any size, some with an extension, some with trailers behind them."""
    framed = b""
    while body:
        size = draw(st.integers(1, len(body)))
        extension = draw(st.sampled_from([b"", b"", b";a", b";a=b", b';a="b"']))
        framed += b"%x%b\r\n%b\r\n" % (size, extension, body[:size])
        body = body[size:]
    return framed + b"0\r\n" + draw(st.sampled_from([b"", b"X-Trailer: t\r\n"])) + b"\r\n"


POISON = [
    *(b"\r", b"\n", b"\0", b"\x0b", b"\r\n", b"\r\n\r\n", b"\n\n", b"\r\n ", b"\xff", b":", b";", b","),
    *(b"Content-Length: 3\r\n", b"Content-Length: 0\r\n", b"Content-Length : 3\r\n", b"Content-Length: +3\r\n"),
    *(b"Content-Length: 3, 3\r\n", b"Content-Length: 0x3\r\n", b"Content-Length:\r\n", b"Content-Length: 3 3\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding: identity\r\n"),
    *(b"Transfer-Encoding : chunked\r\n", b"Transfer-Encoding:\x0bchunked\r\n", b"Transfer-Encoding: xchunked\r\n"),
    *(b"Transfer-Encoding: chunked, identity\r\n", b"Transfer-Encoding:\r\n chunked\r\n", b"Host: other\r\n"),
    *(b"Upgrade: h2c\r\nConnection: upgrade\r\n", b"Expect: 100-continue\r\n", b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"),
    *(b"0\r\n\r\n", b"3\r\nabc\r\n", b"-1\r\n", b"ffffffffffffffffff\r\n", b"1 \r\n", b"00000000000000000000\r\n"),
    *(b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"CONNECT h:1 HTTP/1.1\r\n", b"Content-Length: 5\n"),
]


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """Requests with something inserted, cut out or written over, mostly where lines meet."""
    data = b"".join(draw(st.lists(requests(), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(1, 3))):
        seams = [0, *(i + 2 for i in range(len(data)) if data[i : i + 2] == b"\r\n")]
        at = draw(st.sampled_from(seams) | st.integers(0, len(data)))
        cut = draw(st.sampled_from([0, 0, 0, 1, 2, 5]))
        data = data[:at] + draw(st.sampled_from(POISON) | st.just(b"")) + data[at + cut :]
    return data


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    at = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[start:end] for start, end in pairwise(at) if end > start]


CUTS = st.lists(st.integers(0, 400), max_size=6)


@given(st.lists(requests(), min_size=1, max_size=4), CUTS)
def test_good_requests_are_understood_as_h11_understands_them_however_they_are_cut(
    asked: list[bytes], cuts: list[int]
) -> None:
    data = b"".join(asked)
    heard = ours(split(data, cuts))
    assert heard.refused is None
    assert heard.requests == oracle(data).requests
    assert heard == ours([data])


@settings(max_examples=500)
@given(spoiled(), CUTS)
def test_a_spoiled_request_is_understood_as_h11_understands_it_or_refused(data: bytes, cuts: list[int]) -> None:
    heard, wanted = ours(split(data, cuts)), oracle(data)
    assert heard == ours([data])
    assert bare(heard) == bare(wanted)[: len(heard.requests)], "a request that the oracle does not see"
    if len(heard.requests) < len(wanted.requests):
        assert heard.refused, "a request went unanswered"


def bare(heard: Heard) -> list[tuple[str, str, bytes]]:
    return [(one.method, one.path, one.body) for one in heard.requests]


HEAD = b"POST / HTTP/1.1\r\nHost: h\r\n"
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde",
        HEAD + b"Content-Length: 0, 0\r\n\r\n",
        HEAD + b"Content-Length : 0\r\n\r\n",
        HEAD + b"Content-Length:\r\n 0\r\n\r\n",
        HEAD + b"Content-Length: +0\r\n\r\n",
        HEAD + b"Content-Length: 0x0\r\n\r\n",
        HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: identity\r\n\r\n",
        HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
        HEAD + b"X: a\rContent-Length: 33\r\n\r\n",
        HEAD + b"X: a\0b\r\n\r\n",
        HEAD + b" X: folded\r\n\r\n",
        HEAD + b"X: a\r\n folded\r\n\r\n",
        HEAD + b"Host: other\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: no host\r\n\r\n",
        b"GET / HTTP/1.1 \r\nHost: h\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: h\r\n\r\n",
        b"GET /\x01 HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /\r\n\r\n",
    ],
)
def test_what_two_servers_could_read_differently_is_refused_and_nothing_behind_it_is_heard(data: bytes) -> None:
    heard = ours([data + HIDDEN])
    assert heard.requests == []
    assert heard.refused in (400, 501)
    assert ours([b"%c" % byte for byte in data + HIDDEN]) == heard


def test_a_refusal_comes_behind_the_answers_to_the_requests_before_it() -> None:
    heard = ours([HIDDEN + HEAD + b"Content-Length: x\r\n\r\n" + HIDDEN])
    assert heard.requests == [Seen("GET", "/hidden", ((b"host", b"h"),), b"")]
    assert heard.refused == 400


LENGTHS = st.sampled_from(
    [b"%d", b"00%d", b"%d ", b" %d", b"+%d", b"%d, %d", b"-%d", b"0x%d", b"%d\r\nX: y", b"1%d", b""]
)


@given(st.lists(st.tuples(st.binary(max_size=12), st.just(b"%d") | LENGTHS), min_size=2, max_size=5))
def test_a_head_that_comes_again_is_understood_as_if_it_had_not_come_before(said: list[tuple[bytes, bytes]]) -> None:
    """Whole requests in one piece each may be compared with the one before; single bytes never are."""
    pieces = [
        HEAD + b"Content-Length: " + length.replace(b"%d", b"%d" % len(body)) + b"\r\nX-More: 1\r\n\r\n" + body
        for body, length in said
    ]
    whole, bytewise = ours(pieces), ours([b"%c" % byte for byte in b"".join(pieces)])
    assert (bare(whole), whole.refused) == (bare(bytewise), bytewise.refused)


def test_a_head_is_remembered_without_its_length() -> None:
    head, remembered = Head(), Remembered()
    head.keep_alive = True
    remembered.learn(HEAD + b"Content-Length: 3\r\n\r\nabc", head, b"abc")
    assert remembered.head is head
    assert remembered.body_of(HEAD + b"Content-Length: 10\r\n\r\n0123456789", 10) == b"0123456789"
    for other in (
        b"Content-Length: 4\r\n\r\nabc",
        b"Content-Length: 2\r\n\r\nabc",
        b"Content-Length: 3\r\nX: y\r\n\r\nabc",
    ):
        assert remembered.body_of(HEAD + other, 10) is None
    assert remembered.body_of(HEAD + b"Content-Length: 11\r\n\r\n0123456789a", 10) is None, "longer than is taken"


UPGRADE = b"Connection: upgrade\r\nUpgrade: h2c\r\n"


def test_a_wish_to_upgrade_hides_no_request_in_a_body() -> None:
    heard = ours([HEAD + UPGRADE + b"Content-Length: %d\r\n\r\n%b" % (len(HIDDEN), HIDDEN) + HIDDEN])
    assert bare(heard) == [("POST", "/", HIDDEN), ("GET", "/hidden", b"")]


def test_ten_thousand_wishes_to_upgrade_in_one_piece_are_ten_thousand_plain_requests() -> None:
    assert len(ours([(HEAD + UPGRADE + b"\r\n") * 10_000]).requests) == 10_000
