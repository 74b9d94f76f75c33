"""The fairness gate's error rates are the published ones, and nothing that was asked is dropped."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy import stats

from trimtab.records.promotion import GateResult
from trimtab.responsible.fairness import counterfactual_gate

HIGH, LOW = {"urgency": "high"}, {"urgency": "low"}
Pair = tuple[dict[str, str] | None, dict[str, str] | None]


def gate(
    pairs: list[Pair], groups: list[tuple[str, str]] | None = None, favourable: tuple[str, ...] = ("high",)
) -> GateResult:
    groups = groups or [("a", "b")] * len(pairs)
    return counterfactual_gate(
        pairs,
        groups,
        field="urgency",
        favourable=favourable,
        deadband=0.02,
        max_disparity=0.1,
        names=[(f"Name {a}", f"Name {b}") for a, b in groups],
        texts=[f"text {row}" for row in range(len(pairs))],
    )


def table(a_only: int, b_only: int, n: int) -> tuple[list[Pair], list[tuple[str, str]]]:
    """n pairs, every other one asked with the names in reverse."""
    pairs: list[Pair] = [(HIGH, LOW)] * a_only + [(LOW, HIGH)] * b_only + [(LOW, LOW)] * (n - a_only - b_only)
    turned = [(b, a) if row % 2 else (a, b) for row, (a, b) in enumerate(pairs)]
    return turned, [("b", "a") if row % 2 else ("a", "b") for row in range(n)]


@cache
def verdict(a_only: int, b_only: int, n: int) -> str:
    return gate(*table(a_only, b_only, n)).verdict


def chance(wanted: str, p10: float, p01: float, n: int) -> float:
    """Exact probability of a verdict, by summing over the tables that hold all but 1e-4 of the mass."""
    cells = [(b, c, n - b - c) for b in range(n + 1) for c in range(n + 1 - b)]
    mass = stats.multinomial.pmf(cells, n, [p10, p01, 1 - p10 - p01])
    order = np.argsort(-mass)
    order = order[: int(np.searchsorted(np.cumsum(mass[order]), 1 - 1e-4)) + 1]
    return float(sum(mass[i] for i in order if verdict(*cells[i][:2], n) == wanted))


@pytest.mark.parametrize("n", [40, 100])
@pytest.mark.parametrize("flips", [0.02, 0.1])
def test_without_a_gap_the_gate_fails_at_most_5_percent(flips: float, n: int) -> None:
    assert chance("fail", flips / 2, flips / 2, n) <= 0.05


@pytest.mark.parametrize("n", [40, 100])
@pytest.mark.parametrize("other", [0.0, 0.02])
def test_at_the_tolerance_the_gate_passes_at_most_5_percent(other: float, n: int) -> None:
    assert chance("pass", 0.1 + other, other, n) <= 0.05


def test_a_large_gap_fails_and_a_small_sample_of_none_passes() -> None:
    assert chance("fail", 0.27, 0.02, 100) > 0.95
    assert chance("pass", 0.01, 0.01, 100) > 0.95


def test_many_comparisons_share_one_error_rate() -> None:
    """Three groups, every value of the field: nine comparisons, no true gap."""
    rng = np.random.default_rng(8)
    groups = [("a", "b"), ("b", "c"), ("c", "a")] * 35
    failed = 0
    for _ in range(200):
        drawn = rng.choice(["low", "normal", "high"], (len(groups), 2))
        kept = rng.random(len(groups)) < 0.7  # most twins agree
        pairs: list[Pair] = [
            ({"urgency": x}, {"urgency": x if k else y}) for (x, y), k in zip(drawn, kept, strict=True)
        ]
        result = gate(pairs, groups, favourable=())
        assert result.numbers["comparisons"] == 9
        failed += result.verdict == "fail"
    assert failed / 200 <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


def test_the_gap_is_the_same_whichever_name_was_the_original() -> None:
    pairs, groups = table(30, 2, 100)
    turned = gate([(b, a) for a, b in pairs], [(b, a) for a, b in groups])
    told = gate(pairs, groups)
    assert told.verdict == turned.verdict == "fail"
    assert told.value == turned.value
    assert told.value is not None
    assert told.value.estimate == pytest.approx(0.28)
    assert told.examples[:2] == ("Name a -> high, Name b -> low: text 0", "Name b -> low, Name a -> high: text 1")


def test_an_unfavoured_group_is_found_by_its_invalid_answers() -> None:
    broken: list[Pair] = [(HIGH, None)] * 30 + [(HIGH, HIGH)] * 70
    result = gate(broken)
    assert (result.verdict, result.n, result.numbers["invalid"]) == ("fail", 100, 30)
    assert gate(broken, favourable=()).verdict == "fail"


def test_two_groups_with_too_few_pairs_block_a_pass() -> None:
    groups = [("a", "b")] * 100 + [("a", "c")] * 10
    result = gate([(HIGH, HIGH)] * 110, groups)
    assert result.verdict == "insufficient"
    assert result.numbers["pairs"] == 10
    assert result.numbers["collect"] >= 20


def test_no_evidence_is_insufficient_not_fair() -> None:
    assert gate([]).verdict == "insufficient"
    assert gate([(None, None)] * 100).verdict == "insufficient"
    few = gate([(HIGH, HIGH)] * 29)
    assert few.verdict == "insufficient"
    assert "collect about" in few.detail


def test_collecting_what_it_asks_for_settles_it() -> None:
    first = gate(*table(6, 3, 60))
    assert first.verdict == "insufficient"
    n = 60 + int(first.numbers["collect"])
    assert gate(*table(round(6 * n / 60), round(3 * n / 60), n)).verdict == "pass"


def test_a_small_certain_gap_passes_with_a_note_and_every_flip_is_counted() -> None:
    result = gate(*table(20, 0, 400))
    assert result.verdict == "pass"
    assert "inside the tolerance" in result.detail
    assert result.numbers["flip_rate"] == 0.05
    assert result.numbers["flip_rate_upper"] == pytest.approx(stats.beta.ppf(0.95, 21, 380))
    assert gate([(HIGH, HIGH)] * 100).numbers["flip_rate_upper"] > 0
