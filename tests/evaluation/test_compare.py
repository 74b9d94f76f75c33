"""Intervals are the published ones and cover what they say; what cannot be measured is None."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from trimtab.errors import Fixable
from trimtab.evaluation.compare import difference, mcnemar_p, median_ratio, p95_ratio, paired_difference, proportion
from trimtab.evaluation.scorers import exact_match, scores


def test_wilson_and_newcombe_reproduce_the_published_examples() -> None:
    share = proportion(81, 263)  # Newcombe 1998a, Stat. Med. 17:857, table I
    assert share is not None
    assert (round(share.low, 4), round(share.high, 4)) == (0.2553, 0.3662)
    gap = difference(56, 70, 48, 80)  # Newcombe 1998b, Stat. Med. 17:873, table II
    assert gap is not None
    assert (round(gap.low, 4), round(gap.high, 4)) == (0.0524, 0.3339)


@pytest.mark.parametrize(("b", "c", "n"), [(1, 9, 50), (12, 2, 50), (0, 0, 80), (5, 1, 40)])
def test_the_paired_interval_inverts_the_score_test(b: int, c: int, n: int) -> None:
    """Tango's closed form against a likelihood maximised numerically under the hypothesised difference."""
    interval = paired_difference(b, c, n)
    assert interval is not None
    for delta in (interval.low, interval.high):

        def loss(p01: float, delta: float = delta) -> float:
            p10 = p01 + delta
            counts, shares = np.array([b, c, n - b - c]), np.array([p10, p01, 1 - p10 - p01])
            return -float(np.sum(np.where(counts > 0, counts * np.log(np.maximum(shares, 1e-300)), 0)))

        low = max(0.0, -delta)
        p01 = optimize.minimize_scalar(
            loss, bounds=(low, (1 - delta) / 2), method="bounded", options={"xatol": 1e-12}
        ).x
        z = (b - c - n * delta) / np.sqrt(n * (2 * p01 + delta - delta**2))
        assert abs(z) == pytest.approx(stats.norm.ppf(0.975), abs=1e-3)


@given(st.integers(1, 200), st.data())
def test_the_paired_interval_turns_with_its_sides_and_is_never_a_point(n: int, data: st.DataObject) -> None:
    b = data.draw(st.integers(0, n))
    c = data.draw(st.integers(0, n - b))
    one, other = paired_difference(b, c, n, 0.9), paired_difference(c, b, n, 0.9)
    assert one is not None
    assert other is not None
    assert -1 <= one.low <= one.estimate <= one.high <= 1
    assert one.low < one.high
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-9)


def test_intervals_cover_what_they_say() -> None:
    """Exact coverage, by summing over every table that can occur."""
    n = 60
    tables = [(b, c) for b in range(n + 1) for c in range(n + 1 - b)]
    paired = [paired_difference(b, c, n) for b, c in tables]
    for p10, p01 in [(0.1, 0.1), (0.2, 0.05), (0.02, 0.02), (0.1, 0.0)]:
        mass = stats.multinomial.pmf([(b, c, n - b - c) for b, c in tables], n, [p10, p01, 1 - p10 - p01])
        hits = np.array([i is not None and i.low <= p10 - p01 <= i.high for i in paired])
        assert float(mass[hits].sum()) > 0.93
    arms = [difference(k1, 40, k2, 60) for k1 in range(41) for k2 in range(61)]
    for p1, p2 in [(0.5, 0.5), (0.1, 0.1), (0.3, 0.15)]:
        mass = np.outer(stats.binom.pmf(range(41), 40, p1), stats.binom.pmf(range(61), 60, p2)).ravel()
        hits = np.array([i is not None and i.low <= p1 - p2 <= i.high for i in arms])
        assert 0.93 < float(mass[hits].sum()) < 0.985


def test_the_outer_bound_is_exact_when_only_one_side_has_discordant_rows() -> None:
    for n in (42, 72, 138):  # where the score bound alone is boldest
        bold = [k for k in range(n) if (i := paired_difference(k, 0, n, 0.9)) is not None and i.high < 0.1]
        assert bold
        assert stats.binom.cdf(bold[-1], n, 0.1) <= 0.05


def test_mcnemar_is_the_binomial_test_of_the_discordant_rows() -> None:
    assert mcnemar_p(0, 0) == 1.0
    assert mcnemar_p(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)


def test_latency_intervals_hold_the_true_ratio_and_repeat_exactly() -> None:
    rng = np.random.default_rng(5)
    rows = rng.lognormal(0, 0.5, 200)
    candidate, champion = 1.3 * rows * rng.lognormal(0, 0.05, 200), rows * rng.lognormal(0, 0.05, 200)
    for ratio in (p95_ratio(list(candidate), list(champion)), median_ratio(list(candidate), list(champion))):
        assert ratio is not None
        assert ratio.low < 1.3 < ratio.high < 1.6
    assert p95_ratio(list(candidate), list(champion)) == p95_ratio(list(candidate), list(champion))


def test_what_cannot_be_measured_is_none() -> None:
    assert proportion(0, 0) is None
    assert difference(0, 0, 1, 2) is None
    assert paired_difference(0, 0, 0) is None
    assert p95_ratio([1.0] * 19, [1.0] * 19) is None
    assert p95_ratio([1.0] * 20, [1.0] * 19 + [0.0]) is None
    assert median_ratio([1.0] * 30, [1.0] * 29) is None


def test_an_invalid_answer_is_wrong_not_missing() -> None:
    labels = [{"intent": "refund", "urgency": "high"}] * 4
    answers = [
        {"intent": "refund", "urgency": "high"},
        {"intent": "refund", "urgency": "low"},
        None,
        {"intent": "login"},
    ]
    found = {name: value.estimate for name, value in scores(answers, labels, ["intent", "urgency"]).items() if value}
    assert found == {"intent": 0.5, "urgency": 0.25, "*": 0.25, "valid": 0.75}
    with pytest.raises(Fixable, match="row 0 has no field 'tone'"):
        exact_match(answers, labels, ["tone"])
    with pytest.raises(Fixable, match="4 answers for 3 labels"):
        exact_match(answers, labels[:3], ["intent"])
