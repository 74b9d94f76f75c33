"""Mitigations, and the rules by which one is accepted: proved on rows it never saw, at a price that was agreed. Pure.

Averaging over a closed set of twins, like masking (`trimtab.masking`), makes decisions that cannot depend on a declared
term, whatever the model. The others are measured, never promised.
"""

# fairlearn and pandas carry no types here:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportPrivateUsage=false

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, fsum, isinf
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator

from trimtab.errors import Fixable
from trimtab.evaluation.clusters import difference_draws, percentile
from trimtab.evaluation.compare import mcnemar_p, paired_difference
from trimtab.records.monitor import Interval
from trimtab.records.promotion import GateVerdict
from trimtab.records.registry import OperatingPoint
from trimtab.rotating import rotated

Parity = Literal["false_positive_rate_parity", "true_positive_rate_parity", "equalized_odds", "demographic_parity"]
"""What thresholds by group make equal; base rates that differ allow only one of them."""
MIN_CLASS = 50
"""Positives, and negatives, of each group below which thresholds by group overfit and are refused."""
ALPHA = 0.05
"""Chance that a mitigation that does not help, or costs too much, is accepted, over all that were tried together."""
RESAMPLES = 4000
GROUP_ROWS = 30
"""Rows of a group from which on its accuracy is compared before and after."""


def average(scores: Sequence[float]) -> float:
    """The mean of a decision's score over a closed swap set: the same, to the bit, for every member of the set."""
    return fsum(scores) / len(scores)


def rotations(options: Sequence[str]) -> list[tuple[str, ...]]:
    """Every cyclic order of the options: each stands once in each place."""
    return [rotated(options, shift) for shift in range(len(options))]


def average_rotated(orders: Sequence[Sequence[str]], scores: Sequence[Sequence[float]]) -> dict[str, float]:
    """Each option's mean score over the rotations, in which the preference for a place cancels out."""
    found: dict[str, list[float]] = {}
    for order, row in zip(orders, scores, strict=True):
        for option, score in zip(order, row, strict=True):
            found.setdefault(option, []).append(score)
    return {option: average(values) for option, values in found.items()}


def reweigh(labels: Sequence[str], groups: Sequence[str]) -> list[float]:
    """Weights that make label and group independent in training data (Kamiran and Calders 2012): P(g)P(y) / P(g,y)."""
    n, by_label, by_group = len(labels), Counter(labels), Counter(groups)
    both = Counter(zip(groups, labels, strict=True))
    return [by_group[g] * by_label[y] / (n * both[g, y]) for g, y in zip(groups, labels, strict=True)]


def thresholds(
    scores: Sequence[float],
    truth: Sequence[bool],
    groups: Sequence[str],
    constraint: Parity = "false_positive_rate_parity",
    of: int = 1,
) -> dict[str, OperatingPoint]:
    """Each group's operating point by Fairlearn's ThresholdOptimizer (Hardt et al. 2016) on calibration rows, for the
    best balanced accuracy. `of`: rows that are collected for one that comes here.

    Raises Fixable, with the group, its numbers and about how many more of it would do, where a group has fewer than 50
    positives or negatives: fitted on fewer, it made disparity worse.
    """
    if len(set(groups)) < 2:
        raise Fixable(
            f"thresholds are of several groups, and the rows are of {len(set(groups))}", "declare more groups"
        )
    counts = Counter(zip(groups, map(bool, truth), strict=True))
    for group in sorted(set(groups)):
        positives, negatives = counts[group, True], counts[group, False]
        if min(positives, negatives) < MIN_CLASS:
            raise Fixable(
                f"group {group} has {positives} positives and {negatives} negatives, thresholds by group need "
                f"{MIN_CLASS} of each",
                f"collect about {of * _more(positives, negatives)} more of group {group}, merge groups by a rule in "
                "the policy (fairness.merged), or use another mitigation",
            )
    from fairlearn.postprocessing import ThresholdOptimizer

    optimizer = ThresholdOptimizer(
        estimator=_Scores(), constraints=constraint, objective="balanced_accuracy_score", prefit=True,
        predict_method="decision_function",
    )  # fmt: skip
    optimizer.fit(np.asarray(scores, float)[:, None], np.asarray(truth, int), sensitive_features=list(groups))
    found: dict[Any, Any] = dict(optimizer.interpolated_thresholder_.interpolation_dict)
    return {str(group): _point(told) for group, told in found.items()}


def _more(positives: int, negatives: int) -> int:
    """Rows of a group to have 50 of both classes, at the share that the rarer one has (none yet: a tenth)."""
    rarer, n = min(positives, negatives), positives + negatives
    return ceil((MIN_CLASS - rarer) / (rarer / n if rarer else 0.1))


def _point(told: Any) -> OperatingPoint:
    """Fairlearn's mixture of a constant and of two thresholds as steps that add up."""
    ignore = float(told.get("p_ignore", 0.0))
    start, steps = ignore * float(told.get("prediction_constant", 0.0)), list[tuple[float, float]]()
    for share, operation in ((told["p0"], told["operation0"]), (told["p1"], told["operation1"])):
        adds = (1 - ignore) * float(share)
        if operation.operator != ">":  # of a score that is turned round, which we do not allow
            raise ValueError(f"unexpected operation {operation}")
        if isinf(operation.threshold):
            start += adds if operation.threshold < 0 else 0.0
        elif adds > 0:
            steps.append((float(operation.threshold), adds))
    return OperatingPoint(start=min(1.0, start), steps=tuple(steps))


class _Scores(BaseEstimator):
    """An estimator that was fitted elsewhere: its score is the only feature."""

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, *_: Any) -> _Scores:
        return self

    def decision_function(self, given: Any) -> Any:
        return given[:, 0]


@dataclass(frozen=True)
class Disparity:
    """One group's gap to the rest in one metric, before and after, on the rows of the metric's denominator. `clusters`:
    the text of each row, for rows of one text are one observation."""

    name: str
    inside: tuple[bool, ...]
    before: tuple[bool, ...]
    after: tuple[bool, ...]
    clusters: tuple[str, ...]

    def fall(self, confidence: float) -> Interval | None:
        """By how much the gap's size falls, by a bootstrap of texts that draws both alike (Davison and Hinkley 1997,
        3.8); None where a side has no row."""
        if len(set(self.inside)) < 2:
            return None
        how: dict[str, Any] = {"resamples": RESAMPLES, "seed": 0}
        sides = [difference_draws(told, self.inside, self.clusters, **how) for told in (self.before, self.after)]
        low, high = percentile(np.abs(sides[0]) - np.abs(sides[1]), confidence)
        seen = abs(self._gap(self.before)) - abs(self._gap(self.after))
        method = "bootstrap of texts"
        return Interval(estimate=seen, low=low, high=high, confidence=confidence, method=method)

    def p(self) -> float:
        """Exact sign test of the rows that change: that as many of them widen the gap as narrow it. A bootstrap alone
        is too sure of a few."""
        sign = self._gap(self.before) > 0
        rows = zip(self.inside, self.before, self.after, strict=True)
        helps = [(member == sign) == before for member, before, after in rows if before != after]
        return mcnemar_p(sum(helps), len(helps) - sum(helps))

    def _gap(self, told: Sequence[bool]) -> float:
        sides = [[a for a, member in zip(told, self.inside, strict=True) if member == side] for side in (True, False)]
        return sum(sides[0]) / len(sides[0]) - sum(sides[1]) / len(sides[1])


@dataclass(frozen=True)
class Trial:
    """A mitigation, before and after, on rows that neither it nor the audit that called for it has seen.

    `before` and `after`: whether each row is right; `groups`: the groups of each row, as far as they are known, none of
    which may be levelled down. `decisions`: the answers after it, by value. `flips_before`, `flips_after`: whether the
    decision on each frame of the axis that decides depends on the group, on the same frames.
    """

    name: str
    established: GateVerdict
    seen: frozenset[str]
    proved_on: frozenset[str]
    before: tuple[bool, ...]
    after: tuple[bool, ...]
    groups: tuple[tuple[str, ...], ...]
    decisions: Mapping[str, int]
    flips_before: tuple[bool, ...] = ()
    flips_after: tuple[bool, ...] = ()
    disparity: Disparity | None = None
    """What has to fall in the place of flips, where groups were declared."""
    new_gaps: tuple[str, ...] = ()
    """Gaps that are established after it and were not before."""


@dataclass(frozen=True)
class Acceptance:
    """Whether a mitigation becomes part of a version, and the reasons for and against. `confidence`: of the intervals
    that it rests on."""

    accepted: bool
    reasons: tuple[str, ...]
    utility: Interval | None
    confidence: float


def accept_all(trials: Sequence[Trial], margin: float, earlier: int = 0) -> list[Acceptance]:
    """Judge mitigations that were tried on the same rows, in order: the chance that one or more of them is accepted
    wrongly is at most 5% (Holm 1979). Each is judged at 5% over the number of all that were tried, `earlier` ones on
    the same rows included; the acceptance of some leaves the others a smaller number.
    """
    found: dict[int, Acceptance] = {}
    while len(found) < len(trials):
        tries = len(trials) - len(found) + earlier
        judged = {i: accept(trial, margin, tries) for i, trial in enumerate(trials) if i not in found}
        new = {i: one for i, one in judged.items() if one.accepted}
        found |= new or judged
    return [found[i] for i in range(len(trials))]


def accept(trial: Trial, margin: float, tries: int = 1) -> Acceptance:
    """Accept only: where a failure was established, on disjoint rows, when fewer frames depend on the group beyond
    doubt (exact McNemar as well as the interval) and a loss of accuracy of `margin` is excluded beyond doubt (both
    paired on the same rows, at 1 - 5% / `tries`), no group of 30 rows or more loses more than `margin`, and answers
    still differ between rows."""
    confidence, unit = 1 - ALPHA / tries, "rows" if trial.disparity else "frames"
    fell, told = _fell(trial, tries)
    utility = _paired(trial.after, trial.before, confidence)
    checks: list[tuple[bool, str]] = [
        (trial.established == "fail", f"the audit before it was {trial.established}: a failure must be established"),
        (not trial.seen & trial.proved_on, f"it must be proved on {unit} that the audit before it did not use"),
        (fell, told),
        (utility is not None and utility.low > -margin, _utility(utility, margin)),
        (len([n for n in trial.decisions.values() if n]) > 1, "answers must still differ between rows"),
        (not trial.new_gaps, f"it makes gaps that were not there: {', '.join(trial.new_gaps)}"),
        *(( change >= -margin, f"group {group} changes by {change:+.3f} in accuracy, on {n} rows")
          for group, (change, n) in _by_group(trial).items()),
    ]  # fmt: skip
    failed = [reason for holds, reason in checks if not holds]
    level = f"judged at {confidence:.1%}: {tries} tried on these {unit}"
    return Acceptance(not failed, (*(failed or [reason for _, reason in checks[2:4]]), level), utility, confidence)


def _paired(first: Sequence[bool], second: Sequence[bool], confidence: float) -> Interval | None:
    """Share of rows that count for the first, less that of the second."""
    pairs = list(zip(first, second, strict=True))
    return paired_difference(
        sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs), len(pairs), confidence
    )


def _fell(trial: Trial, tries: int) -> tuple[bool, str]:
    """Whether what was to be mended fell beyond doubt, and how that is said."""
    confidence = 1 - ALPHA / tries
    if trial.disparity is None:
        fall = _paired(trial.flips_before, trial.flips_after, confidence)
        return fall is not None and fall.low > 0 and _fell_p(trial) <= ALPHA / tries, _fall(fall, trial)
    fall = trial.disparity.fall(confidence)
    if fall is None:
        return False, f"no row says whether {trial.disparity.name} falls"
    return fall.low > 0 and trial.disparity.p() <= ALPHA / tries, (
        f"the gap {trial.disparity.name} changes by {-fall.estimate:+.3f} (between {-fall.high:+.3f} and "
        f"{-fall.low:+.3f}), on {len(trial.disparity.inside)} rows; no fall must be excluded"
    )


def _fell_p(trial: Trial) -> float:
    pairs = list(zip(trial.flips_before, trial.flips_after, strict=True))
    return mcnemar_p(sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs))


def _by_group(trial: Trial) -> dict[str, tuple[float, int]]:
    found: dict[str, tuple[float, int]] = {}
    for group in sorted({group for mine in trial.groups for group in mine}):
        rows = [(a, b) for a, b, mine in zip(trial.after, trial.before, trial.groups, strict=True) if group in mine]
        if len(rows) >= GROUP_ROWS:
            found[group] = (sum(a - b for a, b in rows) / len(rows), len(rows))
    return found


def _fall(interval: Interval | None, trial: Trial) -> str:
    if interval is None:
        return "no frame says whether it helps"
    k, m, n = sum(trial.flips_before), sum(trial.flips_after), len(trial.flips_after)
    return (
        f"{k} of {n} frames depended on the group, {m} do after it: {-interval.estimate:+.3f} "
        f"(between {-interval.high:+.3f} and {-interval.low:+.3f}); no fall must be excluded"
    )


def _utility(interval: Interval | None, margin: float) -> str:
    if interval is None:
        return "no labelled row says what it costs"
    return (
        f"accuracy changes by {interval.estimate:+.3f} (between {interval.low:+.3f} and {interval.high:+.3f}); "
        f"a loss of {margin:g} must be excluded"
    )
