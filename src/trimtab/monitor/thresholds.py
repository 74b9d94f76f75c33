"""Does a window exceed a threshold of the file? Pure.

A quantile is a share in disguise: p99 is above 2 s when more than 1% of the requests take longer. So latency and errors
are one test of a share, valid at every n and in closed form, which `databricks.alert_rules` writes as SQL and KQL too.
"""

from __future__ import annotations

from datetime import datetime

import polars as pl

from trimtab.evaluation.compare import exceeds, share_bounds
from trimtab.records.monitor import Verdict
from trimtab.records.threshold import Threshold, ThresholdReport

ALPHA = 0.01
"""Chance that a window which keeps the limit is called a breach, at most."""
MINIMUM = 30
"""Requests from which a window whose share is within the limit clears an alert."""
COLUMNS = ["request_time", "status_code", "execution_duration_ms", "cost_nano_usd", "route"]
"""What `judge` reads of a row."""


def judge(threshold: Threshold, rows: pl.DataFrame, *, model: str, end: datetime, at: datetime) -> ThresholdReport:
    """Hold the rows of a window against a threshold. Copies for a shadow are no requests of anybody and do not count.

    Latency is that of answered requests (status below 400); an error is a status from 500 on, and what a caller did
    wrong (4xx) counts neither way. Breach: the share is above what the threshold allows with error probability ALPHA
    (Chernoff 1952, Ann. Math. Stat. 23:493). Ok: it is not above, in MINIMUM requests or more. Else there is not enough
    evidence. A cost is a sum and needs no test; while requests without a price are among them it is never ok.
    """
    rows = rows.filter(pl.col("route").ne_missing("shadow"))
    if threshold.metric == "cost":
        return _cost(threshold, rows, model, end, at)
    if threshold.metric == "latency":
        counted = rows.filter(pl.col("status_code") < 400)["execution_duration_ms"]
        n, k = counted.len(), int((counted > threshold.limit).sum())
        observed = counted.quantile(1 - threshold.share, "linear") if n else None
    else:
        counted = rows.filter((pl.col("status_code") < 400) | (pl.col("status_code") >= 500))["status_code"]
        n, k = counted.len(), int((counted >= 500).sum())
        observed = k / n if n else None
    return ThresholdReport(
        model=model,
        at=at,
        threshold=threshold,
        start=end - threshold.over,
        end=end,
        n=n,
        exceeding=k,
        observed=observed,
        value=share_bounds(k, n, ALPHA),
        test=f"Chernoff bound, false alarm at most {ALPHA:g} per window",
        verdict=verdict(k, n, threshold.share),
    )


def verdict(k: int, n: int, share: float) -> Verdict:
    """Whether k of n requests are more than the allowed share."""
    if exceeds(k, n, share, ALPHA):
        return "breach"
    return "ok" if n >= MINIMUM and k <= n * share else "insufficient"


def _cost(threshold: Threshold, rows: pl.DataFrame, model: str, end: datetime, at: datetime) -> ThresholdReport:
    """Money is whole nano-USD, so the sum is exact."""
    costs = rows["cost_nano_usd"]
    unpriced, nano = costs.null_count(), int(costs.sum())
    above = nano > round(threshold.limit * 1e9)
    return ThresholdReport(
        model=model,
        at=at,
        threshold=threshold,
        start=end - threshold.over,
        end=end,
        n=costs.len(),
        exceeding=0,
        observed=nano / 1e9,
        value=None,
        unpriced=unpriced,
        test="exact sum",
        verdict="breach" if above else "insufficient" if unpriced else "ok",
    )
