"""Mitigations, and the rules by which one is accepted: proved on rows it never saw, at a price that was agreed. Pure.

Averaging over a closed set of twins, like masking (`trimtab.masking`), makes decisions that cannot depend on a declared
term, whatever the model. The others are measured, never promised.
"""

# fairlearn and pandas carry no types here:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportPrivateUsage=false

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator

from trimtab.errors import Fixable
from trimtab.evaluation.compare import mcnemar_p, paired_difference
from trimtab.records.monitor import Interval
from trimtab.records.promotion import GateVerdict
from trimtab.rotating import rotated

Parity = Literal["false_positive_rate_parity", "true_positive_rate_parity", "equalized_odds", "demographic_parity"]
"""What thresholds by group make equal; base rates that differ allow only one of them."""
MIN_CLASS = 50
"""Positives, and negatives, of each group below which thresholds by group overfit and are refused."""
ALPHA = 0.05
"""Chance that a mitigation that does not help, or costs too much, is accepted, over all that were tried together."""
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


@dataclass(frozen=True)
class Thresholds:
    """Thresholds by group, fitted. A decision uses the group at run time, which needs a lawyer's word, and is random
    where two thresholds are mixed: drawn from an HMAC of the request's id, so that a replay decides alike."""

    _optimizer: Any

    def probability(self, scores: Sequence[float], groups: Sequence[str]) -> list[float]:
        """The probability of a positive decision for each row."""
        given = np.asarray(scores, float)[:, None]
        return [float(row[1]) for row in self._optimizer._pmf_predict(given, sensitive_features=list(groups))]

    def decide(self, scores: Sequence[float], groups: Sequence[str], ids: Sequence[str], key: bytes) -> list[bool]:
        """The decision for each row, the same whenever the same id is asked with the same key."""
        told = zip(self.probability(scores, groups), ids, strict=True)
        return [uniform(identity, key) < probability for probability, identity in told]


def uniform(identity: str, key: bytes) -> float:
    """A number between 0 and 1 for a request id, unforeseeable without the key."""
    return int.from_bytes(hmac.new(key, identity.encode(), hashlib.sha256).digest()[:8]) / 2**64


def thresholds(
    scores: Sequence[float],
    truth: Sequence[bool],
    groups: Sequence[str],
    constraint: Parity = "false_positive_rate_parity",
) -> Thresholds:
    """Fairlearn's ThresholdOptimizer (Hardt et al. 2016) on calibration rows. Raises Fixable, with the group and its
    numbers, where a group has fewer than 50 positives or negatives: fitted on fewer, it made disparity worse."""
    counts = Counter(zip(groups, map(bool, truth), strict=True))
    for group in sorted(set(groups)):
        positives, negatives = counts[group, True], counts[group, False]
        if min(positives, negatives) < MIN_CLASS:
            raise Fixable(
                f"group {group} has {positives} positives and {negatives} negatives, thresholds by group need "
                f"{MIN_CLASS} of each",
                "collect more labels of that group, merge groups by a rule in the policy, or use another mitigation",
            )
    from fairlearn.postprocessing import ThresholdOptimizer

    optimizer = ThresholdOptimizer(
        estimator=_Scores(), constraints=constraint, objective="balanced_accuracy_score", prefit=True,
        predict_method="decision_function",
    )  # fmt: skip
    optimizer.fit(np.asarray(scores, float)[:, None], np.asarray(truth, int), sensitive_features=list(groups))
    return Thresholds(optimizer)


class _Scores(BaseEstimator):
    """An estimator that was fitted elsewhere: its score is the only feature."""

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, *_: Any) -> _Scores:
        return self

    def decision_function(self, given: Any) -> Any:
        return given[:, 0]


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
    flips_before: tuple[bool, ...]
    flips_after: tuple[bool, ...]


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
    confidence = 1 - ALPHA / tries
    fall = _paired(trial.flips_before, trial.flips_after, confidence)
    utility = _paired(trial.after, trial.before, confidence)
    checks: list[tuple[bool, str]] = [
        (trial.established == "fail", f"the audit before it was {trial.established}: a failure must be established"),
        (not trial.seen & trial.proved_on, "it must be proved on frames that the audit before it did not use"),
        (fall is not None and fall.low > 0 and _fell_p(trial) <= ALPHA / tries, _fall(fall, trial)),
        (utility is not None and utility.low > -margin, _utility(utility, margin)),
        (len([n for n in trial.decisions.values() if n]) > 1, "answers must still differ between rows"),
        *(( change >= -margin, f"group {group} changes by {change:+.3f} in accuracy, on {n} rows")
          for group, (change, n) in _by_group(trial).items()),
    ]  # fmt: skip
    failed = [reason for holds, reason in checks if not holds]
    level = f"judged at {confidence:.1%}: {tries} tried on these frames"
    return Acceptance(not failed, (*(failed or [reason for _, reason in checks[2:4]]), level), utility, confidence)


def _paired(first: Sequence[bool], second: Sequence[bool], confidence: float) -> Interval | None:
    """Share of rows that count for the first, less that of the second."""
    pairs = list(zip(first, second, strict=True))
    return paired_difference(
        sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs), len(pairs), confidence
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
