"""A gate passes or fails only when its interval says so."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from trimtab.promotion.gates import latency_gate, quality_gate
from trimtab.records.promotion import Answers


def answers(right: Sequence[bool], version: int = 1, suite: str = "s", seconds: Sequence[float] = ()) -> Answers:
    given = tuple({"intent": "refund" if hit else "login"} for hit in right)
    return Answers(version=version, suite=suite, answers=given, seconds=tuple(seconds) or (1.0,) * len(given))


def rows(right: int, wrong: int) -> list[bool]:
    return [True] * right + [False] * wrong


def labels(n: int) -> list[dict[str, str]]:
    return [{"intent": "refund"}] * n


@pytest.mark.parametrize(
    ("candidate", "champion", "mode", "verdict"),
    [
        (rows(90, 10), rows(60, 40), "better", "pass"),
        (rows(60, 40), rows(90, 10), "non_inferior", "fail"),
        (rows(62, 38), rows(60, 40), "better", "insufficient"),
        (rows(80, 20), rows(80, 20), "non_inferior", "insufficient"),  # 100 rows cannot exclude a loss of 0.02 …
        (rows(240, 60), rows(240, 60), "non_inferior", "pass"),  # … 300 can
        (rows(240, 60), rows(240, 60), "better", "insufficient"),
    ],
)
def test_quality_is_judged_by_the_paired_interval(
    candidate: list[bool], champion: list[bool], mode: str, verdict: str
) -> None:
    result = quality_gate(
        answers(candidate, 2), answers(champion), labels(len(champion)), ["intent"], mode=mode, margin=0.02
    )
    assert result.verdict == verdict
    assert result.n == len(champion)
    assert result.value is not None


def test_quality_shows_the_rows_that_changed_and_the_baselines() -> None:
    result = quality_gate(
        answers([True, True, True, False], 2),
        answers([True, False, False, True]),
        labels(4),
        ["intent"],
        mode="better",
        margin=0.0,
        baselines={"base": answers([False] * 4)},
    )
    shown = ("accuracy_candidate", "accuracy_champion", "accuracy_base", "mcnemar_b", "mcnemar_c", "mcnemar_p")
    assert [result.numbers[name] for name in shown] == [0.75, 0.5, 0.0, 2, 1, 1.0]


def test_different_rows_are_no_comparison() -> None:
    for other in (answers(rows(50, 50), suite="other"), answers(rows(50, 49))):
        result = quality_gate(answers(rows(90, 10)), other, labels(100), ["intent"], mode="better", margin=0.0)
        assert (result.verdict, result.value) == ("insufficient", None)
        assert latency_gate(answers(rows(90, 10)), other, factor=1.5).verdict == "insufficient"
    assert quality_gate(answers([]), answers([]), [], ["intent"], mode="better", margin=0.0).verdict == "insufficient"


def timed(seconds: np.ndarray) -> Answers:
    return answers([True] * len(seconds), seconds=[float(s) for s in seconds])


def test_latency_fails_a_slow_candidate_and_lets_single_stalls_pass() -> None:
    rng = np.random.default_rng(1)
    asked = rng.lognormal(-1, 0.3, 50)

    def noisy() -> np.ndarray:
        return asked * rng.lognormal(0, 0.05, 50)

    stalled = noisy()
    stalled[[7, 31]] *= 10
    assert latency_gate(timed(1.1 * noisy()), timed(noisy()), factor=1.5).verdict == "pass"
    assert latency_gate(timed(2.5 * noisy()), timed(noisy()), factor=1.5).verdict == "fail"
    forgiven = latency_gate(timed(stalled), timed(noisy()), factor=1.5)
    assert forgiven.value is not None
    assert forgiven.value.high > 1.5
    assert forgiven.verdict == "pass"
    assert "few slow answers" in forgiven.detail
    assert latency_gate(timed(1.5 * noisy()), timed(noisy()), factor=1.5).verdict == "insufficient"
    assert latency_gate(timed(noisy()[:19]), timed(noisy()[:19]), factor=1.5).verdict == "insufficient"
