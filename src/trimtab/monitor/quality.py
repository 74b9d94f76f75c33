"""Are enough answers right, among requests whose label has arrived? Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from math import pi
from typing import NamedTuple

from scipy.stats import binomtest

from trimtab.evaluation.compare import proportion
from trimtab.evaluation.scorers import exact_match
from trimtab.records.monitor import Interval, QualityReport, Verdict, Window
from trimtab.records.registry import LabelSet

MINIMUM = 30
"""Labels needed; fewer is `insufficient`: the interval would span most of what could be true."""
RISK = 0.05
"""Chance that any of all the intervals of one champion, however many, misses the truth."""


class Answered(NamedTuple):
    """One labelled request: its row number, who answered, the answer's text, and what would have been right."""

    row: int
    time: datetime
    version: int
    output: str | None
    label: dict[str, str]


def fields_of(field: str, labels: LabelSet) -> list[str]:
    """The answer fields judged: all of them for `*`, else the one."""
    return list(labels.fields) if field == "*" else [field]


def judge(
    rows: Sequence[Answered],
    *,
    model: str,
    champion: int,
    labels: Mapping[int, LabelSet],
    field: str,
    minimum: float,
    looks: int,
    at: datetime,
) -> QualityReport:
    """Accuracy of the champion over its labelled rows, against `minimum`; an answer that is not valid is wrong.

    `rows`: in order, each label with every judged field, at least one row the champion's; rows of other versions in
    `labels` count in `by_version` alone. `looks`: how often this champion was judged before. A monitor that is looked
    at again and again would sooner or later alarm by chance, so the k-th look is taken at level RISK * 6 / (pi^2 k^2):
    the levels sum to RISK, and by the union bound all intervals hold together with 95%, though their windows overlap
    (spending as in Darling and Robbins 1967, PNAS 57:1188). The interval is exact (Clopper and Pearson 1934,
    Biometrika 26:404), because a score interval misses too often at such levels. `by_version` has plain 95% Wilson
    intervals, for reading.
    """
    right = {
        version: exact_match(
            [known.parse(row.output or "") for row in rows if row.version == version],
            [row.label for row in rows if row.version == version],
            fields_of(field, labels[champion]),
        )
        for version, known in labels.items()
    }
    mine = [row for row in rows if row.version == champion]
    value = _interval(sum(right[champion]), len(mine), looks)
    verdict: Verdict = "breach" if value.high < minimum else "ok"
    each = {version: proportion(sum(hits), len(hits)) for version, hits in right.items()}
    return QualityReport(
        model=model,
        at=at,
        window=Window(
            first=mine[0].row,
            last=mine[-1].row + 1,
            start=min(row.time for row in mine),
            end=max(row.time for row in mine),
        ),
        field=field,
        n=len(mine),
        minimum=minimum,
        value=value,
        by_version={version: interval for version, interval in each.items() if interval is not None},
        unknown_labels=_unknown(mine, labels[champion]),
        verdict=verdict if len(mine) >= MINIMUM else "insufficient",
    )


def _interval(right: int, n: int, looks: int) -> Interval:
    confidence = 1 - RISK * 6 / (pi * (looks + 1)) ** 2
    bounds = binomtest(right, n).proportion_ci(confidence, method="exact")
    method = f"Clopper-Pearson at look {looks + 1}; all looks together hold with {1 - RISK:.0%}"
    return Interval(
        estimate=right / n, low=float(bounds.low), high=float(bounds.high), confidence=confidence, method=method
    )


def _unknown(rows: Sequence[Answered], labels: LabelSet) -> dict[str, int]:
    """How often people gave a value that the version cannot answer, e.g. {"intent=recall": 12}, most frequent first."""
    return dict(
        Counter(
            f"{name}={value}"
            for row in rows
            for name, value in row.label.items()
            if name in labels.fields and value not in labels.fields[name]
        ).most_common()
    )
