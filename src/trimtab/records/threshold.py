"""Stage 3, watch: a threshold that an alert names, e.g. `latency_p99 > 2s`, `error_rate > 2%`, `cost > 5 USD/day`."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field

from trimtab.records import keys
from trimtab.records.monitor import Interval, Verdict
from trimtab.records.record import Record

Unit = Literal["ms", "share", "USD"]
WINDOWS = {"5min": timedelta(minutes=5), "15min": timedelta(minutes=15), "1h": timedelta(hours=1)}
"""Windows of latencies and errors; each is judged once, when it is over."""
SPANS = {"hour": timedelta(hours=1), "day": timedelta(days=1), "month": timedelta(days=30)}
"""What a cost is summed over, up to the end of the window."""

_LATENCY = re.compile(r"latency_p(50|90|95|99) > (\d{1,6}(?:\.\d{1,3})?)(ms|s)")
_ERRORS = re.compile(r"error_rate > (\d{1,2}(?:\.\d{1,3})?)%")


class Threshold(Record):
    """What must not be exceeded. `text` is how the file writes it, and names it everywhere."""

    text: str
    metric: Literal["latency", "error_rate", "cost"]
    limit: float = Field(description="latency: ms; error_rate: share of requests; cost: USD")
    share: float = Field(description="share of requests that may be slower, or fail; cost: 0")
    every: timedelta = Field(description="length of a window; they follow each other without overlap")
    over: timedelta = Field(description="rows looked at: those up to this long before a window's end")

    @property
    def unit(self) -> Unit:
        units: dict[str, Unit] = {"latency": "ms", "error_rate": "share", "cost": "USD"}
        return units[self.metric]

    @property
    def slug(self) -> str:
        """The text as part of a key: `latency_p99-2s`."""
        return re.sub(r"[^a-z0-9_.]+", "-", self.text.lower()).strip("-")


def threshold(text: str, window: str = "15min") -> Threshold:
    """The threshold that a text names, judged in windows of `window`. Raises ValueError."""
    every = WINDOWS[window]
    if match := _LATENCY.fullmatch(text):
        limit, share = float(match[2]) * (1000 if match[3] == "s" else 1), round(1 - int(match[1]) / 100, 2)
        return _positive(Threshold(text=text, metric="latency", limit=limit, share=share, every=every, over=every))
    if match := _ERRORS.fullmatch(text):
        share = float(match[1]) / 100
        return _positive(Threshold(text=text, metric="error_rate", limit=share, share=share, every=every, over=every))
    if text.startswith("cost > "):
        budget = keys.budget(text.removeprefix("cost > "))
        usd, over = budget.nano_usd / 1e9, SPANS[budget.per]
        return Threshold(text=text, metric="cost", limit=usd, share=0, every=every, over=over)
    raise ValueError("is neither a monitor nor a threshold")


def _positive(found: Threshold) -> Threshold:
    if found.limit <= 0:
        raise ValueError("allows nothing at all")
    return found


class ThresholdReport(Record):
    """One window held against a threshold. Exceeding: requests slower than the limit, or failed; of a cost, none."""

    model: str
    at: datetime
    threshold: Threshold
    start: datetime
    end: datetime
    n: int
    exceeding: int
    observed: float | None = Field(description="the quantile in ms, the share of failures, or USD; None: no request")
    value: Interval | None = Field(description="share of exceeding requests; None: no request, or a sum")
    unpriced: int = Field(default=0, description="requests whose cost is not known")
    test: str
    verdict: Verdict
