"""Labelled rows by group and intersection, through Fairlearn's MetricFrame. Pure.

A rate is judged on its denominator: of a group with 1,800 rows and three negatives, three is what counts. The group of
a row comes from a side file joined by id, and reaches no prompt.
"""

# fairlearn and pandas carry no types here:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportUnknownParameterType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trimtab.records.responsible import Policy
from trimtab.responsible import gate
from trimtab.responsible.gate import Gap

TEST = "each group's rate against all others': Newcombe 1998, method 10; Holm over groups x gating metrics"
LIMITS = "A rate says nothing of whether the labels themselves are fair, and base rates of groups may differ."
UNDECLARED = "undeclared"


@dataclass(frozen=True)
class Labelled:
    """Rows with the right answer, the answer given (None: not valid, so wrong), and each row's group by attribute."""

    truth: tuple[str, ...]
    answers: tuple[str | None, ...]
    groups: Mapping[str, tuple[str, ...]]
    positive: tuple[str, ...] = ()
    """Values of the field that are the positive outcome; empty: every value in turn against the rest."""


def attributes_of(ids: Sequence[str], table: Mapping[str, Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    """The groups of rows by attribute, joined from a side file by id; a row that it does not know is "undeclared"."""
    names = sorted({name for row in table.values() for name in row})
    return {name: tuple(table.get(key, {}).get(name) or UNDECLARED for key in ids) for name in names}


def gaps(rows: Labelled, policy: Policy, intersections: Sequence[tuple[str, ...]] = ()) -> list[Gap]:
    """accuracy, selection_rate, fpr and fnr of every group against the rest, for every attribute and intersection.

    With several values in turn, metrics are called fpr:VALUE and so on. Groups are merged first where the policy says.
    """
    found: list[Gap] = []
    for attributes in [*((name,) for name in rows.groups), *intersections]:
        name = "+".join(attributes)
        for metric, counts in counted(rows, attributes, policy).items():
            found += gate.against_rest(metric, name, counts)
    return found


def counted(rows: Labelled, attributes: Sequence[str], policy: Policy) -> dict[str, dict[str, tuple[int, int]]]:
    """Events and denominator of each metric for each group of an attribute, or an intersection of several."""
    import pandas
    from fairlearn.metrics import MetricFrame

    merged = {name: [policy.merged.get(f"{name}={group}", group) for group in rows.groups[name]] for name in attributes}
    truth, answer = np.asarray(rows.truth, object), np.asarray([a or "" for a in rows.answers], object)
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for name, function in _functions(rows).items():
        frame = MetricFrame(metrics=function, y_true=truth, y_pred=answer, sensitive_features=pandas.DataFrame(merged))
        told: dict[Any, Any] = frame.by_group.to_dict()
        found[name] = {
            "+".join(map(str, key)) if isinstance(key, tuple) else str(key): value
            for key, value in told.items()
            if isinstance(value, tuple)  # an intersection without rows is no number
        }
    return found


def _functions(rows: Labelled) -> dict[str, Any]:
    """Metrics as functions of (truth, answer) to (events, denominator)."""

    def accuracy(truth: Any, answer: Any) -> tuple[int, int]:
        return int((truth == answer).sum()), len(truth)

    def rate(wanted: Sequence[str], of: bool | None, hit: bool) -> Any:
        def counts(truth: Any, answer: Any) -> tuple[int, int]:
            positive, said = np.isin(truth, wanted), np.isin(answer, wanted)
            inside = np.ones(len(truth), bool) if of is None else positive == of
            return int((inside & (said == hit)).sum()), int(inside.sum())

        return counts

    found: dict[str, Any] = {"accuracy": accuracy}
    kinds = {"": rows.positive} if rows.positive else {f":{v}": (v,) for v in sorted(set(rows.truth))}
    for suffix, wanted in kinds.items():
        found[f"selection_rate{suffix}"] = rate(wanted, None, True)
        found[f"fpr{suffix}"] = rate(wanted, False, True)
        found[f"fnr{suffix}"] = rate(wanted, True, False)
    return found
