"""Stage 3, watch: windows, the tests run on them, and the alerts they raised."""

from __future__ import annotations

import heapq
from collections import Counter
from datetime import datetime
from typing import Literal

from pydantic import Field

from trimtab.records.record import Record

Verdict = Literal["ok", "breach", "insufficient"]


class Window(Record):
    """A contiguous stretch of requests, by row number in arrival order (`first` inclusive, `last` exclusive)."""

    first: int
    last: int
    start: datetime
    end: datetime

    @property
    def n(self) -> int:
        return self.last - self.first


BOUNDS = tuple(digit * 10**power for power in range(7) for digit in (1, 2, 5))
"""Upper bounds of a profile's buckets, 1 to 5,000,000; one list for all columns, so that profiles can be added."""
SAMPLE = 500
"""Rows that a profile samples, at most."""


class Numbers(Record):
    """A column of whole numbers: how many there are, their sum, the least, the greatest, how many are up to a bound."""

    n: int
    total: int
    least: int
    greatest: int
    at_most: tuple[int, ...] = Field(description="for each of BOUNDS, how many values are not above it")

    def quantile(self, share: float) -> int:
        """The least bound that at least `share` of the values do not exceed; the greatest value, if no bound is."""
        reached = (bound for bound, n in zip(BOUNDS, self.at_most, strict=True) if n >= share * self.n)
        return min(next(reached, self.greatest), self.greatest)

    def __add__(self, other: Numbers) -> Numbers:
        return Numbers(
            n=self.n + other.n,
            total=self.total + other.total,
            least=min(self.least, other.least),
            greatest=max(self.greatest, other.greatest),
            at_most=tuple(mine + theirs for mine, theirs in zip(self.at_most, other.at_most, strict=True)),
        )


class Profile(Record):
    """A window in numbers: what is needed to judge it without reading its rows again. Of two windows, a sum.

    `sample` holds the numbers of rows that were answered and have a text, the SAMPLE of least `priority` if there are
    more: a bottom-k sketch (Cohen and Kaplan 2007, PODC), so a sum is sampled as its window would have been.
    """

    window: Window
    numbers: dict[str, Numbers] = Field(description="by column; one without a value is left out")
    counts: dict[str, dict[str, int]] = Field(description="rows by value, by column; null is the empty text")
    sample: tuple[int, ...]

    def __add__(self, other: Profile) -> Profile:
        """The profile of both windows together, this one first. ValueError: they do not follow each other."""
        if self.window.last != other.window.first:
            raise ValueError(f"rows {other.window.first} on do not follow rows up to {self.window.last}")
        columns = {**self.numbers, **other.numbers}
        sums = {name: self.numbers[name] + other.numbers[name] for name in self.numbers.keys() & other.numbers.keys()}
        return Profile(
            window=Window(
                first=self.window.first,
                last=other.window.last,
                start=min(self.window.start, other.window.start),
                end=max(self.window.end, other.window.end),
            ),
            numbers=columns | sums,
            counts={
                name: dict(sorted((Counter(counts) + Counter(other.counts[name])).items()))
                for name, counts in self.counts.items()
            },
            sample=tuple(sorted(heapq.nsmallest(SAMPLE, (*self.sample, *other.sample), key=priority))),
        )


PRIME = 2**31 - 1


def priority(row: int) -> int:
    """A row's place in the draw of a sample: (48271 row + 11)^5 modulo 2^31 - 1, in which no two rows meet.

    The fifth power permutes the residues, for 5 does not divide 2^31 - 2 (Lidl and Niederreiter, Finite Fields, 7.8),
    and leaves no pattern in time. All steps are whole numbers below 2^62, so every engine computes the same.
    """
    x = (row % PRIME * 48271 + 11) % PRIME
    return x * x % PRIME * (x * x % PRIME) % PRIME * x % PRIME


class Interval(Record):
    """An estimate with its two-sided confidence interval."""

    estimate: float
    low: float
    high: float
    confidence: float = 0.95
    method: str


class Cluster(Record):
    """A group of current texts that the reference hardly knows: the name of what is new."""

    terms: tuple[str, ...] = Field(description="words that set it apart, strongest first")
    examples: tuple[str, ...] = Field(description="ids of the requests nearest the centre, at most five")
    n: int
    share: float = Field(description="of the current window")
    share_reference: float
    difference: Interval = Field(description="share minus share_reference")
    began_at: datetime


class DriftReport(Record):
    """Two-sample test of the current window's texts against the reference window's."""

    model: str
    at: datetime
    reference: Window
    current: Window
    test: str
    statistic: float
    p_value: float
    alpha: float = Field(description="false alarms per window on stationary traffic")
    n_reference: int
    n_current: int
    verdict: Verdict
    clusters: tuple[Cluster, ...] = ()


class QualityReport(Record):
    """Share of correct answers among requests whose label has arrived."""

    model: str
    at: datetime
    window: Window
    metric: str = "accuracy"
    field: str = Field(description="answer field judged, or * for all fields")
    n: int
    minimum: float
    value: Interval | None
    by_version: dict[int, Interval] = Field(default={})
    unknown_labels: dict[str, int] = Field(default={}, description="labels outside the version's label set")
    verdict: Verdict


class Alert(Record):
    """One alert. The same cause does not fire again before it has cleared."""

    key: str
    model: str
    kind: str = Field(description="the monitor, or the threshold as the file writes it")
    at: datetime
    title: str
    body: str
    report_key: str = Field(description="key of the report fact behind it")
