"""What the request rows say: how many, how fast, how well, by which version. Rows in, numbers out."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import polars as pl

from trimtab.records.record import Record
from trimtab.store.lake import Lake

COLUMNS = ["row", "request_time", "model_version", "outcome", "execution_duration_ms"]
MOST_ROWS = 20_000
"""The latest rows that are looked at."""
RECENT = 500
"""Requests behind the success share and the latencies, at most."""
RATE_MINUTES = 5.0
"""Minutes behind the request rate."""
MOST_BUCKETS = 90
_BUCKETS = (10, 30, 60, 300, 900, 3600, 21_600, 86_400, 604_800)


class Figures(Record):
    """The line of figures. `per_minute` over the last five minutes, or since the first request if that is less."""

    requests: int
    per_minute: float
    recent: int
    """The latest requests that success and latencies were computed over; those a client cancelled are left out."""
    success: float | None
    median_ms: float | None
    p95_ms: float | None


class Buckets(Record):
    """Requests over time: `by_version` and `failed` have one count for each start."""

    seconds: int
    starts: tuple[datetime, ...]
    by_version: dict[int, tuple[int, ...]]
    failed: tuple[int, ...]


def rows(lake: Lake) -> pl.DataFrame:
    """The latest rows, with the columns that are needed here."""
    return _rows(lake, lake.count())


@lru_cache(maxsize=4)
def _rows(lake: Lake, count: int) -> pl.DataFrame:
    """Rows are numbered and never change, so what was read for a count stays right."""
    return lake.sample(max(0, count - MOST_ROWS), count, COLUMNS)


def figures(frame: pl.DataFrame, now: datetime) -> Figures:
    """The figures at `now`, from `rows`."""
    recent = frame.filter(pl.col("outcome") != "cancelled").tail(RECENT)
    answered = recent.filter(pl.col("outcome") == "ok")["execution_duration_ms"]
    return Figures(
        requests=int(frame["row"][-1]) + 1 if frame.height else 0,
        per_minute=_per_minute(frame["request_time"], now),
        recent=recent.height,
        success=answered.len() / recent.height if recent.height else None,
        median_ms=_quantile(answered, 0.5),
        p95_ms=_quantile(answered, 0.95),
    )


def buckets(frame: pl.DataFrame) -> Buckets:
    """Requests over time, in the finest step that keeps the picture readable; empty buckets count 0."""
    if not frame.height:
        return Buckets(seconds=_BUCKETS[0], starts=(), by_version={}, failed=())
    times = frame["request_time"].dt.epoch("s").to_list()
    span = max(times) - min(times)
    seconds = next((step for step in _BUCKETS if span / step < MOST_BUCKETS), _BUCKETS[-1])
    first, last = min(times) // seconds, max(times) // seconds
    places = [time // seconds - first for time in times]
    versions = [int(version) for version in frame["model_version"]]
    failed = [outcome not in ("ok", "cancelled", "blocked") for outcome in frame["outcome"]]
    size = last - first + 1
    return Buckets(
        seconds=seconds,
        starts=tuple(datetime.fromtimestamp((first + place) * seconds, UTC) for place in range(size)),
        by_version={
            version: _counts((p for p, v in zip(places, versions, strict=True) if v == version), size)
            for version in sorted(set(versions))
        },
        failed=_counts((p for p, bad in zip(places, failed, strict=True) if bad), size),
    )


def _counts(places: Iterable[int], size: int) -> tuple[int, ...]:
    found = [0] * size
    for place in places:
        found[place] += 1
    return tuple(found)


def _per_minute(times: pl.Series, now: datetime) -> float:
    if not times.len():
        return 0.0
    since_first = (now - times[0]) / timedelta(minutes=1)
    minutes = min(RATE_MINUTES, max(since_first, 1 / 6))
    return int((times > now - timedelta(minutes=minutes)).sum()) / minutes


def _quantile(values: pl.Series, share: float) -> float | None:
    found = values.quantile(share, "linear")
    return None if found is None else float(found)
