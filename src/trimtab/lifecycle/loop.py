"""Keep the loop turning in the control process: drain, watch, trigger, run cycles; on a schedule too."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from trimtab import registry, trace_context
from trimtab.errors import TrimtabError
from trimtab.lifecycle import compliance, erasure
from trimtab.lifecycle import cycle as cycles
from trimtab.lifecycle.anchor import anchor
from trimtab.monitor import watch
from trimtab.project import Loaded
from trimtab.records.lifecycle import Cycle
from trimtab.records.monitor import Alert
from trimtab.records.project import Project, RetrainSection
from trimtab.records.record import utc_now
from trimtab.records.training import Trigger
from trimtab.settings import Settings
from trimtab.store import journal, seals
from trimtab.store.control import Control
from trimtab.store.drain import drain
from trimtab.store.lake import AnyLake, Lake

log = logging.getLogger(__name__)

DRAIN_SECONDS = 1
WATCH_SECONDS = 3
EXPORT_SECONDS = 2
SEAL_SECONDS = 60
REST_SECONDS = 15
"""Where nothing has come in, journal and lake are looked at only this often: for writers that died, windows of time."""
COMPLIANCE_SECONDS = 3600
TRIES = 3
"""A cycle that breaks off this often in one process ends as failed, so that it does not block the ones after it."""


@dataclass
class Loop:
    """What the background jobs share."""

    settings: Settings
    loaded: Loaded
    control: Control
    running: threading.Lock = field(default_factory=threading.Lock)
    said: str = ""
    tries: dict[str, int] = field(default_factory=dict)
    """How often each cycle broke off in this process."""
    seen: dict[str, tuple[object, float]] = field(default_factory=dict)
    """By job, what it found when it last ran, and until when (monotonic) it rests while that is the same."""


def start(settings: Settings, loaded: Loaded) -> Callable[[], None]:
    """Start the background jobs; returns what stops them. An unfinished cycle resumes at once."""
    loop = Loop(settings, loaded, Control(settings))
    scheduler = BackgroundScheduler(timezone="UTC")
    once: dict[str, Any] = {"max_instances": 1, "coalesce": True, "misfire_grace_time": None}
    scheduler.add_job(_guarded(lambda: _drain(loop)), "interval", seconds=DRAIN_SECONDS, id="drain", **once)
    scheduler.add_job(_guarded(lambda: _watch(loop)), "interval", seconds=WATCH_SECONDS, id="watch", **once)
    model = loaded.project.name
    erasure.choose(settings, loaded.project)
    seal = _guarded(lambda: seals.seal(settings, loop.control, model, utc_now()))
    scheduler.add_job(seal, "interval", seconds=SEAL_SECONDS, id="seal", **once)
    scheduler.add_job(
        _guarded(lambda: compliance.look(settings, loaded, loop.control, utc_now())),
        "interval",
        seconds=COMPLIANCE_SECONDS,
        id="compliance",
        **once,
    )
    places: dict[str, int] = {}
    scheduler.add_job(
        _guarded(lambda: anchor(settings, loaded, loop.control, places)),
        "interval",
        seconds=WATCH_SECONDS,
        id="anchor",
        **once,
    )
    for when in loaded.project.retrain.when:
        if when.startswith("cron:"):
            expression = when.removeprefix("cron:").strip()
            scheduler.add_job(
                _guarded(lambda reason=when: _consider(loop, reason, None)),
                CronTrigger.from_crontab(expression, timezone="UTC"),
                id=when,
                **once,
            )
    close = _export(scheduler, settings, once)
    scheduler.start()

    def stop() -> None:
        scheduler.shutdown(wait=False)
        seal()
        close()

    return stop


def _export(scheduler: BackgroundScheduler, settings: Settings, once: dict[str, Any]) -> Callable[[], None]:
    """Export rows to whom the environment names, each at its own pace; returns what ends it."""
    if not trace_context.exported("TRACES") and not trace_context.exported("METRICS"):
        return lambda: None
    from trimtab.monitor import telemetry  # OpenTelemetry's packages take a tenth of a second to import

    exports = [telemetry.Export(settings, to) for to in telemetry.destinations(settings)]
    for number, export in enumerate(exports):
        job = _guarded(export.send)
        scheduler.add_job(job, "interval", seconds=EXPORT_SECONDS, id=f"telemetry-{number}", **once)

    def close() -> None:
        for export in exports:
            export.close()

    return close


def trigger(
    alert: Alert | None,
    reason: str,
    section: RetrainSection,
    past: list[Cycle],
    n_labelled: int,
    now: datetime,
    model: str,
) -> Trigger:
    """Whether a cycle starts now. Pure: the brakes are cycles in the last 24 hours and labelled requests so far."""
    recent = [cycle for cycle in past if cycle.model == model and cycle.opened_at > now - timedelta(hours=24)]
    brakes = section.brakes
    fired, why = True, reason
    if len(recent) >= brakes.max_per_day:
        fired, why = False, f"{len(recent)} cycles in 24 hours; brakes.max_per_day is {brakes.max_per_day}"
    elif n_labelled < brakes.min_labelled:
        fired, why = False, f"{n_labelled} labelled requests so far; brakes.min_labelled is {brakes.min_labelled}"
    return Trigger(model=model, at=now, fired=fired, reason=why, alert_key=alert.key if alert else None)


def _watch(loop: Loop) -> None:
    """Resume what is unfinished, look at the monitors, start a cycle for an alert that asks for one."""
    settings, project, control = loop.settings, loop.loaded.project, loop.control
    aliases = [control.alias(project.name, alias) for alias in registry.ALIASES]
    _unless_at_rest(loop, "aliases", aliases, lambda loop: registry.show_aliases(settings, control, project.name))
    waiting = cycles.unfinished(control, project.name)
    if waiting:
        _launch(loop, waiting[0])
        return
    _unless_at_rest(loop, "watch", (_lake_state(settings), aliases), _look)


def _look(loop: Loop) -> None:
    settings, project, control = loop.settings, loop.loaded.project, loop.control
    watch.look(settings, project, control, Lake(settings), utc_now())
    for alert in open_alerts(project, control):
        _consider(loop, alert.title, alert)


def _drain(loop: Loop) -> None:
    """Move what the journal holds into the lake."""
    state: object
    try:
        files = [(segment, segment.stat()) for segment in journal.segments(loop.settings.journal)]
        state = [(segment, status.st_size, status.st_mtime_ns) for segment, status in files]
    except FileNotFoundError:  # another drain has just moved it
        state = object()
    _unless_at_rest(loop, "drain", state, lambda loop: drain(loop.settings))


def _lake_state(settings: Settings) -> object:
    """What is another one after each commit to a lake on this disk; of one elsewhere, never the same."""
    if settings.lake_url is not None:
        return object()
    logs = [Path(settings.lake_table(name)) / "_delta_log" for name in ("inference", "feedback")]
    return [log.stat().st_mtime_ns for log in logs if log.exists()]


def _unless_at_rest(loop: Loop, name: str, state: object, job: Callable[[Loop], object]) -> None:
    """Run a job, unless it has seen this state and its next look is not due yet. One that failed has seen nothing."""
    before, until = loop.seen.get(name, (None, 0.0))
    if state == before and time.monotonic() < until:
        return
    job(loop)
    loop.seen[name] = (state, time.monotonic() + REST_SECONDS)


def open_alerts(project: Project, control: Control) -> list[Alert]:
    """Alerts about the champion that ask for a cycle and have not had one."""
    used = {cycle.trigger for cycle in control.facts("cycle", Cycle)}
    champion = control.alias(project.name, "champion")
    alerts = control.facts("alert", Alert, f"{project.name}/")
    return [
        alert
        for alert in alerts
        if alert.kind in project.retrain.when
        and alert.key.startswith(f"{project.name}/{alert.kind}/{champion}/")
        and alert.key not in used
    ]


def consider(
    project: Project, control: Control, lake: AnyLake, reason: str, alert: Alert | None, now: datetime
) -> Trigger:
    """Whether a cycle starts now, by the brakes; nothing is written."""
    n_labelled = lake.labelled()["label"].drop_nulls().len()
    return trigger(alert, reason, project.retrain, control.facts("cycle", Cycle), n_labelled, now, project.name)


def _consider(loop: Loop, reason: str, alert: Alert | None) -> None:
    project, control = loop.loaded.project, loop.control
    if cycles.unfinished(control, project.name):
        return
    now = utc_now()
    decided = consider(project, control, Lake(loop.settings), reason, alert, now)
    if decided.reason != loop.said:
        log.info("retraining %s: %s", "starts" if decided.fired else "waits", decided.reason)
        control.put("trigger", f"{project.name}/{now.isoformat()}", decided)
        loop.said = decided.reason
    if decided.fired:
        _launch(loop, cycles.open_cycle(control, project.name, alert.key if alert else reason, now))


def _launch(loop: Loop, cycle: Cycle) -> None:
    """Run a cycle in a thread of its own, unless one runs here or in another process."""
    if not loop.running.acquire(blocking=False):
        return

    def run() -> None:
        try:
            with cycles.only_cycle(loop.settings) as free:
                if free:
                    end = cycles.run_cycle(loop.settings, loop.loaded, loop.control, cycle)
                    log.info("cycle %s %s: %s", cycle.id, end.outcome, end.summary)
        except Exception as error:
            stumbled(loop, cycle, error)
        finally:
            loop.running.release()

    threading.Thread(target=run, name=f"cycle-{cycle.id}", daemon=True).start()


def stumbled(loop: Loop, cycle: Cycle, error: Exception) -> None:
    """A step broke off: an engine or a trainer died, say. It is tried again, but not for ever."""
    loop.tries[cycle.id] = tries = loop.tries.get(cycle.id, 0) + 1
    expected = isinstance(error, TrimtabError)
    log.error("cycle %s stopped, try %d of %d: %s", cycle.id, tries, TRIES, error, exc_info=not expected)
    if tries >= TRIES:
        cycles.give_up(loop.settings, loop.control, cycle, f"stopped {tries} times, at last by: {error}")


def _guarded(job: Callable[[], object]) -> Callable[[], None]:
    """A job that logs what goes wrong and is tried again at its next time."""

    def run() -> None:
        try:
            job()
        except Exception:
            log.exception("a background job failed; it is tried again")

    return run
