"""What the page shows of the present: the champion, the figures, the loop, the alerts, and what was live before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from trimtab.records.gateway import EngineState
from trimtab.records.lifecycle import Progress
from trimtab.records.monitor import Cluster
from trimtab.records.registry import AliasMove, Traffic
from trimtab.web import words
from trimtab.web.cycles import Stage
from trimtab.web.pieces import badge, box, more, named, panel, table, text, version
from trimtab.web.view import AlertView, VersionRow, View

_SIGNS = {"done": "✓", "running": "●", "pending": "", "stopped": "✕"}


class Live(NamedTuple):
    """What answers now, and what could answer instead."""

    champion: int | None
    since: AliasMove | None
    challenger: int | None
    canary: Traffic | None
    engine: EngineState | None
    undo: AliasMove | None
    today: datetime


def live_of(view: View) -> Live:
    """The part of the view that the champion's card shows."""
    engine = view.engines.get(view.champion) if view.champion is not None else None
    today = view.at.replace(hour=0, minute=0, second=0, microsecond=0)
    return Live(view.champion, view.since, view.challenger, view.canary, engine, view.undo, today)


def champion(live: Live, ask_undo: Callable[[], object]) -> None:
    """Which version answers, since when and why, and the way back."""
    with box("card-head"):
        text("Champion", "", "h2")
        text("the version that answers", "muted")
    with box("champion-line"):
        with named(box("champion-name"), "champion"):
            version(live.champion)
        if live.undo is not None:
            button = text("Undo", "button", "button").on("click", lambda _: ask_undo())
            named(button, "undo", f"Undo: put version {live.undo.before} back").props("type=button")
    if live.since is None:
        text("Nothing is registered yet: run `trimtab register`.", "muted")
        return
    text(f"since {words.moment(live.since.at, live.today)} UTC, by {live.since.actor}: {live.since.reason}", "muted")
    if live.engine is not None and live.engine.state != "ready":
        problem = f": {live.engine.error}" if live.engine.error else ""
        text(f"its engine is {live.engine.state}{problem}", "muted")
    if live.canary is not None:
        with box("inline"):
            badge("challenger")
            version(live.canary.version)
            text(f"answers {live.canary.percent:g}% of callers", "muted")


def figures(line: Callable[[str, str], object], view: View) -> None:
    """Set the line of figures: `line(name, value)` puts a value, `line(name + " note", words)` what it means."""
    found, last = view.figures, f"of the last {view.figures.recent}"
    reports = [reports[-1] for number, reports in view.quality.items() if number == view.champion]
    value = reports[0].value if reports else None
    line("requests", f"{found.requests:,}")
    line("requests note", "answered so far")
    line("per minute", f"{found.per_minute:.{0 if found.per_minute >= 10 else 1}f}")
    line("per minute note", "over five minutes")
    line("success", words.percent(found.success, 1 if found.success not in (None, 1.0) else 0))
    line("success note", last if found.recent else "no request yet")
    line("median", words.milliseconds(found.median_ms))
    line("median note", f"95% within {words.milliseconds(found.p95_ms)}" if found.recent else "no request yet")
    line("accuracy", words.percent(value.estimate if value else None))
    line("accuracy note", f"{value.low:.0%} to {value.high:.0%}, {reports[0].n} labels" if value else "no labels yet")


FIGURES = (
    ("requests", "Requests"),
    ("per minute", "Per minute"),
    ("success", "Success"),
    ("median", "Median latency"),
    ("accuracy", "Accuracy"),
)
"""The figures in order: name and heading."""


def loop(stages: Sequence[Stage]) -> None:
    """The lifecycle in its order, and where it stands."""
    with box("loop", "ol").props('aria-label="the lifecycle"'):
        for stage in stages:
            with box(f"stage {stage.state}", "li"):
                text(_SIGNS[stage.state], "stage-sign", "span").props("aria-hidden=true")
                with box("stage-words"):
                    text(stage.name, "stage-name")
                    text(stage.state, "unseen")
                    text(stage.text, "stage-text")


def progress_text(progress: Progress) -> str:
    """What happens right now, in one line."""
    left = f", about {words.length(progress.eta_seconds)} left" if progress.eta_seconds is not None else ""
    said = f": {progress.text}" if progress.text else ""
    return f"attempt {progress.attempt}, {progress.step} {progress.fraction:.0%}{left}{said}"


def alerts(views: Sequence[AlertView]) -> None:
    """Alerts as cards, the open ones in red and first; without one, a quiet line."""
    if not views:
        text("No alert has been raised.", "quiet-line")
    for view in sorted(views, key=lambda view: not view.open):
        _alert(view)


def _alert(view: AlertView) -> None:
    alert = view.alert
    card = named(box(f"alert {'open' if view.open else 'cleared'}", "article"), "alert-card")
    if view.open:
        card.props("role=alert")
    with card:
        with box("inline"):
            badge("open" if view.open else "cleared")
            text(f"{alert.kind.replace('_', ' ')}, version {view.champion}, {words.moment(alert.at)} UTC", "muted")
        title = alert.title.removeprefix(f"{alert.model}: ")
        text(f"{words.plural(len(view.clusters), 'new topic')} in the requests" if view.clusters else title, "", "h3")
        if not view.clusters:
            text(alert.body, "body")
            return
        with box("topics"):
            for cluster in view.clusters:
                _topic(cluster, alert.at, view.excerpts)
        with more("The test behind it"):
            text(alert.body, "body")


def _topic(cluster: Cluster, alert_at: datetime, excerpts: Mapping[str, str]) -> None:
    with box("topic"):
        text(", ".join(cluster.terms[:4]) or "a group without words of its own", "topic-name")
        text(
            f"{cluster.share:.0%} of requests, {cluster.share_reference:.0%} in the reference; "
            f"since {words.moment(cluster.began_at, alert_at)} UTC",
            "muted",
        )
        with box("", "ul"):
            for example in cluster.examples[:3]:
                text(f"“{excerpts[example]}”" if example in excerpts else f"request {example}", "", "li")


def history(moves: Sequence[AliasMove]) -> None:
    """What was live when, by whom, why: every move of an alias, newest first."""
    with panel("History", "what was live when, by whom and why; times are UTC"):
        if not moves:
            text("Nothing is registered yet.", "muted")
            return
        rows = [
            (
                words.moment(move.at) + f":{move.at:%S}",
                move.alias,
                lambda m=move: version(m.before),
                lambda m=move: version(m.after),
                move.actor,
                move.reason,
            )
            for move in reversed(moves)
        ]
        table("history", "alias history", ("time", "alias", "from", "to", "by", "why"), rows)


class Registered(NamedTuple):
    """The versions, and what each of them does now."""

    versions: tuple[VersionRow, ...]
    champion: int | None
    challenger: int | None
    engines: dict[int, EngineState]


def versions(found: Registered) -> None:
    """Every registered version, newest first."""
    with panel("Versions", "everything that decides an answer; change any of it and it is a new version"):
        if not found.versions:
            text("Nothing is registered yet: run `trimtab register`.", "muted")
            return
        rows = [
            (
                lambda v=row.version: version(v),
                lambda v=row.version: _role(found, v),
                row.base,
                row.adapter or "none",
                words.version(row.parent),
                f"{words.moment(row.created_at)}",
                row.note,
            )
            for row in reversed(found.versions)
        ]
        columns = ("version", "role", "base", "adapter", "replaces", "registered", "note")
        table("versions", "registered versions", columns, rows)


def _role(found: Registered, number: int) -> None:
    if number in (found.champion, found.challenger):
        badge("champion" if number == found.champion else "challenger")
    engine = found.engines.get(number)
    if engine is not None and engine.state != "stopped":
        text(f" engine {engine.state}", "muted", "span")
