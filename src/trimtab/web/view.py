"""The read model: one picture of a project, computed from the records that everything else uses. Nothing is written.

The page draws it and `GET /api/status` returns it, so both say the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from pydantic import Field

from trimtab import registry
from trimtab.errors import Fixable
from trimtab.lifecycle import STAGES, compliance
from trimtab.monitor.alerts import Report, report_key, slug
from trimtab.monitor.texts import body
from trimtab.project import Loaded
from trimtab.promotion import apply
from trimtab.records.gateway import EngineState
from trimtab.records.guidelines import ComplianceReport
from trimtab.records.monitor import Alert, Cluster, DriftReport, QualityReport
from trimtab.records.project import MONITORS, MonitorSection, RolloutSection
from trimtab.records.record import Record
from trimtab.records.registry import AliasMove, ModelVersion, Traffic
from trimtab.records.threshold import ThresholdReport
from trimtab.settings import Settings
from trimtab.store.control import Control
from trimtab.store.lake import Lake
from trimtab.web import cycles, words
from trimtab.web.cycles import CycleView, PastCycle, Stage
from trimtab.web.traffic import Buckets, Figures, buckets, figures, rows

REPORTS = 200
"""Reports on each champion that are shown, at most."""

R = TypeVar("R", DriftReport, QualityReport)


class VersionRow(Record):
    """One registered version in short. `adapter` is the start of its hash; None: no adapter."""

    version: int
    base: str
    adapter: str | None
    parent: int | None
    created_at: datetime
    note: str


class AlertView(Record):
    """An alert on one champion, whether it still holds, and what appeared (for drift)."""

    alert: Alert
    champion: int
    open: bool
    clusters: tuple[Cluster, ...] = ()
    excerpts: dict[str, str] = Field(default={})
    """Texts of the clusters' examples by request id, those that are not erased."""


class View(Record):
    """Everything the dashboard shows. `drift` and `quality`: the reports on each champion, oldest first."""

    model: str
    at: datetime
    gateway: str
    monitor: MonitorSection
    rollout: RolloutSection
    champion: int | None
    since: AliasMove | None
    """The move that made the champion what it is."""
    undo: AliasMove | None
    """The move that a rollback would take back; None: there is no earlier champion."""
    challenger: int | None
    canary: Traffic | None
    engines: dict[int, EngineState]
    versions: tuple[VersionRow, ...]
    figures: Figures
    traffic: Buckets
    drift: dict[int, tuple[DriftReport, ...]]
    quality: dict[int, tuple[QualityReport, ...]]
    alerts: tuple[AlertView, ...]
    stages: tuple[Stage, ...]
    cycle: CycleView | None
    earlier: tuple[PastCycle, ...]
    history: tuple[AliasMove, ...]
    guided: bool
    """Whether the project has guidelines."""
    compliance: ComplianceReport | None
    """The newest report on the champion under the guidelines as they are."""


def snapshot(settings: Settings, loaded: Loaded, control: Control, lake: Lake, now: datetime) -> View:
    """The picture at `now`. Raises Corrupt when the lake cannot be read."""
    model, frame = loaded.project.name, rows(lake)
    champion, history = control.alias(model, "champion"), registry.history(control, model)
    versions = control.facts("version", ModelVersion, f"{model}/")
    drift = _reports(control, "drift_report", DriftReport, versions)
    quality = _reports(control, "quality_report", QualityReport, versions)
    alerts = _alerts(control, lake, model, champion, drift, quality)
    canary, numbers = control.traffic(model), figures(frame, now)
    cycle, earlier = cycles.cycles(settings, control, model)
    return View(
        model=model,
        at=now,
        gateway=settings.gateway_url,
        monitor=loaded.project.monitor,
        rollout=loaded.project.rollout,
        champion=champion,
        since=next((m for m in reversed(history) if (m.alias, m.after) == ("champion", champion)), None),
        undo=undoable(control, model),
        challenger=control.alias(model, "challenger"),
        canary=canary if canary and canary.version is not None else None,
        engines=control.engines(model),
        versions=tuple(_version(version) for version in versions),
        figures=numbers,
        traffic=buckets(frame),
        drift=drift,
        quality=quality,
        alerts=alerts,
        stages=_stages(len(versions), champion, numbers, drift, alerts, cycle),
        cycle=cycle,
        earlier=earlier,
        history=tuple(history),
        guided=loaded.guidelines is not None,
        compliance=next((compliance.last(control, loaded, v) for v in versions if v.version == champion), None),
    )


def undoable(control: Control, model: str) -> AliasMove | None:
    """The move that a rollback would take back, or None."""
    try:
        return apply.previous_champion(control, model)
    except Fixable:
        return None


def _version(version: ModelVersion) -> VersionRow:
    adapter = version.spec.adapter_sha256
    return VersionRow(
        version=version.version,
        base=version.spec.base.name,
        adapter=adapter[:8] if adapter else None,
        parent=version.parent,
        created_at=version.created_at,
        note=version.note,
    )


def _reports(control: Control, kind: str, type_: type[R], versions: Sequence[ModelVersion]) -> dict[int, tuple[R, ...]]:
    """The newest reports on each version that was ever watched."""
    keys = {version.version: f"{version.spec.model}/{version.version}/" for version in versions}
    found = {number: tuple(control.facts(kind, type_, prefix, REPORTS)) for number, prefix in keys.items()}
    return {number: reports for number, reports in found.items() if reports}


def _alerts(
    control: Control,
    lake: Lake,
    model: str,
    champion: int | None,
    drift: Mapping[int, Sequence[DriftReport]],
    quality: Mapping[int, Sequence[QualityReport]],
) -> tuple[AlertView, ...]:
    """All alerts, newest first. One is open while its version answers and no later report was ok."""
    views: list[AlertView] = []
    for alert in reversed(control.facts("alert", Alert, f"{model}/")):
        number = int(alert.key.split("/")[2])
        reports = _reports_behind(control, model, alert, number, drift, quality)
        keys = [report_key(report, number) for report in reports]
        behind = keys.index(alert.report_key) if alert.report_key in keys else -1
        report = reports[behind] if behind >= 0 else None
        cleared = any(later.verdict == "ok" for later in reports[behind + 1 :])
        clusters = report.clusters if isinstance(report, DriftReport) else ()
        views.append(
            AlertView(alert=alert, champion=number, open=number == champion and not cleared, clusters=clusters)
        )
    asked = {request for view in views for cluster in view.clusters for request in cluster.examples}
    texts = lake.texts(sorted(asked))
    return tuple(view.model_copy(update={"excerpts": _of(view, texts)}) for view in views)


def _of(view: AlertView, texts: Mapping[str, str]) -> dict[str, str]:
    requests = {request for cluster in view.clusters for request in cluster.examples}
    return {request: body(texts[request]) for request in requests if request in texts}


def _reports_behind(
    control: Control,
    model: str,
    alert: Alert,
    version: int,
    drift: Mapping[int, Sequence[DriftReport]],
    quality: Mapping[int, Sequence[QualityReport]],
) -> Sequence[Report]:
    """The newest reports of the monitor or threshold that raised an alert."""
    if alert.kind in MONITORS:
        return (drift if alert.kind == "input_drift" else quality).get(version, ())
    prefix = f"{model}/{version}/{slug(alert.kind)}/"
    return control.facts("threshold_report", ThresholdReport, prefix, REPORTS)


def _stages(
    versions: int,
    champion: int | None,
    numbers: Figures,
    drift: Mapping[int, Sequence[DriftReport]],
    alerts: Sequence[AlertView],
    cycle: CycleView | None,
) -> tuple[Stage, ...]:
    """Where each stage of the lifecycle stands, in its order."""
    windows = sum(map(len, drift.values()))
    open_ = sum(view.open for view in alerts)
    watched = words.plural(open_, "open alert") if open_ else f"{words.plural(windows, 'window')} tested"
    found = [
        Stage(name="register", state="done" if versions else "pending", text=words.plural(versions, "version")),
        Stage(
            name="serve",
            state="done" if numbers.requests else "running" if champion else "pending",
            text=f"version {champion} answers" if numbers.requests else "no request yet" if champion else "",
        ),
        Stage(
            name="watch",
            state="done" if windows or alerts else "running" if numbers.requests else "pending",
            text=watched if windows or alerts else "the first window fills" if numbers.requests else "",
        ),
        *cycles.stages_of(cycle),
    ]
    by_name = {stage.name: stage for stage in found}
    return tuple(by_name[name] for name in STAGES)
