"""The honest gate: groups of people judged on rates and means, by rules fixed before the run. Pure.

Each group is compared with the rest of the population, never with the best group (choosing the best by the same rows
biases the gap upward). The verdict is three-valued, so that too few people are neither a pass nor a failure:
FAIL          some group's lower bound of |gap|, Holm-adjusted (Holm 1979) over all that gates, exceeds the deadband,
              and its gap is not certain to lie inside the tolerance.
PASS          every group's one-sided upper bound lies below the tolerance (an intersection-union test, Berger 1982: no
              correction needed), and every group could be tested or is waived.
INSUFFICIENT  else, with about how many more of which group to collect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, log10, sqrt
from typing import Protocol, TypeVar

from trimtab.evaluation import clusters
from trimtab.evaluation.compare import NORMAL, difference, exact_share, mcnemar_p, paired_difference
from trimtab.records.monitor import Interval
from trimtab.records.promotion import GateVerdict
from trimtab.records.responsible import Finding, Policy, Tolerance

SCORE = 1.05
"""A score interval is about this much dearer than the normal one that foretells it."""
ALL = "all"
"""The group of a share that is not compared with anybody's, such as the share of prompts whose answer flips."""


class Bounded(Protocol):
    """What Holm's step-down needs to know of a gap."""

    def least(self, alpha: float) -> float:
        """Lower bound of |gap| at two-sided level alpha."""
        ...


B = TypeVar("B", bound=Bounded)


@dataclass(frozen=True)
class Gap:
    """One group's value less the rest's, as an interval at any confidence. `n`: units in the smaller denominator.

    `spread`: the standard error times the root of n, so that it foretells other n. `mirrored`: the same gap as that of
    the only other group, which must not count twice. `p`: of an exact test that there is no gap at all, where there is
    one: it must reject, too, before a gap counts as established.
    """

    metric: str
    attribute: str
    group: str
    n: int
    value: float
    rest: float
    interval: Callable[[float], Interval]
    spread: float
    own_n: int
    mirrored: bool = False
    p: float = 0.0

    def least(self, alpha: float) -> float:
        """Lower bound of |gap| at two-sided level alpha."""
        if self.p > alpha:
            return 0.0
        interval = self.interval(1 - alpha)
        return max(interval.low, -interval.high, 0.0)

    def most(self, alpha: float) -> float:
        """One-sided upper bound of |gap| at level alpha."""
        interval = self.interval(1 - 2 * alpha)
        return max(interval.high, -interval.low)


def against_rest(metric: str, attribute: str, counts: Mapping[str, tuple[int, int]]) -> list[Gap]:
    """Each group's rate (events, denominator) against that of all others: Newcombe 1998, method 10."""
    events, total = sum(k for k, _ in counts.values()), sum(n for _, n in counts.values())
    groups = sorted(counts)
    return [
        _rate(metric, attribute, group, counts[group], (events - counts[group][0], total - counts[group][1]), mirrored)
        for group in groups
        for mirrored in [len(groups) == 2 and group == max(groups, key=lambda g: counts[g][1])]
    ]


def share(metric: str, attribute: str, k: int, n: int, group: str = ALL) -> Gap:
    """A share against zero, such as prompts whose answer depends on an identity: Clopper-Pearson."""
    p = (k + 1) / (n + 2)
    return Gap(metric, attribute, group, n, k / n if n else 0.0, 0.0, _exact(k, n), sqrt(p * (1 - p)), n)


def paired(
    metric: str,
    attribute: str,
    group: str,
    first_only: int,
    second_only: int,
    both: int,
    n: int,
    mirrored: bool = False,
) -> Gap:
    """A rate against its twin's on the same n units: exact McNemar, and the interval of Tango 1998 (exact where only
    one side is discordant)."""
    discordant, gap = (first_only + second_only + 2) / (n + 2), (first_only - second_only) / max(n, 1)
    value, rest = (first_only + both) / max(n, 1), (second_only + both) / max(n, 1)

    def interval(confidence: float) -> Interval:
        return _given(paired_difference(first_only, second_only, n, confidence))

    spread = sqrt(max(discordant - gap**2, 0.0))
    p = mcnemar_p(first_only, second_only)
    return Gap(metric, attribute, group, n, value, rest, interval, spread, n, mirrored, p)


def resampled(
    metric: str, attribute: str, group: str, value: float, rest: float, n: int, draws: clusters.Floats, p: float = 0.0
) -> Gap:
    """A difference of means over n clusters, from bootstrap draws of it: percentile interval. `p` as in `Gap`."""

    def interval(confidence: float) -> Interval:
        low, high = clusters.percentile(draws, confidence)
        method = f"cluster bootstrap, {len(draws)} resamples"
        return Interval(estimate=value - rest, low=low, high=high, confidence=confidence, method=method)

    return Gap(metric, attribute, group, n, value, rest, interval, float(draws.std()) * sqrt(n), n, p=p)


def mirroring(gap: Gap, mirrored: bool) -> Gap:
    """The gap, marked as the mirror image of another or not."""
    return replace(gap, mirrored=mirrored)


def judge(gaps: Sequence[Gap], policy: Policy) -> tuple[GateVerdict, list[Finding], list[str]]:
    """The verdict, a finding for each gap and the reasons in sentences. What gates, and by what, is the policy's."""
    tolerances = {id(gap): policy.tolerance(gap.metric, gap.attribute) for gap in gaps}
    gating = [gap for gap in gaps if tolerances[id(gap)] is not None]
    tested = [gap for gap in gating if gap.n >= policy.minimum and not gap.mirrored]
    rejected = failing(tested, lambda gap: _tolerance(tolerances, gap).deadband, policy.alpha)
    adjusted = _holm_p(tested, tolerances)
    order = {id(gap): len(tested) - rank for rank, gap in enumerate(rejected)}
    left = max(1, len(tested) - len(rejected))
    findings = [
        _finding(gap, policy, tolerances[id(gap)], policy.alpha / order.get(id(gap), left), adjusted.get(id(gap)))
        for gap in gaps
    ]
    verdict, reasons = _verdict([f for f in findings if f.gating], policy)
    return verdict, findings, reasons


def failing(gaps: Sequence[B], deadband: Callable[[B], float], alpha: float) -> list[B]:
    """Holm's step-down, in order: reject at alpha/m, then judge the rest at alpha/(m - rejected), until none falls."""
    rejected: list[B] = []
    left = list(gaps)
    while found := [gap for gap in left if gap.least(alpha / len(left)) > deadband(gap)]:
        rejected += found
        left = [gap for gap in left if gap not in found]
    return rejected


def more_units(gap: Gap, tolerance: Tolerance, alpha: float, family: int, minimum: int) -> int:
    """About how many more units settle the gap, should it stay what it is (normal approximation)."""
    z_pass, z_fail = (NORMAL.inv_cdf(1 - level) for level in (alpha, alpha / max(family, 1) / 2))
    size = abs(gap.value - gap.rest)
    rooms = ((z_pass, tolerance.gap - size), (z_fail, size - tolerance.deadband))
    needed = [ceil(SCORE * (gap.spread * z / room) ** 2) for z, room in rooms if room > 0]
    return max(10, minimum - gap.n, min(needed, default=2 * gap.n) - gap.n)


def _rate(metric: str, attribute: str, group: str, own: tuple[int, int], rest: tuple[int, int], mirrored: bool) -> Gap:
    (k, n), (k_rest, n_rest) = own, rest
    p, p_rest = (k + 1) / (n + 2), (k_rest + 1) / (n_rest + 2)  # none seen is not none there
    variance = p * (1 - p) + p_rest * (1 - p_rest) * (n / n_rest if n_rest else 1.0)

    def interval(confidence: float) -> Interval:
        return _given(difference(k, n, k_rest, n_rest, confidence))

    values = (k / n if n else 0.0, k_rest / n_rest if n_rest else 0.0)
    return Gap(metric, attribute, group, min(n, n_rest), *values, interval, sqrt(variance), n, mirrored)


def _exact(k: int, n: int) -> Callable[[float], Interval]:
    return lambda confidence: _given(exact_share(k, n, confidence))


def _given(interval: Interval | None) -> Interval:
    assert interval is not None  # noqa: S101 (what is below the minimum is not asked for its interval)
    return interval


def _tolerance(tolerances: Mapping[int, Tolerance | None], gap: Gap) -> Tolerance:
    found = tolerances[id(gap)]
    assert found is not None  # noqa: S101 (only gating gaps are asked)
    return found


def _p(gap: Gap, deadband: float) -> float:
    """The smallest two-sided level at which the gap's interval lies beyond the deadband, by bisection."""
    if gap.least(0.5) <= deadband:
        return 1.0
    low, high = -12.0, log10(0.5)
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if gap.least(10**middle) > deadband else (middle, high)
    return 10**high


def _holm_p(gaps: Sequence[Gap], tolerances: Mapping[int, Tolerance | None]) -> dict[int, float]:
    """Holm-adjusted p-values, by the gap's identity."""
    raw = sorted((_p(gap, _tolerance(tolerances, gap).deadband), index) for index, gap in enumerate(gaps))
    adjusted: dict[int, float] = {}
    largest = 0.0
    for rank, (p, index) in enumerate(raw):
        largest = max(largest, min(1.0, p * (len(raw) - rank)))
        adjusted[id(gaps[index])] = largest
    return adjusted


def _finding(gap: Gap, policy: Policy, tolerance: Tolerance | None, alpha: float, p: float | None) -> Finding:
    said: dict[str, object] = {"metric": gap.metric, "attribute": gap.attribute, "group": gap.group}
    said |= {"gating": tolerance is not None and not gap.mirrored, "verdict": "insufficient"}
    nothing = {"value": None, "rest": None, "gap": None, "lower": None, "upper": None, "p_adjusted": None}
    waived = policy.waived.get(f"{gap.attribute}={gap.group}")
    note = f"not tested, waived: {waived}" if waived else ""
    short = max(10, policy.minimum - gap.n)
    if gap.own_n < policy.suppressed:
        note = note or f"fewer than {policy.suppressed}: suppressed"
        return Finding.model_validate(said | nothing | {"n": None, "collect": policy.minimum, "note": note})
    if gap.own_n < policy.displayed:
        note = note or f"fewer than {policy.displayed}: not shown"
        return Finding.model_validate(said | nothing | {"n": gap.own_n, "collect": short, "note": note})
    few = gap.n < policy.displayed  # then the rest are the few, and their rate is not told either
    shown = said | nothing | {"n": gap.own_n, "value": gap.value, "rest": None if few else gap.rest}
    if gap.n < policy.minimum:
        short = policy.minimum if gap.n < policy.suppressed else short
        note = note or f"fewer than {policy.minimum} in the denominator (of the group or of the rest): not tested"
        return Finding.model_validate(shown | {"collect": short, "note": note})
    lower, upper = gap.least(alpha), gap.most(policy.alpha)
    shown |= {"gap": gap.interval(1 - 2 * policy.alpha), "lower": lower, "upper": upper, "p_adjusted": p}
    if tolerance is None:
        return Finding.model_validate(shown | {"note": "exploratory"})
    inside, certain = upper < tolerance.gap, lower > tolerance.deadband
    verdict: GateVerdict = "pass" if inside else "fail" if certain else "insufficient"
    collect = (
        0 if verdict != "insufficient" else more_units(gap, tolerance, policy.alpha, round(policy.alpha / alpha), 0)
    )
    note = "a small gap is certain, inside the tolerance" if inside and certain else ""
    return Finding.model_validate(shown | {"verdict": verdict, "collect": collect, "note": note})


def _verdict(findings: Sequence[Finding], policy: Policy) -> tuple[GateVerdict, list[str]]:
    if not findings:
        return "insufficient", ["No metric gates here, so there is nothing to pass."]
    bad = [finding for finding in findings if finding.verdict == "fail"]
    if bad:
        return "fail", [_sentence(finding) for finding in bad]
    waived = [f for f in findings if f"{f.attribute}={f.group}" in policy.waived and f.gap is None]
    open_ = [f for f in findings if f.verdict == "insufficient" and f not in waived]
    if open_ or len(waived) == len(findings):
        return "insufficient", [_short(finding, policy) for finding in open_ or waived]
    worst = max((f for f in findings if f not in waived), key=lambda f: f.upper or 0.0)
    noted = [f"{f.name}: {f.note}." for f in findings if f.note]
    return "pass", [f"Every group is inside the tolerance; the least certain: {_sentence(worst)}", *noted]


def _sentence(finding: Finding) -> str:
    assert finding.gap is not None  # noqa: S101 (it was tested)
    rest = "" if finding.group == ALL else f" against {finding.rest:.3g}"
    return (
        f"{finding.name}: {finding.value:.3g}{rest} on {finding.n}, a gap between {finding.gap.low:+.3f} and "
        f"{finding.gap.high:+.3f} ({finding.gap.method}); beyond doubt at least {finding.lower:.3f}."
    )


def _short(finding: Finding, policy: Policy) -> str:
    whose = f" ({finding.attribute})" if finding.group == ALL else f" of group {finding.group} ({finding.attribute})"
    seen = f"fewer than {policy.suppressed}" if finding.n is None else str(finding.n)
    return f"{finding.metric}: {seen} seen{whose} settle nothing: collect about {finding.collect} more."
