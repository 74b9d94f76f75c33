"""When a cycle starts by itself: an alert asks, the brakes decide, and the reason is written down."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

import place
from trimtab.errors import EngineError
from trimtab.lifecycle import loop, unfinished
from trimtab.lifecycle.loop import trigger
from trimtab.records.lifecycle import Cycle, CycleEnd
from trimtab.records.project import BrakesSection, RetrainSection
from trimtab.records.training import Trigger
from trimtab.store.control import Control

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def opened(hours_ago: float, model: str = "desk") -> Cycle:
    at = NOW - timedelta(hours=hours_ago)
    return Cycle(id=at.isoformat(), model=model, opened_at=at, trigger="cron", champion=1, cut=at)


def asked(past: list[Cycle], n_labelled: int, max_per_day: int = 2, min_labelled: int = 80) -> Trigger:
    section = RetrainSection(brakes=BrakesSection(max_per_day=max_per_day, min_labelled=min_labelled))
    return trigger(None, "new topics", section, past, n_labelled, NOW, "desk")


@given(
    ages=st.lists(st.integers(0, 72), max_size=8),
    others=st.integers(0, 5),
    n_labelled=st.integers(0, 200),
    max_per_day=st.integers(1, 5),
    min_labelled=st.integers(20, 150),
)
def test_a_cycle_starts_exactly_when_no_brake_holds(
    ages: list[int], others: int, n_labelled: int, max_per_day: int, min_labelled: int
) -> None:
    past = [opened(age) for age in ages] + [opened(1, model="another") for _ in range(others)]
    made = asked(past, n_labelled, max_per_day, min_labelled)
    today = sum(age < 24 for age in ages)
    assert made.fired == (today < max_per_day and n_labelled >= min_labelled)
    assert (made.reason == "new topics") == made.fired


def test_a_brake_says_what_it_saw_and_what_the_file_allows() -> None:
    assert asked([opened(1), opened(23)], 500).reason == "2 cycles in 24 hours; brakes.max_per_day is 2"
    assert asked([opened(1), opened(25)], 79).reason == "79 labelled requests so far; brakes.min_labelled is 80"
    assert asked([opened(1), opened(25)], 80).fired


@given(st.lists(st.integers(0, 72), max_size=6), st.integers(0, 200), st.integers(0, 100))
def test_more_labels_never_stop_a_cycle_and_more_cycles_never_start_one(
    ages: list[int], n_labelled: int, more: int
) -> None:
    past = [opened(age) for age in ages]
    if asked(past, n_labelled).fired:
        assert asked(past, n_labelled + more).fired
    else:
        assert not asked([*past, opened(0.5)], n_labelled).fired


def test_a_cycle_that_keeps_breaking_off_ends_as_failed_and_frees_the_way(tmp_path: Path) -> None:
    where, loaded = place.make(tmp_path)
    work = loop.Loop(where, loaded, Control(where))
    cycle = opened(1)
    work.control.put("cycle", cycle.id, cycle)
    for tries in range(loop.TRIES):
        assert [waiting.id for waiting in unfinished(work.control, "desk")] == [cycle.id], tries
        loop.stumbled(work, cycle, EngineError("the engine died"))
    assert unfinished(work.control, "desk") == []
    (end,) = work.control.facts("cycle_end", CycleEnd)
    assert end.outcome == "failed"
    assert "the engine died" in end.summary
