"""From reports to alerts: which are due, how they read, and who is told.

`due` is pure. An alert is open from the breach that raised it until a report of the same monitor is ok; while it is
open, nothing of its kind is raised for the same champion. A report without enough evidence neither raises nor clears.
"""

from __future__ import annotations

import logging
import threading
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime
from http.client import HTTPException
from urllib.parse import urlsplit

from trimtab.records.monitor import Alert, Cluster, DriftReport, QualityReport
from trimtab.records.project import MONITORS, Project
from trimtab.records.threshold import ThresholdReport, threshold

Report = DriftReport | QualityReport | ThresholdReport

WEBHOOK_TIMEOUT = 5.0
"""Seconds."""
_COUNTS = ("no", "one", "two", "three", "four", "five")

_log = logging.getLogger("trimtab.monitor")


def report_key(report: Report, champion: int) -> str:
    """The key of a report's fact: what it was computed from."""
    if isinstance(report, DriftReport):
        return f"{report.model}/{champion}/{report.current.first}"
    if isinstance(report, ThresholdReport):
        return f"{report.model}/{champion}/{report.threshold.slug}/{report.end:%Y%m%dT%H%M%SZ}"
    return f"{report.model}/{champion}/{report.window.first}-{report.window.last}/{report.n}"


def alert_prefix(model: str, kind: str, champion: int) -> str:
    """How the keys of a champion's alerts of one kind begin."""
    return f"{model}/{slug(kind)}/{champion}/"


def slug(kind: str) -> str:
    """A monitor or threshold as part of a key."""
    return kind if kind in MONITORS else threshold(kind).slug


def due(
    project: Project, kind: str, champion: int, reports: Sequence[Report], raised: Sequence[Alert], now: datetime
) -> list[Alert]:
    """The alerts that a monitor's reports ask for and that were not raised yet, oldest first.

    `reports` (the newest, back to one that is ok or to the first) and `raised` (all) are of this kind and champion,
    oldest first. Derived from facts alone, so an alert that a crash swallowed is found at the next look. None are due
    when the file lists no alert on this monitor.
    """
    if not any(kind in section.on for section in project.alerts):
        return []
    keys = [report_key(report, champion) for report in reports]
    after = keys.index(raised[-1].report_key) + 1 if raised and raised[-1].report_key in keys else 0
    found, is_open = list[Alert](), bool(raised)
    for key, report in zip(keys[after:], reports[after:], strict=True):
        if report.verdict == "breach" and not is_open:
            title, body = _text(report, champion)
            number = len(raised) + len(found) + 1
            alert_key = f"{alert_prefix(project.name, kind, champion)}{number}"
            found.append(
                Alert(key=alert_key, model=project.name, kind=kind, at=now, title=title, body=body, report_key=key)
            )
        if report.verdict != "insufficient":
            is_open = report.verdict == "breach"
    return found


def notify(project: Project, alert: Alert) -> None:
    """Tell everyone the file names for this kind of alert, once. Returns at once and never fails.

    A webhook is sent the alert as JSON by POST, one try of 5 seconds, in a thread of its own; a failure is logged.
    The fact stands whether or not somebody could be told.
    """
    targets = dict.fromkeys(
        target for section in project.alerts if alert.kind in section.on for target in section.notify
    )
    for target in targets:
        if target == "log":
            _log.warning("alert %s: %s", alert.key, alert.title)
        else:
            url = target.removeprefix("webhook:")
            threading.Thread(target=_post, args=(url, alert), daemon=True, name="trimtab-webhook").start()


def _post(url: str, alert: Alert) -> None:
    try:
        post(url, alert.model_dump_json().encode(), "application/json")
    except ConnectionError as error:
        _log.error("alert %s: %s", alert.key, error)


def post(url: str, body: bytes, content_type: str) -> None:
    """One POST to a webhook. Raises ConnectionError with the host alone: the path is often the webhook's secret."""
    try:
        request = urllib.request.Request(url, body, {"Content-Type": content_type})  # noqa: S310 (the file admits http and https only)
        with urllib.request.urlopen(request, timeout=WEBHOOK_TIMEOUT):  # noqa: S310
            pass
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "code", None) or type(error).__name__
        raise ConnectionError(f"did not reach the webhook at {urlsplit(url).hostname}: {reason}") from None


def _text(report: Report, champion: int) -> tuple[str, str]:
    if isinstance(report, DriftReport):
        return _drift_text(report)
    return _threshold_text(report) if isinstance(report, ThresholdReport) else _quality_text(report, champion)


def _threshold_text(report: ThresholdReport) -> tuple[str, str]:
    named, value = report.threshold, report.value
    title = f"{report.model}: {named.text}: {amount(report)} in {_span(report.start, report.end)}"
    if value is None:
        priced = f" {report.unpriced} more had no price." if report.unpriced else ""
        return title, f"{report.n} requests cost {amount(report)}; the file allows {named.limit:g} USD.{priced}"
    what = f"took longer than {named.limit:g} ms" if named.metric == "latency" else "failed (status 500 and above)"
    return title, (
        f"{report.exceeding} of {report.n} requests {what}: {value.estimate:.2%}, interval {value.low:.2%} to "
        f"{value.high:.2%} ({value.method}). The file allows {named.share:.2%}. Test: {report.test}."
    )


def amount(report: ThresholdReport) -> str:
    """What was observed, with its unit: `p99 2310 ms`, `3.1% failed`, `7.20 USD`."""
    named, observed = report.threshold, report.observed
    if observed is None:
        return "no request"
    if named.metric == "latency":
        return f"p{100 * (1 - named.share):.0f} {observed:.0f} ms"
    return f"{observed:.2%} failed" if named.metric == "error_rate" else f"{observed:.2f} USD"


def _drift_text(report: DriftReport) -> tuple[str, str]:
    window, reference = report.current, report.reference
    test = (
        f"{report.test}: MMD² {report.statistic:.4f}, p = {report.p_value:.3f} (alarm at {report.alpha:g}), "
        f"{report.n_current} against {report.n_reference} requests."
    )
    span = f"Requests {window.first} to {window.last - 1} ({_span(window.start, window.end)})"
    against = f"the reference, requests {reference.first} to {reference.last - 1}."
    if not report.clusters:
        title = f"{report.model}: requests have changed, without a single topic that stands out"
        return title, f"{span} do not look like {against}\n{test}"
    count = len(report.clusters)
    topics = "; ".join(f"{_name(c)} ({c.share:.0%} of requests, from {_clock(c.began_at)})" for c in report.clusters)
    title = f"{report.model}: {_COUNTS[count]} new topic{'s' if count > 1 else ''}: {topics}"
    return title, "\n".join([f"{span} do not look like {against}", test, *map(_topic, report.clusters)])


def _topic(cluster: Cluster) -> str:
    d = cluster.difference
    examples = "\n".join(f"  `trimtab explain {request}`" for request in cluster.examples[:3])
    return (
        f"\n{_name(cluster)}: {cluster.n} requests, {cluster.share:.0%} where the reference has "
        f"{cluster.share_reference:.0%}, since {_clock(cluster.began_at)}; "
        f"the share grew by {100 * d.low:.1f} to {100 * d.high:.1f} points "
        f"({d.confidence:.2%} interval, {d.method}).\n{examples}"
    )


def _name(cluster: Cluster) -> str:
    return ", ".join(cluster.terms[:3]) or "a group without words of its own"


def _quality_text(report: QualityReport, champion: int) -> tuple[str, str]:
    value, what = report.value, "all fields" if report.field == "*" else report.field
    if value is None:
        raise ValueError("a breach without a value")
    title = (
        f"{report.model}: {report.metric} of version {champion} is {value.estimate:.0%}, below {report.minimum:.0%} "
        f"(at most {value.high:.0%})"
    )
    lines = [
        f"{report.metric.capitalize()} ({what}) over {report.n} labelled requests, {report.window.first} to "
        f"{report.window.last - 1} ({_span(report.window.start, report.window.end)}): {value.estimate:.1%}, interval "
        f"{value.low:.1%} to {value.high:.1%} ({value.method}). The file asks for {report.minimum:.1%}."
    ]
    if report.unknown_labels:
        unknown = ", ".join(f"{label} ({n})" for label, n in report.unknown_labels.items())
        lines.append(f"Labels that version {champion} does not know: {unknown}.")
    return title, "\n".join(lines)


def _clock(time: datetime) -> str:
    return f"{time.astimezone(UTC):%H:%M} UTC"


def _span(start: datetime, end: datetime) -> str:
    start, end = start.astimezone(UTC), end.astimezone(UTC)
    day = "" if start.date() == end.date() else f"{end:%d %b} "
    return f"{start:%d %b %H:%M} to {day}{end:%H:%M} UTC"
