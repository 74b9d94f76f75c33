"""Accuracy from late labels: what counts as right, and an alarm that repeated looks cannot fool."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from scipy.stats import binom

from trimtab.evaluation.scorers import label_of
from trimtab.monitor import quality
from trimtab.monitor.quality import Answered, judge
from trimtab.records.monitor import Interval, QualityReport
from trimtab.records.registry import LabelSet

AT = datetime(2026, 3, 2, 14, 0, tzinfo=UTC)
LABELS = LabelSet(fields={"intent": ("refund", "login"), "urgency": ("low", "high")})
TRUTH = {"intent": "refund", "urgency": "low"}
RIGHT = LABELS.dump(TRUTH)
WRONG = LABELS.dump({"intent": "login", "urgency": "low"})


def answered(outputs: Iterable[str | None], version: int = 1, label: dict[str, str] = TRUTH) -> list[Answered]:
    return [Answered(row, AT, version, output, label) for row, output in enumerate(outputs)]


def judged(rows: list[Answered], *, field: str = "*", minimum: float = 0.85, looks: int = 0) -> QualityReport:
    known = {1: LABELS, 2: LABELS}
    return judge(rows, model="m", champion=1, labels=known, field=field, minimum=minimum, looks=looks, at=AT)


@functools.cache
def interval(right: int, n: int, looks: int = 0) -> Interval:
    found = judged(answered([RIGHT] * right + [WRONG] * (n - right)), looks=looks).value
    assert found is not None
    return found


@given(st.data(), st.integers(1, 300), st.integers(0, 500), st.floats(0, 1))
@examples(max_examples=150)
def test_the_verdict_follows_the_interval_and_the_interval_holds_the_estimate(
    data: st.DataObject, n: int, looks: int, minimum: float
) -> None:
    right = data.draw(st.integers(0, n))
    report = judged(answered([RIGHT] * right + [WRONG] * (n - right)), minimum=minimum, looks=looks)
    value = report.value
    assert value is not None
    assert 0 <= value.low <= value.estimate == right / n <= value.high <= 1
    if n < quality.MINIMUM:
        assert report.verdict == "insufficient"
    else:
        assert report.verdict == ("breach" if value.high < minimum else "ok")


@given(st.integers(0, 60), st.integers(0, 400))
@examples(max_examples=60)
def test_each_further_look_asks_for_more_evidence(right: int, looks: int) -> None:
    now, later = interval(right, 60, looks), interval(right, 60, looks + 1)
    assert later.low <= now.low
    assert later.high >= now.high
    assert later.confidence > now.confidence


@pytest.mark.parametrize("accuracy", [0.5, 0.85, 0.95, 0.99])
def test_all_looks_together_miss_the_truth_no_more_often_than_stated(accuracy: float) -> None:
    n, missed = 40, 0.0
    for looks in (0, 1, 5, 50):  # the exact chance of a miss at a look, against that look's share of the risk
        wide = [interval(right, n, looks) for right in range(n + 1)]
        misses = [k for k, found in enumerate(wide) if not found.low <= accuracy <= found.high]
        miss = float(sum(binom.pmf(misses, n, accuracy)))
        assert miss <= 1 - wide[0].confidence
        missed += 1 - wide[0].confidence
    assert missed <= quality.RISK


def test_the_levels_of_all_looks_sum_to_the_stated_risk() -> None:
    spent = sum(1 - interval(20, 40, looks).confidence for looks in range(100))
    assert 0.95 * quality.RISK < spent < quality.RISK


@pytest.mark.parametrize("output", [None, "", "no JSON", '{"intent":"refund"}', '{"intent":"refund","urgency":"soon"}'])
def test_an_invalid_answer_is_wrong(output: str | None) -> None:
    report = judged(answered([RIGHT] * 30 + [output] * 10))
    assert report.value is not None
    assert (report.n, report.value.estimate) == (40, 0.75)


def test_one_field_can_be_judged_alone() -> None:
    rows = answered([RIGHT] * 10 + [WRONG] * 30)
    values = {field: judged(rows, field=field).value for field in ("*", "intent", "urgency")}
    assert {field: value and value.estimate for field, value in values.items()} == {
        "*": 0.25,
        "intent": 0.25,
        "urgency": 1.0,
    }


def test_a_label_that_the_version_does_not_know_is_counted_and_the_answer_is_wrong() -> None:
    recall = {"intent": "recall", "urgency": "high"}
    report = judged([*answered([RIGHT] * 30), *answered([RIGHT] * 12, label=recall)])
    assert report.unknown_labels == {"intent=recall": 12}
    assert report.value is not None
    assert report.value.estimate == 30 / 42


def test_other_versions_are_shown_beside_the_champion_and_do_not_move_its_verdict() -> None:
    champion, canary = answered([RIGHT] * 40), answered([WRONG] * 40, version=2)
    report = judged([*champion, *canary])
    assert {version: value.estimate for version, value in report.by_version.items()} == {1: 1.0, 2: 0.0}
    alone = judged(champion)
    assert (report.value, report.verdict, report.window) == (alone.value, "ok", alone.window)


def test_a_label_is_a_json_object_of_values() -> None:
    assert label_of('{"intent":"refund","count":2}') == {"intent": "refund", "count": "2"}
    assert (label_of("[1]"), label_of("nonsense")) == ({}, {})
