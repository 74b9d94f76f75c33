"""The honest gate keeps its error rates, tests nobody on too few rows, and says what to collect."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.evaluation import clusters
from trimtab.evaluation.compare import difference, exact_share, mcnemar_p, proportion, stratified_p
from trimtab.records.responsible import Finding, Policy, Tolerance
from trimtab.responsible import gate

POLICY = Policy(gating={"fpr": Tolerance(gap=0.10)})
Counts = dict[str, tuple[int, int]]


def judged(counts: Counts, policy: Policy = POLICY) -> tuple[str, dict[str, Finding], list[str]]:
    verdict, findings, reasons = gate.judge(gate.against_rest("fpr", "group", counts), policy)
    return verdict, {finding.group: finding for finding in findings}, reasons


def verdicts(groups: int, n: int, planted: float, audits: int) -> list[str]:
    rates = [0.3 + planted] + [0.3] * (groups - 1)
    drawn = np.random.default_rng(groups).binomial(n, rates, size=(audits, groups)).tolist()
    return [judged({f"g{i}": (k, n) for i, k in enumerate(row)})[0] for row in drawn]


@pytest.mark.parametrize("groups", [2, 5, 10])
def test_without_a_gap_at_most_5_percent_fail(groups: int) -> None:
    """The whole simulation (1,000 audits each) is `make bench-responsible`."""
    assert verdicts(groups, 100, 0.0, 150).count("fail") / 150 <= 0.05 + 3 * (0.05 * 0.95 / 150) ** 0.5


@pytest.mark.parametrize("groups", [2, 5])
def test_a_planted_gap_of_15_points_is_found_at_400_and_hardly_ever_passes(groups: int) -> None:
    found = verdicts(groups, 400, 0.15, 60)
    assert found.count("fail") >= 54
    assert found.count("pass") <= 1


def test_a_group_too_small_to_test_blocks_a_pass_and_says_how_many_are_missing() -> None:
    whole: Counts = {"a": (80, 1000), "b": (82, 1000), "c": (78, 1000)}
    assert judged(whole)[0] == "pass"
    verdict, findings, reasons = judged(whole | {"d": (2, 12)})
    assert verdict == "insufficient"
    assert (findings["d"].n, findings["d"].collect) == (12, 18)
    assert "collect about 18 more" in reasons[0]
    assert "group d" in reasons[0]
    waived = POLICY.model_copy(update={"waived": {"group=d": "dpo@example.org: a pilot of twelve"}})
    assert judged(whole | {"d": (2, 12)}, waived)[0] == "pass"
    assert waived.hash != POLICY.hash


def test_what_could_identify_somebody_is_not_told() -> None:
    _, findings, _ = judged({"a": (80, 1000), "b": (82, 1000), "few": (1, 8), "tiny": (3, 4)})
    assert (findings["few"].n, findings["few"].value, findings["few"].rest) == (8, None, None)
    assert findings["tiny"].model_dump(include={"n", "value", "rest", "gap", "lower", "upper"}) == dict.fromkeys(
        ("n", "value", "rest", "gap", "lower", "upper")
    )


def test_nor_is_it_told_as_the_rest_of_the_only_other_group() -> None:
    _, findings, _ = judged({"many": (80, 1000), "tiny": (1, 3)})
    assert (findings["many"].value, findings["many"].rest) == (0.08, None)
    assert findings["many"].collect == POLICY.minimum  # 27 more would say that there are three


@given(st.integers(0, 30), st.integers(0, 30))
def test_of_two_units_a_stratum_the_exact_stratified_test_is_mcnemars(first: int, second: int) -> None:
    strata = [(True, 1, 2)] * first + [(False, 1, 2)] * second + [(True, 2, 2), (False, 0, 2)]
    assert stratified_p(strata) == pytest.approx(mcnemar_p(first, second))


def test_a_gap_of_twins_is_established_only_if_the_exact_test_rejects_too() -> None:
    """Of 30 prompts five favour one group and none the other: exact McNemar says p = 0.06."""
    gap = gate.paired("favourable", "religion", "x", 5, 0, 10, 30)
    assert gap.p == pytest.approx(2 * 0.5**5)
    assert gap.interval(0.95).low > 0.02
    assert gate.judge([gap], Policy(gating={"favourable": Tolerance(gap=0.10)}))[0] == "insufficient"


def test_the_denominator_counts_not_the_rows() -> None:
    """1,830 tweets of a dialect held 41 negatives, with a stricter proxy 201 tweets held 3: a gap on 3 is no gap."""
    verdict, findings, _ = judged({"dialect": (2, 3), "rest": (480, 7000)})
    assert verdict == "insufficient"
    assert findings["dialect"].value is None


def test_two_groups_are_one_comparison_and_no_gating_metric_is_no_pass() -> None:
    _, findings, _ = judged({"a": (90, 300), "b": (30, 300)})
    assert [f.gating for f in findings.values()].count(True) == 1
    exploratory = Policy(gating={"other": Tolerance(gap=0.1)})
    assert judged({"a": (90, 300), "b": (30, 300)}, exploratory)[0] == "insufficient"


def test_a_small_certain_gap_inside_the_tolerance_passes_with_a_note() -> None:
    verdict, _, reasons = judged({"a": (5600, 80000), "b": (9600, 80000)})
    assert verdict == "pass"
    assert any("small gap is certain" in reason for reason in reasons)


def test_collecting_what_it_asks_for_settles_it() -> None:
    verdict, findings, _ = judged({"a": (36, 120), "b": (34, 120)})
    assert verdict == "insufficient"
    n = 120 + max(finding.collect for finding in findings.values())
    assert judged({"a": (round(0.3 * n), n), "b": (round(34 / 120 * n), n)})[0] == "pass"


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(60, 200)), min_size=2, max_size=6))
def test_the_verdict_is_what_the_bounds_say(counts: list[tuple[int, int]]) -> None:
    verdict, findings, _ = judged({f"g{i}": c for i, c in enumerate(counts)})
    gating = [f for f in findings.values() if f.gating]
    for f in gating:
        assert (f.p_adjusted <= POLICY.alpha) == (f.lower > 0.02)  # Holm by p-value and by bounds is one rule
    inside, certain = [f.upper < 0.10 for f in gating], [f.lower > 0.02 for f in gating]
    wanted = "pass" if all(inside) else "insufficient"
    if any(c and not i for c, i in zip(certain, inside, strict=True)):
        wanted = "fail"
    assert verdict == wanted


def test_the_bootstrap_over_clusters_is_as_wide_as_the_clusters_are_alike() -> None:
    """400 rows in 40 clusters whose rows agree carry 40 rows' worth of evidence."""
    rng = np.random.default_rng(1)
    each = rng.random(40) < 0.4
    inside = np.repeat(np.arange(40) % 2 == 0, 10)
    rows = np.repeat(each, 10).astype(float)
    names = np.repeat(np.arange(40), 10).astype(str)
    low, high = clusters.percentile(clusters.difference_draws(rows, inside, names, resamples=2000, seed=0), 0.95)
    single = difference(int(each[::2].sum()), 20, int(each[1::2].sum()), 20)
    assert single is not None
    assert high - low == pytest.approx(single.high - single.low, rel=0.25)


def test_the_permutation_over_identities_holds_its_family_and_finds_the_one_that_differs() -> None:
    rng = np.random.default_rng(2)
    noise = [clusters.max_t(rng.normal(size=(30, 8)), resamples=200, seed=i)[1].min() for i in range(60)]
    assert sum(p <= 0.05 for p in noise) <= 3 + 3 * (60 * 0.05 * 0.95) ** 0.5
    scores = rng.normal(size=(30, 8)) * 0.3
    scores[:, 3] += 0.5
    deviation, p = clusters.max_t(scores, resamples=500, seed=0)
    assert p[3] < 0.01
    assert deviation[3] == pytest.approx(0.44, abs=0.15)


def test_intervals_are_those_of_the_tables() -> None:
    """Newcombe 1998, table II: 56/70 - 48/80; Clopper-Pearson 0/60 and Wilson 0/10 in closed form."""
    interval = difference(56, 70, 48, 80)
    assert interval is not None
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.0524, 0.3339)
    exact, wilson = exact_share(0, 60, 0.9), proportion(0, 10)
    assert exact is not None
    assert wilson is not None
    assert exact.high == pytest.approx(1 - 0.05 ** (1 / 60))
    assert (wilson.low, wilson.high) == (0.0, pytest.approx(1.959964**2 / (10 + 1.959964**2)))
