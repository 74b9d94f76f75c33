"""Topic limits: whether a question is like the ones that belong here. Fitted from the user's own examples. Pure.

The threshold is set so that of further texts like the examples at most `max_false_blocks` are stopped. Each example
is scored by a model that has not seen it (cross-conformal, Vovk 2015, five folds); the threshold is the score of the
rank that with 95% confidence stops no more than that share (Clopper-Pearson; Vovk 2012), for a plain quantile holds
only on average. The model that serves has learned from all examples.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimtab.records.guards import Guard, GuardSet
from trimtab.records.registry import LabelSet
from trimtab.responsible.guards.linear import Linear

FOLDS = 5
CONFIDENCE = 0.95
FEATURES = 3000
"""Weights that a fitted guard carries, at most."""


def fitted(guards: GuardSet | None, labels: LabelSet | None = None) -> GuardSet | None:
    """The set as a version with these labels carries it: the examples of topic guards replaced by what was learned from
    them, and a format that follows the labels following these. The same examples give the same weights."""
    if guards is None:
        return None
    return guards.model_copy(update={"checks": tuple(_fitted(guard, labels) for guard in guards.checks)})


def _fitted(guard: Guard, labels: LabelSet | None) -> Guard:
    if guard.params.get("of_labels") and labels is not None:
        return guard.model_copy(update={"params": {**guard.params, "schema": labels.json_schema()}})
    if guard.kind != "topics" or "examples" not in guard.params:
        return guard
    given = guard.params
    learned = fit(given["examples"], given["refuse"], given["max_false_blocks"])
    return guard.model_copy(update={"params": learned})


def fit(allowed: Sequence[str], refused: Sequence[str], max_false_blocks: float) -> dict[str, Any]:
    """Weights, bias and threshold. Texts of other topics are `refused` and a small everyday collection of ours.

    `n_calibration` is how many texts set the threshold; with fewer than about 3/max_false_blocks nothing can be
    promised, and nothing is stopped.
    """
    ordered = sorted(set(allowed), key=lambda text: hashlib.sha256(text.encode("utf-8", "replace")).digest())
    others = [*refused, *everyday()]
    scores: list[float] = []
    for fold in range(FOLDS):
        rest = [text for number, text in enumerate(ordered) if number % FOLDS != fold]
        model = Linear(*_learned(rest, others))
        scores += [model.score(text) for text in ordered[fold::FOLDS]]
    weights, bias = _learned(ordered, others)
    rank = _rank(len(scores), max_false_blocks)
    threshold = sorted(scores)[rank - 1] if rank else -math.inf
    told = {"n_learning": len(ordered), "n_calibration": len(scores), "max_false_blocks": max_false_blocks}
    return {"weights": weights, "bias": bias, "threshold": round(max(threshold, -99.0), 3), **told}


def _learned(allowed: Sequence[str], others: Sequence[str]) -> tuple[dict[str, float], float]:
    from trimtab.responsible.guards import fitting

    belongs = [*[True] * len(allowed), *[False] * len(others)]
    return fitting.fit([*allowed, *others], belongs, strength=10.0, most=FEATURES, digits=2)


def _rank(n: int, share: float) -> int:
    """Which of n scores, counted from the lowest, has at most `share` of further ones below it with 95% confidence: the
    largest r with P(Binomial(n, share) < r) <= 5%; 0: none has."""
    total, k = 0.0, 0
    while k < n:
        log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        total += math.exp(log + k * math.log(share) + (n - k) * math.log1p(-share))
        if total > 1 - CONFIDENCE:
            return k
        k += 1
    return n


def everyday() -> list[str]:
    """Texts about many things, ours: what topics are told apart from."""
    return json.loads(Path(__file__).with_name("everyday.json").read_text(encoding="utf-8"))
