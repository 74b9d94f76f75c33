"""Topic limits: whether a question is like the ones that belong here. Fitted from the user's own examples. Pure.

The threshold is a split-conformal quantile (Vovk, Gammerman and Shafer 2005): half of the examples train, the other
half, unseen, sets it so that of further texts like them at most `max_false_blocks` are stopped, on average.
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

    `n_calibration` is how many texts set the threshold: below 1/max_false_blocks of them nothing would be stopped.
    """
    from trimtab.responsible.guards import fitting
    from trimtab.responsible.guards.linear import Linear

    ordered = sorted(set(allowed), key=lambda text: hashlib.sha256(text.encode("utf-8", "replace")).digest())
    learning, calibration = ordered[::2], ordered[1::2]
    others = [*refused, *everyday()]
    weights, bias = fitting.fit(
        [*learning, *others],
        [*[True] * len(learning), *[False] * len(others)],
        strength=10.0,
        most=FEATURES,
        digits=2,
    )
    model = Linear(weights, bias)
    scores = sorted(model.score(text) for text in calibration)
    rank = math.floor((len(scores) + 1) * max_false_blocks)
    threshold = scores[rank - 1] if rank >= 1 else -math.inf
    told = {"n_learning": len(learning), "n_calibration": len(scores), "max_false_blocks": max_false_blocks}
    return {"weights": weights, "bias": bias, "threshold": round(max(threshold, -99.0), 3), **told}


def everyday() -> list[str]:
    """Texts about many things, ours: what topics are told apart from."""
    return json.loads(Path(__file__).with_name("everyday.json").read_text(encoding="utf-8"))
