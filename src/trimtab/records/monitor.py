"""Stage 3, watch: windows, the tests run on them, and the alerts they raised."""

from __future__ import annotations

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
    examples: tuple[str, ...] = Field(description="texts nearest the centre, at most five")
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
