"""Values as people read them: times (all UTC), shares, intervals, lengths of time."""

from __future__ import annotations

from datetime import UTC, datetime

from trimtab.records.monitor import Interval


def moment(at: datetime, now: datetime | None = None) -> str:
    """`14:22:07` on the day of `now`, else `22 Nov 14:22`."""
    at = at.astimezone(UTC)
    return f"{at:%H:%M:%S}" if now and at.date() == now.astimezone(UTC).date() else f"{at:%d %b %H:%M}"


def length(seconds: float) -> str:
    """`4 s`, `3 min`, `2 h`, `5 days`."""
    for size, name in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"


def percent(share: float | None, digits: int = 0) -> str:
    """`97%`, or a dash when it was not measured."""
    return "–" if share is None else f"{share:.{digits}%}"


def milliseconds(value: float | None) -> str:
    """`212 ms`, `1.4 s`, or a dash when it was not measured."""
    if value is None:
        return "–"
    return f"{value:.0f} ms" if value < 1000 else f"{value / 1000:.1f} s"


def interval(value: Interval | None, digits: int = 3, sign: str = "+") -> str:
    """`+0.490 [+0.372, +0.596]`, or the words for not measured."""
    if value is None:
        return "not measured"
    return f"{value.estimate:{sign}.{digits}f} [{value.low:{sign}.{digits}f}, {value.high:{sign}.{digits}f}]"


def version(number: int | None) -> str:
    """`version 3`, or `none`."""
    return "none" if number is None else f"version {number}"


def plural(count: int, word: str) -> str:
    """`1 window`, `2 windows`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"
