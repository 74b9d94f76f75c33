"""What the fast path reads and adds up, it reads and adds up as the rest of the gateway does, or it leaves it alone."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.gateway import fast_path, shapes, stream
from trimtab.gateway.fast_path import layout, terms
from trimtab.gateway.keys import Budget, Key, Rate
from trimtab.gateway.ledger import Ledger, Refused, Reserved, place_of
from trimtab.gateway.routes import Entity, Template
from trimtab.gateway.shapes import chat, scoring
from trimtab.native import build
from trimtab.store import journal

pytestmark = pytest.mark.skipif(not fast_path.LIBRARY.exists(), reason="the fast path was not compiled: no C compiler")

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBER = st.one_of(st.integers(-3, 2**40), st.floats(-1, 3), st.sampled_from([0, 1, 2, 0.5, 1e-9, 2**31, 2**63]))
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "user", "system", "assistant", "developer", "tool", "robot"]), "content": TEXT},
    optional={"name": TEXT, "refusal": TEXT},
)
BODY = st.fixed_dictionaries(
    {"messages": st.lists(st.one_of(MESSAGE, MESSAGE, st.none()), max_size=3)},
    optional={
        "model": st.sampled_from(["m", "m@champion", "", "x", "é"]),
        "stream": st.sampled_from([True, False, None, 1]),
        "stream_options": st.sampled_from([{}, {"include_usage": True}, {"include_usage": False}, {"x": 1}, None]),
        "temperature": NUMBER,
        "top_p": NUMBER,
        "max_tokens": NUMBER,
        "max_completion_tokens": NUMBER,
        "seed": NUMBER,
        "n": NUMBER,
        "user": TEXT,
        "tools": st.just([]),
    },
)
COUNT = st.one_of(st.integers(0, 2**40), st.integers(-2, 2), st.none(), st.just(1.5))
USAGE = st.fixed_dictionaries(
    {},
    optional={
        "prompt_tokens": COUNT,
        "completion_tokens": COUNT,
        "total_tokens": COUNT,
        "cached_tokens": COUNT,
        "cache_read_input_tokens": COUNT,
        "reasoning_tokens": COUNT,
        "prompt_tokens_details": st.one_of(
            st.none(), st.fixed_dictionaries({}, optional={"cached_tokens": COUNT, "x": COUNT})
        ),
        "completion_tokens_details": st.one_of(st.none(), st.just({"reasoning_tokens": 3}), st.just({"audio": None})),
    },
)
CONTENT = st.one_of(TEXT, st.none(), st.just([{"type": "text", "text": "a"}]))
ANSWER = st.fixed_dictionaries(
    {
        "choices": st.lists(
            st.fixed_dictionaries(
                {"message": st.fixed_dictionaries({}, optional={"content": CONTENT, "x": st.just({"a": [1, {}]})})},
                optional={"index": COUNT},
            ),
            max_size=2,
        )
    },
    optional={"usage": st.one_of(USAGE, st.none()), "id": TEXT, "raw": TEXT},
)
EVENT = st.fixed_dictionaries(
    {},
    optional={
        "choices": st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "index": st.integers(0, 2),
                    "delta": st.fixed_dictionaries({}, optional={"content": st.one_of(TEXT, st.none())}),
                },
            ),
            max_size=2,
        ),
        "usage": st.one_of(USAGE, st.none()),
        "error": st.one_of(st.none(), st.just({"message": "x"})),
        "created": COUNT,
    },
)


class Buffer(ctypes.Structure):
    _fields_ = (("at", ctypes.c_void_p), ("size", ctypes.c_size_t), ("room", ctypes.c_size_t))

    def bytes(self) -> bytes:
        return ctypes.string_at(self.at, self.size) if self.at else b""


VALUE = st.recursive(
    st.one_of(NUMBER, TEXT, st.none(), st.booleans()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ROWS = st.dictionaries(
    st.sampled_from(["inputs", "dataframe_records", "params", "model", "user", "stream", "client_request_id", "ä\n"]),
    VALUE,
    max_size=3,
)
ROW = st.dictionaries(st.sampled_from(["input", "input", "input", "params", "model", "x"]), VALUE, max_size=2)
PREDICTED = st.dictionaries(st.sampled_from(["predictions", "predictions", "x"]), VALUE, max_size=2)


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The same sources, every undefined operation an abort."""
    to = tmp_path_factory.mktemp("probe") / "probe.so"
    source = Path(__file__).with_name("fast_path_probe.c")
    flags = ["-I", str(Path(fast_path.__file__).parent), "-fsanitize=undefined", "-fno-sanitize-recover"]
    assert build.compiled(source, *flags, to=to) == ""
    library = ctypes.CDLL(str(to))
    for name in (
        "probe_asked",
        "probe_answer",
        "probe_event",
        "probe_reserve",
        "probe_frame",
        "probe_rows",
        "probe_reply",
    ):
        getattr(library, name).restype = ctypes.c_int64
    return library


@contextmanager
def buffers(probe: ctypes.CDLL, count: int) -> Iterator[list[Buffer]]:
    made = [Buffer() for _ in range(count)]
    yield made
    for one in made:
        probe.probe_free(ctypes.byref(one))


def mangled(value: Any) -> st.SearchStrategy[bytes]:
    """JSON of a value in some spelling, and now and then with bytes changed."""
    spelled = st.sampled_from([{}, {"ensure_ascii": False}, {"indent": 1}, {"separators": (",", ":")}])
    whole = spelled.map(lambda how: json.dumps(value, **how).encode("utf-8", "surrogatepass"))
    poison = st.sampled_from(
        [
            b'"',
            b"\\",
            b"\\u12",
            b"\\ud800",
            b"\xff",
            b"\xc3",
            b",",
            b"{",
            b"}",
            b"[",
            b"0",
            b"-",
            b"e5",
            b".",
            b" ",
            b"\0",
            b"\t",
            b"null",
            b"",
        ]
    )
    spoiled = st.tuples(whole, st.integers(0, 10**6), st.integers(0, 3), poison).map(
        lambda t: t[0][: t[1] % (len(t[0]) + 1)] + t[3] + t[0][t[1] % (len(t[0]) + 1) + t[2] :]
    )
    return st.one_of(whole, spoiled)


def facts(count: int) -> Any:
    return (ctypes.c_int64 * count)()


@given(BODY.flatmap(mangled))
@settings(max_examples=500, deadline=None)
def test_a_request_it_calls_plain_means_the_same_to_python(probe: ctypes.CDLL, body: bytes) -> None:
    template = Template(
        [msgspec.Raw(b'{"role":"system","content":"x"}')],
        {"temperature": msgspec.Raw(b"0"), "lora": msgspec.Raw(b"[]")},
    )
    entity, spec = Entity("m", 1, "h:1", template), layout.RouteSpec()
    spec.hold("messages", b",".join(bytes(raw) for raw in template.messages))
    spec.hold_names([b"", b"m", b"m@champion"])
    spec.hold_params([text for name, raw in template.params.items() for text in (name.encode(), bytes(raw))])
    found = facts(5)
    with buffers(probe, 2) as (engine, said):
        if not probe.probe_asked(
            body, ctypes.c_int64(len(body)), ctypes.byref(spec), ctypes.byref(engine), ctypes.byref(said), found
        ):
            return
        asked = chat.asked(body)  # it raises for what is wrong
        passed = json.loads(shapes.engine_request(asked, entity, entity.own[0], asked.conversations[0]))
        assert json.loads(engine.bytes()) == passed
        assert (said.bytes().decode() if found[3] else None) == asked.input
        assert found[0] == asked.sampling.get("max_tokens", -1)
        assert bool(found[1]) == asked.stream
        assert bool(found[4]) == (asked.named.model in {None, "", "m", "m@champion"})
        assert not asked.fields
        assert asked.user is None
        assert bool(found[2]) == (asked.tell is not shapes.as_it_comes)


@given(ANSWER.flatmap(mangled))
@settings(max_examples=500, deadline=None)
def test_an_answer_it_calls_plain_means_the_same_to_python(probe: ctypes.CDLL, body: bytes) -> None:
    usage = layout.Counts()
    with buffers(probe, 1) as (said,):
        if not probe.probe_answer(body, ctypes.c_int64(len(body)), ctypes.byref(said), ctypes.byref(usage)):
            return
        read = shapes.completion(body)
        assert read.text() == said.bytes().decode()
        assert counted(usage) == counts_of(read.usage)


@given(ROWS.flatmap(mangled))
@settings(max_examples=300, deadline=None)
def test_rows_it_calls_plain_mean_the_same_to_python(probe: ctypes.CDLL, body: bytes) -> None:
    with buffers(probe, 1) as (engine,):
        if probe.probe_rows(body, ctypes.c_int64(len(body)), ctypes.c_int64(layout.ROWS), ctypes.byref(engine)):
            asked = scoring.asked(body, b"application/json", True)  # it raises for what is wrong
            assert engine.bytes() == len(body).to_bytes(4, "little") + body == passed(asked.rows)
            assert asked.named == scoring.Invoked()


@given(ROW.flatmap(mangled))
@settings(max_examples=300, deadline=None)
def test_a_row_it_calls_plain_means_the_same_to_python(probe: ctypes.CDLL, body: bytes) -> None:
    with buffers(probe, 1) as (engine,):
        if probe.probe_rows(body, ctypes.c_int64(len(body)), ctypes.c_int64(layout.ONE_ROW), ctypes.byref(engine)):
            asked = scoring.predict(body)
            assert engine.bytes() == passed(asked.rows)
            assert asked.named.model is None


def passed(rows: bytes | None) -> bytes:
    """A part of a batch."""
    assert rows is not None
    return len(rows).to_bytes(4, "little") + rows


@given(PREDICTED.flatmap(mangled))
@settings(max_examples=300, deadline=None)
def test_a_prediction_it_passes_on_is_the_one_that_python_passes_on(probe: ctypes.CDLL, said: bytes) -> None:
    spec, request_id = layout.RouteSpec(), "0123456789abcdef" * 2
    spec.hold("version", b"7")
    with buffers(probe, 1) as (reply,):
        where = said, ctypes.c_int64(len(said)), request_id.encode(), ctypes.byref(spec), ctypes.byref(reply)
        if probe.probe_reply(*where):
            answer = shapes.completion(said, "invocations")
            rendered = scoring.predict(b'{"input":1}').render([answer], request_id, Entity("m", 7, "h:1", Template()))
            assert reply.bytes() == rendered


@given(EVENT.flatmap(mangled))
@settings(max_examples=500, deadline=None)
def test_an_event_it_calls_good_means_the_same_to_python(probe: ctypes.CDLL, payload: bytes) -> None:
    usage, found = layout.Counts(), facts(3)
    with buffers(probe, 1) as (said,):
        if b"\n\n" in payload or not probe.probe_event(
            payload, ctypes.c_int64(len(payload)), ctypes.byref(said), ctypes.byref(usage), found
        ):
            return
        relay = stream.Relay()
        try:
            passed = relay.feed(b"data: %b\n\n" % payload + b'data: "error"\n\n')
        except msgspec.DecodeError:
            assert not found[2]  # of a kind that a choice cannot have: the text is not read here either
            return
        if found[0]:
            assert counted(usage) == counts_of(relay.usage)
        assert (payload in passed) == (not found[0] or bool(found[1]))
        if found[2]:
            assert said.bytes().decode() == stream.text_of(b"data: %b\n\n" % payload)[0]


def counted(usage: layout.Counts) -> tuple[int | None, ...]:
    counts = (usage.prompt, usage.completion, usage.cached, usage.written, usage.reasoning)
    return tuple(None if count < 0 else count for count in counts)


def counts_of(usage: stream.Usage) -> tuple[int | None, ...]:
    return (
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.cached_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
    )


RATE = st.one_of(st.none(), st.builds(Rate, st.integers(1, 50), st.sampled_from([1, 60, 3600])))
BUDGETS = st.lists(
    st.builds(Budget, st.integers(1, 3000), st.sampled_from(["hour", "day", "month"])),
    max_size=3,
    unique_by=lambda b: b.per,
)
STEP = st.tuples(
    st.integers(0, 3 * 10**12),
    st.integers(0, 60),
    st.integers(0, 800),
    st.integers(0, 80),
    st.integers(0, 900),
    st.booleans(),
)


@given(RATE, RATE, BUDGETS, st.lists(STEP, min_size=1, max_size=25))
@settings(max_examples=150, deadline=None)
def test_the_sums_of_a_key_are_the_ledgers(
    probe: ctypes.CDLL,
    tmp_path_factory: pytest.TempPathFactory,
    requests: Rate | None,
    tokens: Rate | None,
    budgets: list[Budget],
    steps: list[Any],
) -> None:
    key = Key("key-0123456789ab", 0, frozenset(), [], [], requests, tokens, budgets)
    folder = tmp_path_factory.mktemp("ledgers")
    ours, theirs = Ledger(folder / "a"), Ledger(folder / "b")
    try:
        book, now = layout.Book(), 1_790_000_000 * 10**9
        theirs.full_at(key)  # so that it has words
        limits = terms.limits_of(key)
        for later, asked, money, used, paid, settled in steps:
            now += later
            book.words, book.size, book.fd = theirs.words()
            book.month, book.month_ends = terms.month_of(now)
            held = layout.Reserve(tokens=asked, nano_usd=money)
            mine = ours.reserve(key, now, asked, money)
            admitted = probe.probe_reserve(
                ctypes.byref(book), ctypes.byref(limits), ctypes.c_int64(now), ctypes.byref(held)
            )
            assert bool(admitted) == (not isinstance(mine, Refused))
            if isinstance(mine, Reserved):
                assert layout.reserved_of(held, key) == mine
                if settled:
                    ours.settle(key, mine, now, used, paid)
                    probe.probe_settle(
                        ctypes.byref(book),
                        ctypes.byref(limits),
                        ctypes.byref(held),
                        ctypes.c_int64(now),
                        ctypes.c_int64(used),
                        ctypes.c_int64(paid),
                    )
            assert words(ours) == words(theirs)
        assert place_of(key)[0] == 0
    finally:
        ours.close()
        theirs.close()


def words(ledger: Ledger) -> list[int]:
    at, _, _ = ledger.words()
    return list((ctypes.c_int64 * 16).from_address(at))


@given(st.binary(max_size=70_000))
@settings(max_examples=60, deadline=None)
def test_its_frames_are_the_journals(probe: ctypes.CDLL, tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    path = tmp_path_factory.mktemp("frames") / "1-1.seg"
    with buffers(probe, 1) as (frame,):
        probe.probe_frame(body, ctypes.c_int64(len(body)), ctypes.byref(frame))
        path.write_bytes(frame.bytes())
    ((end, read),) = journal.frames(path)
    assert read == journal.Erased(body)
    assert end == path.stat().st_size
