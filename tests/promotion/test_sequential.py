"""A rollout may be looked at after every request: false alarms stay below alpha, real harm is seen early."""

from __future__ import annotations

from datetime import UTC, datetime
from math import log
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.promotion.sequential import difference, log_e_value, look
from trimtab.records.promotion import RolloutLook
from trimtab.records.record import canonical_json

ALPHA = 0.05


def streams(canary: float, champion: float, share: Any, requests: int, rollouts: int, seed: int) -> list[np.ndarray]:
    """Counts after every request of many rollouts, arms interleaved at random: (k1, n1, k2, n2)."""
    rng = np.random.default_rng(seed)
    arm = rng.random((rollouts, requests)) < share
    failed = rng.random((rollouts, requests)) < np.where(arm, canary, champion)
    return [np.cumsum(x, axis=1) for x in (arm & failed, arm, ~arm & failed, ~arm)]


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("share", [0.1, 0.5, np.repeat([0.1, 0.5, 0.95], 130)], ids=["10%", "50%", "steps"])
def test_false_roll_backs_stay_below_alpha_when_looked_at_after_every_request(rate: float, share: Any) -> None:
    evidence = log_e_value(*streams(rate, rate, share, 390, 2000, seed=3))
    noise = 3 * (ALPHA * (1 - ALPHA) / 2000) ** 0.5
    assert (evidence.max(axis=1) >= log(1 / ALPHA)).mean() <= ALPHA + noise


def test_a_canary_that_fails_less_often_is_never_evidence_of_harm() -> None:
    evidence = log_e_value(*streams(0.02, 0.3, 0.5, 300, 500, seed=4))
    assert (evidence.max(axis=1) >= log(1 / ALPHA)).mean() < 0.01


def test_a_canary_that_fails_30_percent_is_caught_within_60_of_its_requests() -> None:
    for share in (0.1, 0.5):
        k1, n1, k2, n2 = streams(0.3, 0.02, share, 800, 500, seed=5)
        alarm = (log_e_value(k1, n1, k2, n2) >= log(1 / ALPHA)) & (n1 <= 60)
        assert alarm.any(axis=1).mean() > 0.9


def test_a_canary_that_fails_always_is_caught_at_once() -> None:
    assert log_e_value(4, 4, 0, 36) >= log(1 / ALPHA)
    assert log_e_value(0, 4, 0, 36) <= 0


COUNTS = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))


@settings(max_examples=60)
@given(COUNTS)
def test_harm_is_called_exactly_when_the_interval_lies_above_zero(counts: tuple[int, int, int, int]) -> None:
    k1, ok1, k2, ok2 = counts
    evidence = float(log_e_value(k1, k1 + ok1, k2, k2 + ok2))
    interval = difference(k1, k1 + ok1, k2, k2 + ok2, alpha=ALPHA)
    if interval is None:
        assert k1 + ok1 == 0 or k2 + ok2 == 0
        assert evidence <= 1e-9
        return
    assert -1 <= interval.low <= interval.estimate <= interval.high <= 1
    if abs(evidence - log(1 / ALPHA)) > 1e-6:
        assert (interval.low > 0) == (evidence > log(1 / ALPHA))


def test_the_interval_covers_the_difference_at_all_looks_together() -> None:
    counts = streams(0.3, 0.1, 0.5, 240, 80, seed=6)
    missed = 0
    for rollout in range(80):
        seen = [tuple(int(c[rollout, at]) for c in counts) for at in (19, 59, 119, 239)]
        intervals = [difference(*at, alpha=0.2) for at in seen]
        missed += not all(i is not None and i.low <= 0.2 <= i.high for i in intervals)
    assert missed / 80 <= 0.2


def looked(answered_in_step: int = 0, **counts: int) -> RolloutLook:
    known = {"n_canary": 0, "n_champion": 0, "failures_canary": 0, "failures_champion": 0} | counts
    return look(
        model="m",
        candidate=2,
        percent=10,
        answered_in_step=answered_in_step,
        step_requests=20,
        alpha=ALPHA,
        now=datetime(2026, 3, 1, tzinfo=UTC),
        **known,
    )


def test_a_step_continues_advances_or_rolls_back() -> None:
    assert looked().verdict == "continue"
    assert looked().difference is None
    assert looked(19, n_canary=59, n_champion=200, failures_champion=3).verdict == "continue"
    assert looked(20, n_canary=60, n_champion=200, failures_champion=3).verdict == "advance"
    harm = looked(20, n_canary=60, n_champion=200, failures_canary=20, failures_champion=3)
    assert harm.verdict == "roll_back"
    assert "20 of 60 canary requests failed" in harm.reason


def test_overwhelming_evidence_is_still_a_number_that_can_be_written_down() -> None:
    canonical_json(looked(n_canary=50_000, n_champion=50_000, failures_canary=50_000))
