"""Gates that compare a candidate with the champion on the same rows. Pure: answers in, verdict out.

A gate passes or fails only when its interval says so; between the two it is insufficient. Fairness has its own
module (`responsible.fairness`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from trimtab.evaluation.compare import P95_MINIMUM, mcnemar_p, median_ratio, p95_ratio, paired_difference
from trimtab.evaluation.scorers import exact_match
from trimtab.records.promotion import Answers, GateResult, GateVerdict

QUALITY_TEST = "paired difference of accuracies, 95% score interval (Tango 1998)"
LATENCY_TEST = "paired p95 ratio, 95% bootstrap interval; median ratio, 95% order-statistic interval"


def quality_gate(
    candidate: Answers,
    champion: Answers,
    labels: Sequence[Mapping[str, str]],
    fields: Sequence[str],
    *,
    mode: Literal["non_inferior", "better"],
    margin: float,
    baselines: Mapping[str, Answers] | None = None,
) -> GateResult:
    """Is the candidate at least as accurate as the champion? A row is right when all `fields` have the label's value.

    `non_inferior`: pass when the lower bound of (candidate - champion) exceeds -margin, fail when the upper bound lies
    below it. `better`: the same with 0. `margin` is an accuracy, 0 to 1. `numbers`: accuracies, also of the baselines
    (shown, they do not decide, and may have answered the first `n_NAME` rows only), and McNemar's b (only the
    candidate right), c (only the champion right), exact p. Raises Fixable when a label lacks a field.
    """
    threshold = -margin if mode == "non_inferior" else 0.0
    limit = f"lower bound > {threshold:g}"
    others = dict(baselines or {})
    if any(side.suite != candidate.suite or len(side.answers) != len(labels) for side in (candidate, champion)):
        detail = "The versions were not asked the same labelled rows, so there is no comparison."
        return _unmeasured("quality", QUALITY_TEST, limit, detail)
    hits, old = (exact_match(side.answers, labels, fields) for side in (candidate, champion))
    b, c = (sum(x and not y for x, y in zip(*pair, strict=True)) for pair in ((hits, old), (old, hits)))
    interval = paired_difference(b, c, len(hits))
    if interval is None:
        return _unmeasured("quality", QUALITY_TEST, limit, "There is no labelled row to compare on.")
    sides = {"candidate": candidate, "champion": champion} | others
    accuracies = {
        f"accuracy_{x}": sum(exact_match(side.answers, labels[: len(side.answers)], fields)) / len(side.answers)
        for x, side in sides.items()
    } | {f"n_{name}": float(len(side.answers)) for name, side in others.items()}
    return GateResult(
        gate="quality",
        verdict="pass" if interval.low > threshold else "fail" if interval.high < threshold else "insufficient",
        test=QUALITY_TEST,
        n=len(hits),
        value=interval,
        limit=limit,
        detail=f"{' and '.join(fields).capitalize()} right: version {candidate.version} on {sum(hits)} of {len(hits)} "
        f"rows, version {champion.version} on {sum(old)}: {interval.estimate:+.3f} "
        f"(between {interval.low:+.3f} and {interval.high:+.3f}).",
        numbers=accuracies | {"mcnemar_b": float(b), "mcnemar_c": float(c), "mcnemar_p": mcnemar_p(b, c)},
    )


def latency_gate(candidate: Answers, champion: Answers, *, factor: float) -> GateResult:
    """Does the candidate's 95th percentile latency stay below `factor` times the champion's?

    Fail when the ratio's lower bound exceeds the factor; pass when its upper bound lies below. The upper bound of a
    95th percentile rests on a handful of answers: one stall of the machine among 50 rows lifts it, whatever the
    candidate is. A version that is slower by nature (larger adapter, longer prompt or answers) is slower on most rows,
    so the gate also passes when the p95 ratio itself and the upper bound of the median ratio, which no stall moves,
    both lie below the factor. The price: a slowdown of a few rows only, near the factor, can pass on few rows. Fewer
    than 20 rows are insufficient.
    """
    limit = f"upper bound < {factor:g}, or the p95 ratio and the median's upper bound < {factor:g}"
    ratio = p95_ratio(candidate.seconds, champion.seconds)
    median = median_ratio(candidate.seconds, champion.seconds)
    if candidate.suite != champion.suite or ratio is None or median is None:
        detail = f"No {P95_MINIMUM} rows were timed on both versions, so there is no 95th percentile to compare."
        return _unmeasured("latency", LATENCY_TEST, limit, detail)
    verdict = _latency_verdict(ratio.low, ratio.estimate, ratio.high, median.high, factor)
    stalls = verdict == "pass" and ratio.high >= factor
    detail = (
        f"Version {candidate.version} takes {ratio.estimate:.2f} times as long as version {champion.version} at the "
        f"95th percentile (between {ratio.low:.2f} and {ratio.high:.2f}), {median.estimate:.2f} times at the median."
    )
    if stalls:
        detail += f" The upper bound rests on a few slow answers; the median is at most {median.high:.2f} times."
    return GateResult(
        gate="latency",
        verdict=verdict,
        test=LATENCY_TEST,
        n=len(candidate.seconds),
        value=ratio,
        limit=limit,
        detail=detail,
        numbers={"median_ratio": median.estimate, "median_ratio_upper": median.high},
    )


def _latency_verdict(low: float, estimate: float, high: float, median_high: float, factor: float) -> GateVerdict:
    if low > factor:
        return "fail"
    return "pass" if high < factor or max(estimate, median_high) < factor else "insufficient"


def _unmeasured(gate: Literal["quality", "latency"], test: str, limit: str, detail: str) -> GateResult:
    return GateResult(gate=gate, verdict="insufficient", test=test, n=0, value=None, limit=limit, detail=detail)
