"""One look at the traffic: reads the lake and control facts, writes reports and alerts as facts. All IO of the room.

Every report and every alert is a fact keyed by what it was computed from, so a look can be cut short or repeated:
the next one finds what is there and does the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeVar

import polars as pl

from trimtab.errors import Corrupt
from trimtab.evaluation.scorers import label_of
from trimtab.monitor import alerts, drift, embed, quality, thresholds
from trimtab.monitor.texts import body
from trimtab.records.monitor import Alert, DriftReport, Profile, QualityReport, Window
from trimtab.records.project import InputDriftSection, Project, QualitySection
from trimtab.records.registry import AliasMove, LabelSet, ModelVersion
from trimtab.records.threshold import Threshold, ThresholdReport
from trimtab.records.training import DatasetVersion
from trimtab.settings import Settings
from trimtab.store.control import Control
from trimtab.store.lake import AnyLake

NEW_LABELS = 10
"""Labels that must have arrived since the last quality report before the next one."""
_RECENT = 50
"""Reports read at once to see whether an alert is open."""


SETTLES = timedelta(seconds=10)
"""After a window's end its last rows are in the lake: they were drained."""

R = TypeVar("R", DriftReport, QualityReport, ThresholdReport)


class _Side(NamedTuple):
    window: Window
    rows: list[drift.Row]


def look(settings: Settings, project: Project, control: Control, lake: AnyLake, now: datetime) -> list[Alert]:
    """Test what has arrived since the last look; the alerts newly raised, their people already told.

    Nothing happens before the project has a champion. Raises Corrupt when a fact the champion rests on is missing.
    """
    champion = control.alias(project.name, "champion")
    if champion is None:
        return []
    version = _version(control, project.name, champion)
    raised: list[Alert] = []
    # Answers first: judging them needs no embeddings, so nothing that keeps those away can silence it.
    if project.monitor.quality is not None and version.spec.labels is not None:
        _look_at_answers(project, project.monitor.quality, version, version.spec.labels, control, lake, now)
        raised += _raise(project, "quality", version, control, now)
    for threshold in project.thresholds():
        _look_at_window(project, threshold, version, control, lake, now)
        raised += _raise(project, threshold.text, version, control, now)
    if project.monitor.input_drift is not None:
        _look_at_inputs(settings, project, project.monitor.input_drift, version, control, lake, now)
        raised += _raise(project, "input_drift", version, control, now)
    return raised


def profiles(project: Project, control: Control, lake: AnyLake) -> list[Profile]:
    """The profiles that the next look needs, oldest first, the reference before all: facts afterwards.

    `look` makes them itself. Where rows are many, they are made where the rows are, and the look is taken elsewhere.
    """
    champion, section = control.alias(project.name, "champion"), project.monitor.input_drift
    if champion is None or section is None:
        return []
    version = _version(control, project.name, champion)
    bounds = _reference(section.window, version, control, lake)
    if bounds is None:
        return []
    windows = [bounds, *_untested(section.window, bounds[1], version, control, lake)]
    return [_profile(project.name, control, lake, *window) for window in windows]


def _raise(project: Project, kind: str, version: ModelVersion, control: Control, now: datetime) -> list[Alert]:
    prefix = f"{project.name}/{version.version}/"
    already = control.facts("alert", Alert, alerts.alert_prefix(project.name, kind, version.version))
    reports: Sequence[alerts.Report]
    if kind == "input_drift":
        reports = _recent(control, "drift_report", DriftReport, prefix)
    elif kind == "quality":
        reports = _recent(control, "quality_report", QualityReport, prefix)
    else:
        slug = alerts.slug(kind)
        reports = _recent(control, "threshold_report", ThresholdReport, f"{prefix}{slug}/")
    due = alerts.due(project, kind, version.version, reports, already, now)
    raised = [alert for alert in due if control.put("alert", alert.key, alert)]
    for alert in raised:
        alerts.notify(project, alert)
    return raised


def _recent(control: Control, kind: str, type_: type[R], prefix: str) -> Sequence[R]:
    """The newest reports, back to one that is ok: what came before that one cannot matter to an alert any more."""
    limit = _RECENT
    while True:
        found = control.facts(kind, type_, prefix, limit)
        if len(found) < limit or any(report.verdict == "ok" for report in found):
            return found
        limit *= 2


def _look_at_window(
    project: Project, threshold: Threshold, version: ModelVersion, control: Control, lake: AnyLake, now: datetime
) -> None:
    """Hold the newest window that is over against a threshold, once. Windows begin at whole multiples of their length.

    Windows that went by while nobody looked are not judged later: an alert is about now.
    """
    seconds = int(threshold.every.total_seconds())
    end = datetime.fromtimestamp((now - SETTLES).timestamp() // seconds * seconds, UTC)
    key = f"{project.name}/{version.version}/{threshold.slug}/{end:%Y%m%dT%H%M%SZ}"
    if control.get("threshold_report", key, ThresholdReport) is not None:
        return
    rows = lake.between(end - threshold.over, end, thresholds.COLUMNS)
    if rows.height:  # a service that nobody asks writes no reports
        report = thresholds.judge(threshold, rows, model=project.name, end=end, at=now)
        control.put("threshold_report", key, report)


def _look_at_inputs(
    settings: Settings,
    project: Project,
    section: InputDriftSection,
    version: ModelVersion,
    control: Control,
    lake: AnyLake,
    now: datetime,
) -> None:
    """Test every full window that was not tested yet, each once. Windows follow each other without overlap.

    A window is `section.window` rows by number; of these, what its profile samples is compared.
    """
    bounds = _reference(section.window, version, control, lake)
    if bounds is None:
        return
    reference: _Side | None = None
    for first, last in _untested(section.window, bounds[1], version, control, lake):
        key = f"{project.name}/{version.version}/{first}"
        if control.get("drift_report", key, DriftReport) is not None:
            continue
        reference = reference or _side(settings, _profile(project.name, control, lake, *bounds), lake)
        current = _side(settings, _profile(project.name, control, lake, first, last), lake)
        result = drift.compare(reference.rows, current.rows, alpha=section.alpha, seed=first)
        report = DriftReport(
            model=project.name,
            at=now,
            reference=reference.window,
            current=current.window,
            test=result.test,
            statistic=result.statistic,
            p_value=result.p_value,
            alpha=result.alpha,
            n_reference=result.n_reference,
            n_current=result.n_current,
            verdict=result.verdict,
            clusters=result.clusters,
        )
        control.put("drift_report", key, report)


def _reference(size: int, version: ModelVersion, control: Control, lake: AnyLake) -> tuple[int, int] | None:
    """Rows that a champion is held against: the last `size` it could have learned from, else the first `size` ever.

    None while there are not so many rows yet.
    """
    if version.data_hash is None:
        return (0, size) if lake.count() >= size else None
    before = control.last("drift_report", DriftReport, f"{version.spec.model}/{version.version}/")
    if before is not None and before.reference.n == size:
        return before.reference.first, before.reference.last
    dataset = control.get("dataset", version.data_hash, DatasetVersion)
    if dataset is None:
        raise Corrupt(f"the dataset {version.data_hash[:12]}… of version {version.version} is not among the facts")
    end = _first_after(lake, dataset.cut)
    return max(0, end - size), end


def _untested(
    size: int, reference_end: int, version: ModelVersion, control: Control, lake: AnyLake
) -> Iterator[tuple[int, int]]:
    """Full windows after the reference and after the champion took over from another version, oldest first.

    What came before it took over was answered, and watched, by its predecessor.
    """
    count, prefix = lake.count(), f"{version.spec.model}/{version.version}/"
    last = control.last("drift_report", DriftReport, prefix)
    moves = control.facts("alias_move", AliasMove, f"{version.spec.model}/champion/")
    took_over = [move for move in moves if move.after == version.version][-1:]
    since = took_over[0].at if took_over and took_over[0].before is not None else None
    if last is not None and (since is None or last.current.start > since):
        first = last.current.last
    else:
        first = max(reference_end, _first_after(lake, since) if since else 0)
    while first + size <= count:
        yield first, first + size
        first += size


def _first_after(lake: AnyLake, moment: datetime) -> int:
    """Number of the first row asked after a moment, or of the next row to come."""
    count = lake.count()
    later = lake.sample(0, count, ["row", "request_time"]).filter(pl.col("request_time") > moment)
    return int(later["row"][0]) if later.height else count


def _profile(model: str, control: Control, lake: AnyLake, first: int, last: int) -> Profile:
    key = f"{model}/{first}-{last}"
    known = control.get("profile", key, Profile)
    if known is not None:
        return known
    profile = lake.profile(first, last)
    if profile is None:
        raise Corrupt(f"rows {first} to {last - 1} are no longer in the lake")
    control.put("profile", key, profile)
    return profile


def _side(settings: Settings, profile: Profile, lake: AnyLake) -> _Side:
    frame = lake.rows(profile.sample, ["request_time", "input_text", "databricks_request_id"])
    asked = [row for row in frame.iter_rows() if row[1] is not None and body(row[1])]  # null: erased since
    vectors = embed.vectors(embed.load(settings.blobs), [text for _, text, _ in asked])
    rows = [
        drift.Row(text, vector, time, request) for (time, text, request), vector in zip(asked, vectors, strict=True)
    ]
    return _Side(profile.window, rows)


def _look_at_answers(
    project: Project,
    section: QualitySection,
    version: ModelVersion,
    labels: LabelSet,
    control: Control,
    lake: AnyLake,
    now: datetime,
) -> None:
    """Judge the champion's latest labelled rows, if enough labels have arrived since it was last judged."""
    prefix = f"{project.name}/{version.version}/"
    last = control.last("quality_report", QualityReport, prefix)
    # Once the window is full, a label for a row before it cannot enter it any more.
    first = last.window.first if last and last.n >= section.window else 0
    answered = _answered(lake, first, quality.fields_of(section.field, labels))
    mine = [row for row in answered if row.version == version.version]
    # The last report saw `n` of these rows: the others have got their label since.
    if len(mine) - (last.n if last else 0) < NEW_LABELS:
        return
    mine = mine[-section.window :]
    rows = [row for row in answered if mine[0].row <= row.row <= mine[-1].row]
    known = {v: _version(control, project.name, v).spec.labels for v in {row.version for row in rows}}
    judged = [r for r in control.facts("quality_report", QualityReport, prefix) if r.verdict != "insufficient"]
    report = quality.judge(
        rows,
        model=project.name,
        champion=version.version,
        labels={v: found for v, found in known.items() if found is not None},
        field=section.field,
        minimum=section.min,
        looks=len(judged),
        at=now,
    )
    control.put("quality_report", alerts.report_key(report, version.version), report)


def _answered(lake: AnyLake, first: int, fields: list[str]) -> list[quality.Answered]:
    """Labelled rows from `first` on, in order, whose label has every judged field."""
    known = pl.col("label").is_not_null() & pl.col("model_version").is_not_null()
    frame = lake.labelled(first, lake.count()).filter(known)
    columns = frame.select("row", "request_time", "model_version", "output_text", "label")
    rows = [
        quality.Answered(row, time, int(version), output, label_of(label))
        for row, time, version, output, label in columns.iter_rows()
    ]
    return [row for row in rows if all(name in row.label for name in fields)]


def _version(control: Control, model: str, version: int) -> ModelVersion:
    found = control.get("version", f"{model}/{version}", ModelVersion)
    if found is None:
        raise Corrupt(f"version {version} of {model} is not among the facts")
    return found
