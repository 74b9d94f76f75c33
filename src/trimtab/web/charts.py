"""ECharts options for the three pictures. Pure: a part of the view in, options out.

Colours of text and lines are set in style.css (the charts are SVG), so that light and dark need no second picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from trimtab.records.monitor import DriftReport, Interval, QualityReport
from trimtab.records.registry import AliasMove
from trimtab.web import words
from trimtab.web.traffic import Buckets

Options = dict[str, Any]

PALETTE = ("#4c86e8", "#12a594", "#e2912a", "#9a6dd7", "#d6609a", "#7c8da3")
"""One for each version, in turn; told apart with every common colour blindness, and read on light and dark."""
GOOD, BAD, QUIET = "#4c86e8", "#e0483d", "#8b98a9"


def colour(version: int) -> str:
    """A version has the same colour everywhere."""
    return PALETTE[(version - 1) % len(PALETTE)]


def traffic(found: Buckets, moves: Sequence[AliasMove]) -> Options:
    """Requests by version, stacked, with the moments at which another version became champion."""
    labels = [_tick(start, found.seconds) for start in found.starts]
    series: list[Options] = [
        {
            "name": words.version(version),
            "type": "bar",
            "stack": "requests",
            "data": list(counts),
            "itemStyle": {"color": colour(version)},
            "barCategoryGap": "12%",
        }
        for version, counts in found.by_version.items()
    ]
    if any(found.failed):
        points = [[label, count] for label, count in zip(labels, found.failed, strict=True) if count]
        mark = {"color": BAD, "borderColor": BAD}
        series.append({"name": "failed", "type": "scatter", "symbol": "diamond", "data": points, "itemStyle": mark})
    if series:
        series[0]["markLine"] = _moves(found, labels, moves)
    return _frame("Requests by version over time", legend=[each["name"] for each in series]) | {
        "xAxis": {"type": "category", "data": labels, "axisTick": {"show": False}},
        "yAxis": {"type": "value", "minInterval": 1, "splitNumber": 3},
        "series": series,
    }


def _moves(found: Buckets, labels: Sequence[str], moves: Sequence[AliasMove]) -> Options:
    marks: list[Options] = []
    for move in moves:
        place = int((move.at - found.starts[0]).total_seconds() // found.seconds)
        if move.alias == "champion" and move.before is not None and 0 <= place < len(labels):
            text = f"version {move.after} takes over"
            marks.append({"xAxis": labels[place], "label": {"formatter": text, "position": "end"}})
    line = {"type": "dashed", "color": QUIET, "width": 1}
    return {"symbol": "none", "silent": True, "lineStyle": line, "data": marks}


def drift(reports: Mapping[int, Sequence[DriftReport]], alpha: float) -> Options:
    """One p-value for each window on a log scale, against alpha: below the line the window is a breach."""
    flat = sorted((report for each in reports.values() for report in each), key=lambda report: report.current.end)
    floor = min([0.001, *(report.p_value for report in flat)])
    data = [_drift_point(report) for report in flat]
    line = {"type": "dashed", "color": BAD, "width": 1}
    mark = {"yAxis": alpha, "label": {"formatter": f"alpha {alpha:g}", "position": "insideEndTop"}}
    series = {
        "name": "p-value",
        "type": "line",
        "data": data,
        "lineStyle": {"color": QUIET, "width": 1.5},
        "symbolSize": 9,
        "markLine": {"symbol": "none", "silent": True, "lineStyle": line, "data": [mark]},
    }
    return _frame("Drift: p-value of each window", legend=()) | {
        "tooltip": {"trigger": "item", "formatter": "{b}"},
        "xAxis": {"type": "category", "data": [_rows(report) for report in flat], "axisTick": {"show": False}},
        "yAxis": {"type": "log", "min": floor / 1.6, "max": 1, "axisLabel": {"showMinLabel": False}},
        "series": [series],
    }


def _drift_point(report: DriftReport) -> Options:
    topics = "; ".join(
        f"{', '.join(cluster.terms[:3])} ({cluster.share:.0%})" for cluster in report.clusters if cluster.terms
    )
    text = f"{_rows(report)}: {report.verdict}, p = {report.p_value:.3f}" + (f"; new: {topics}" if topics else "")
    breach = report.verdict == "breach"
    return {
        "name": text,
        "value": report.p_value,
        "symbol": {"ok": "circle", "breach": "diamond", "insufficient": "emptyCircle"}[report.verdict],
        "symbolSize": 14 if breach else 9,
        "itemStyle": {"color": BAD if breach else GOOD},
        "label": {"show": breach, "formatter": "breach", "position": "right"},
    }


def quality(reports: Mapping[int, Sequence[QualityReport]], minimum: float) -> Options:
    """Accuracy of the champion at each look with its interval, and the least that the file asks for."""
    flat = [
        (version, report, report.value)
        for version, each in reports.items()
        for report in each
        if report.value is not None
    ]
    flat.sort(key=lambda found: found[1].at)
    labels = [f"{words.moment(report.at, report.at)}{' ' * i}" for i, (_, report, _) in enumerate(flat)]
    series: list[Options] = []
    for version in sorted({found[0] for found in flat}):
        values = [value if champion == version else None for champion, _, value in flat]
        series += _estimates(version, values, [_quality_text(*found) for found in flat])
    if series:
        line = {"type": "dashed", "color": BAD, "width": 1}
        mark = {"yAxis": 100 * minimum, "label": {"formatter": f"minimum {minimum:.0%}", "position": "insideEndTop"}}
        series[0]["markLine"] = {"symbol": "none", "silent": True, "lineStyle": line, "data": [mark]}
    names = [words.version(version) for version in sorted({found[0] for found in flat})]
    return _frame("Quality: accuracy of the champion with its interval", legend=names) | {
        "tooltip": {"trigger": "item", "formatter": "{b}"},
        "xAxis": {"type": "category", "data": labels, "axisTick": {"show": False}},
        "yAxis": {"type": "value", "min": 0, "max": 100, "interval": 25, "axisLabel": {"formatter": "{value}%"}},
        "series": series,
    }


def _estimates(version: int, values: Sequence[Interval | None], texts: Sequence[str]) -> list[Options]:
    """A band from low to high (an unseen line with the band stacked on it) behind the line of estimates."""
    band = {"type": "line", "stack": f"band {version}", "symbol": "none", "silent": True, "lineStyle": {"opacity": 0}}
    shade = {"color": colour(version), "opacity": 0.18}
    points = [
        {"name": text, "value": 100 * value.estimate} if value else {"name": text, "value": None}
        for text, value in zip(texts, values, strict=True)
    ]
    return [
        band | {"name": f"low {version}", "data": [100 * value.low if value else None for value in values]},
        band
        | {
            "name": f"band {version}",
            "data": [100 * (value.high - value.low) if value else None for value in values],
            "areaStyle": shade,
        },
        {
            "name": words.version(version),
            "type": "line",
            "data": points,
            "symbol": "circle",
            "symbolSize": 8,
            "itemStyle": {"color": colour(version)},
            "lineStyle": {"color": colour(version), "width": 2},
        },
    ]


def _quality_text(version: int, report: QualityReport, value: Interval) -> str:
    return (
        f"version {version}, {report.n} labelled requests: {value.estimate:.1%}, "
        f"between {value.low:.1%} and {value.high:.1%}: {report.verdict}"
    )


def _rows(report: DriftReport) -> str:
    return f"{report.current.first}–{report.current.last - 1}"


def _tick(start: datetime, seconds: int) -> str:
    if seconds < 60:
        return f"{start:%H:%M:%S}"
    return f"{start:%H:%M}" if seconds < 3600 else f"{start:%d %b %H:%M}" if seconds < 86_400 else f"{start:%d %b}"


def _frame(description: str, legend: Sequence[str]) -> Options:
    """What all pictures share. `legend` names the series that it explains."""
    return {
        "animationDuration": 300,
        "animationDurationUpdate": 300,
        "aria": {"enabled": True, "label": {"description": description}},
        "grid": {"left": 4, "right": 16, "top": 34, "bottom": 4, "containLabel": True},
        "legend": {"data": list(legend), "top": 0, "right": 4, "icon": "roundRect", "itemWidth": 10, "itemHeight": 10},
        "tooltip": {"trigger": "axis"},
    }
