"""What keys use is counted exactly: within every limit, by any number of processes, whoever is killed and when."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trimtab.gateway.keys import Budget, Key, Rate
from trimtab.gateway.ledger import SLOT_WORDS, Ledger, Refused, Reserved, left

NOW = int(datetime(2026, 10, 3, 12, 30, tzinfo=UTC).timestamp()) * 10**9
SECOND = 10**9


def key(slot: int = 0, **limits) -> Key:
    return Key(f"key-{slot:012x}", slot, frozenset({"predict"}), [], [], **limits)


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """One ledger; each example takes a slot of its own."""
    opened = Ledger(tmp_path_factory.mktemp("book") / "ledger.bin")
    yield opened
    opened.close()


SLOTS = itertools.count()


RATE = st.builds(Rate, st.integers(1, 50), st.sampled_from([1, 60]))
EIGHTHS = st.sampled_from([0.0, 0.0, 0.125, 0.5, 1.0, 1.25])
ASKED = st.lists(st.tuples(EIGHTHS, st.floats(0.1, 1.1), st.sampled_from([0.0, 0.3, 1.0]), EIGHTHS), max_size=30)
"""For each request: windows since the one before, share of the bucket it reserves, share of that it uses, windows it
lasts."""


@settings(max_examples=150)
@example(Rate(10, 60), [(0.0, 1.0, 0.0, 1.25), (1.0, 1.0, 1.0, 0.0), (0.5, 1.0, 1.0, 0.0)])
@example(Rate(10, 60), [(0.0, 0.5, 0.0, 0.125), (0.0, 0.5, 0.0, 0.75), (0.625, 1.0, 1.0, 0.0), (0.25, 0.5, 1.0, 0.0)])
@given(RATE, ASKED)
def test_no_window_ever_sees_more_than_a_bucket_and_its_inflow(book: Ledger, rate: Rate, asked: list) -> None:
    """Tokens are counted as used, at the moment the request was let in, however late they are settled."""
    used: list[tuple[int, int]] = []
    ends: list[tuple[int, int, Reserved, int]] = []
    one, now = key(next(SLOTS), tokens=rate), NOW
    for index, (pause, size, share, lasts) in enumerate(asked):
        now += int(pause * rate.seconds * SECOND)
        tokens = max(1, int(size * rate.count))
        for ended in sorted(end for end in ends if end[0] <= now):
            book.settle(one, ended[2], ended[0], ended[3], 0)
            ends.remove(ended)
        reserved = book.reserve(one, now, tokens, 0)
        if isinstance(reserved, Reserved):
            ends.append((now + int(lasts * rate.seconds * SECOND), index, reserved, int(tokens * share)))
            used.append((now, int(tokens * share)))
        elif reserved.wait is None:
            assert tokens > rate.count
    for first in range(len(used)):
        total = 0
        for at, tokens in used[first:]:
            total += tokens
            assert total <= rate.count + (at - used[first][0]) * rate.count / (rate.seconds * SECOND) + 1e-6


def test_a_bucket_of_a_day_is_never_too_small_for_its_words(book: Ledger) -> None:
    """Refunds that add up for ever, and an engine that counts more tokens than there are."""
    one = key(next(SLOTS), tokens=Rate(10, 86400))
    base = one.slot * SLOT_WORDS
    for _ in range(3):
        held = book.reserve(one, NOW, 10, 0)
        assert isinstance(held, Reserved)
        book._words[base + 3] = 2**62 - 5  # many days of refunds later
        held = msgspec.structs.replace(held, refunded=2**62 - 5)
        book.settle(one, held, NOW, 0, 0)
    held = book.reserve(one, NOW, 10, 0)
    assert isinstance(held, Reserved)
    book.settle(one, held, NOW, 10**9, 0)
    refused = book.reserve(one, NOW, 10, 0)
    assert isinstance(refused, Refused)
    assert refused.wait is not None
    assert 86400 * SECOND <= refused.wait <= 2 * 86400 * SECOND


@settings(max_examples=100)
@given(RATE, st.lists(st.integers(0, 5 * SECOND), max_size=60))
def test_who_waits_as_long_as_told_is_let_in_and_not_a_moment_earlier(
    book: Ledger, rate: Rate, pauses: list[int]
) -> None:
    one, now, full = key(next(SLOTS), requests=rate), NOW, 0
    for pause in pauses:
        now += pause
        answer = book.reserve(one, now, 0, 0)
        if isinstance(answer, Refused):
            assert answer.what == "requests"
            assert answer.wait is not None
            early = book.reserve(one, now + answer.wait - 1, 0, 0)
            assert isinstance(early, Refused)
            now += answer.wait
            answer = book.reserve(one, now, 0, 0)
        assert isinstance(answer, Reserved)
        full = answer.requests_full
        assert 0 <= left(rate, full, now) < rate.count


MONEY = st.lists(
    st.tuples(st.integers(0, 3 * 3600 * SECOND), st.integers(0, 120), st.floats(0, 1), st.booleans()), max_size=40
)


@settings(max_examples=150)
@given(st.integers(0, 300), st.sampled_from(["hour", "day", "month"]), MONEY)
def test_a_budget_is_never_exceeded_and_the_book_says_what_was_spent(
    book: Ledger, most: int, per: str, asked: list
) -> None:
    budget = Budget(most, per)
    one, now = key(next(SLOTS), budgets=[budget]), NOW
    spent: dict[tuple[int, ...], int] = {}
    for pause, money, share, ends in asked:
        now += pause
        answer = book.reserve(one, now, 0, money)
        moment = datetime.fromtimestamp(now / 1e9, UTC)
        period = {"hour": moment.timetuple()[:4], "day": moment.timetuple()[:3], "month": moment.timetuple()[:2]}[per]
        before = spent.get(period, 0)
        if isinstance(answer, Refused):
            assert before + money > most
            assert (answer.wait is None) == (money > most)
        else:
            assert before + money <= most
            spent[period] = before + (int(money * share) if ends else money)
            if ends:  # the others never end: their gateway was killed
                book.settle(one, answer, now, 0, int(money * share))
        assert book.spent(one, budget, now) == spent.get(period, 0)


def test_what_ends_in_the_next_period_leaves_that_one_alone_and_debts_follow(book: Ledger) -> None:
    budget = Budget(100, "hour")
    one, later = key(next(SLOTS), budgets=[budget]), NOW + 3600 * SECOND
    first, second = (book.reserve(one, NOW, 0, 40) for _ in "12")
    assert isinstance(first, Reserved)
    assert isinstance(second, Reserved)
    assert isinstance(book.reserve(one, later, 0, 10), Reserved)
    book.settle(one, first, later, 0, 5)
    assert book.spent(one, budget, later) == 10
    book.settle(one, second, later, 0, 47)
    assert book.spent(one, budget, later) == 17


def test_a_clock_set_back_brings_no_budget_back_and_blocks_no_key_for_long(book: Ledger) -> None:
    one = key(next(SLOTS), requests=Rate(1, 60), budgets=[Budget(10, "day")])
    assert isinstance(book.reserve(one, NOW, 0, 10), Reserved)
    yesterday = NOW - 86400 * SECOND
    refused = book.reserve(msgspec.structs.replace(one, requests=None), yesterday, 0, 1)
    assert isinstance(refused, Refused)
    refused = book.reserve(msgspec.structs.replace(one, budgets=[]), yesterday, 0, 0)
    assert isinstance(refused, Refused)
    assert refused.wait is not None
    assert refused.wait <= 120 * SECOND


def test_who_is_refused_for_one_thing_has_used_nothing_of_another(book: Ledger) -> None:
    one = key(next(SLOTS), requests=Rate(5, 60), tokens=Rate(100, 60), budgets=[Budget(50, "hour"), Budget(60, "day")])
    assert isinstance(book.reserve(one, NOW, 10, 20), Reserved)
    before = bytes(book._words)
    assert [book.reserve(one, NOW, *needs) for needs in ((101, 0), (95, 0), (0, 31), (0, 51))] == [
        Refused("tokens", None),
        Refused("tokens", 3 * SECOND),
        Refused("hour", 1800 * SECOND),
        Refused("hour", None),
    ]
    assert bytes(book._words) == before


def test_it_survives_its_process_and_slots_are_nobody_elses(tmp_path: Path) -> None:
    budget = Budget(100, "month")
    for life in range(3):
        book = Ledger(tmp_path / "ledger.bin")
        for slot in (0, 1, 700):
            assert isinstance(book.reserve(key(slot, budgets=[budget]), NOW, 0, 10 + slot % 3), Reserved)
            assert book.spent(key(slot, budgets=[budget]), budget, NOW) == (10 + slot % 3) * (life + 1)
        book.close()
    book = Ledger(tmp_path / "ledger.bin")
    stranger = msgspec.structs.replace(key(1, budgets=[budget]), id="key-fffffffffff1")
    assert book.spent(stranger, budget, NOW) == 0
    assert isinstance(book.reserve(stranger, NOW, 0, 100), Reserved)
    book.close()
    assert (tmp_path / "ledger.bin").stat().st_mode & 0o777 == 0o600


def test_a_disk_without_room_refuses_and_does_not_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    book = Ledger(tmp_path / "ledger.bin")
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        book.reserve(key(budgets=[Budget(1, "day")]), NOW, 0, 1)
    monkeypatch.undo()
    assert isinstance(book.reserve(key(budgets=[Budget(1, "day")]), NOW, 0, 1), Reserved)
    book.close()


WORKER = """
import sys
from pathlib import Path
from trimtab.gateway.keys import Budget, Key, Rate
from trimtab.gateway.ledger import Ledger, Reserved
book = Ledger(Path(sys.argv[1]))
one = Key("key-000000000000", 0, frozenset(), [], [], tokens=Rate(10_000_000, 86400), budgets=[Budget(60_000, "day")])
now, turn = int(sys.argv[2]), 0
while isinstance(held := book.reserve(one, now, 7, 7), Reserved):
    turn += 1
    used = turn % 8
    book.settle(one, held, now, used, used)
    print(used, flush=True)
"""


def test_processes_share_one_truth_and_a_killed_one_takes_at_most_what_it_held(tmp_path: Path) -> None:
    """Five spend from one budget until it is used up; two of them are killed on the way."""
    file, lot = tmp_path / "ledger.bin", random.Random(5)  # noqa: S311
    command = [sys.executable, "-c", WORKER, str(file), str(NOW)]
    outs = [tmp_path / f"out-{n}" for n in range(5)]
    workers = []
    for out in outs:
        with out.open("w") as said:
            workers.append(subprocess.Popen(command, stdout=said))
    for victim, out in zip(workers[:2], outs[:2], strict=True):
        heard = lot.randrange(50, 400)
        while out.read_text().count("\n") < heard and victim.poll() is None:
            time.sleep(0.001)
        victim.kill()
    assert [worker.wait() for worker in workers][2:] == [0, 0, 0]  # a victim may be done before it is killed
    heard = sum(int(line) for out in outs for line in out.read_text().split())
    budget = Budget(60_000, "day")
    book = Ledger(file)
    spent = book.spent(key(budgets=[budget]), budget, NOW)
    book.close()
    assert 60_000 - 7 < spent <= 60_000
    assert 0 <= spent - heard <= 2 * (7 + 7), "a killed worker held one reservation, and one word of it may be unsaid"
