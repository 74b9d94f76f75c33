"""Scoring answers against labels, row by row. Pure; an answer that is not valid (None) is wrong, never dropped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from trimtab.errors import Fixable
from trimtab.evaluation.compare import proportion
from trimtab.records.monitor import Interval

Answer = Mapping[str, str] | None


def label_of(text: str) -> dict[str, str]:
    """The label in a feedback's JSON value; empty when it is no object. Values that are not text become text."""
    try:
        value: Any = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(value, dict):
        return {}
    return {str(name): str(given) for name, given in cast("dict[Any, Any]", value).items()}


def exact_match(answers: Sequence[Answer], labels: Sequence[Mapping[str, str]], fields: Sequence[str]) -> list[bool]:
    """For each row, whether every one of `fields` has the label's value.

    Raises Fixable when the numbers of rows differ or a label lacks a field.
    """
    if len(answers) != len(labels):
        raise Fixable(f"{len(answers)} answers for {len(labels)} labels", "Ask every labelled row once.")
    for row, label in enumerate(labels):
        for name in fields:
            if name not in label:
                raise Fixable(f"the label of row {row} has no field {name!r}: {dict(label)}", f"Label {name!r} too.")
    return [
        answer is not None and all(answer.get(name) == label[name] for name in fields)
        for answer, label in zip(answers, labels, strict=True)
    ]


def scores(
    answers: Sequence[Answer], labels: Sequence[Mapping[str, str]], fields: Sequence[str]
) -> dict[str, Interval | None]:
    """Shares with 95% Wilson intervals: each field right, `*` all fields right, `valid` answers that are valid.

    None: no rows. Raises what `exact_match` raises.
    """
    hits = {name: exact_match(answers, labels, [name]) for name in fields}
    hits["*"] = exact_match(answers, labels, fields)
    hits["valid"] = [answer is not None for answer in answers]
    return {name: proportion(sum(rows), len(rows)) for name, rows in hits.items()}
