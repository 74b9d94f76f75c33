"""The whole chain from journal to alert: what is tested against what, once, whatever is cut short or repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from example_texts import PERIOD1, RECALL, shuffled

from trimtab import settings as trimtab_settings
from trimtab.errors import Corrupt
from trimtab.monitor import watch
from trimtab.records.monitor import Alert, DriftReport, QualityReport
from trimtab.records.project import Project
from trimtab.records.registry import AliasMove, Decoding, LabelSet, ModelVersion, Prompt, VersionSpec, Weights
from trimtab.records.training import DatasetVersion
from trimtab.settings import Settings
from trimtab.store.control import Control
from trimtab.store.drain import drain
from trimtab.store.journal import Closed, FeedbackFrame, Journal
from trimtab.store.lake import Lake

NAME, WINDOW = "support-triage", 50
START = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
LABELS = LabelSet(fields={"intent": ("refund", "login")})
OLD = shuffled(PERIOD1, 3)


@dataclass
class Desk:
    """A project whose traffic the test writes; its clock advances a minute with each request."""

    place: Settings
    control: Control
    file: Project
    rows: int = 0
    now: datetime = START
    labels: list[FeedbackFrame] = field(default_factory=list)

    def ask(self, texts: Sequence[str | None], *, outcome: Any = "ok", version: int = 1, answer: str = "") -> range:
        """Requests with these texts, in the lake; their row numbers."""
        journal, first = Journal(self.place.journal), self.rows
        for text in texts:
            self.now += timedelta(minutes=1)
            millis = int(self.now.timestamp() * 1000)
            journal.closed(
                Closed(
                    request_id=str(self.rows),
                    client_request_id=None,
                    caller="c",
                    requester="k",
                    model=NAME,
                    version=version,
                    route="champion",
                    path="/",
                    at_ms=millis,
                    request=b"{}",
                    status_code=200,
                    duration_ms=1,
                    ttfb_ms=None,
                    input_tokens=None,
                    output_tokens=None,
                    outcome=outcome,
                    input_text=text,
                    output_text=answer,
                    response=b"{}",
                )
            )
            self.rows += 1
        journal.close()
        drain(self.place)
        return range(first, self.rows)

    def label(self, rows: Sequence[int], intent: str) -> None:
        journal = Journal(self.place.journal)
        for row in rows:
            millis = int(self.now.timestamp() * 1000)
            journal.feedback(FeedbackFrame(f"f{row}", millis, str(row), None, "label", {"intent": intent}, "human"))
        journal.close()
        drain(self.place)

    def promote(self, version: int, before: int | None, data_hash: str | None = None) -> None:
        self.now += timedelta(minutes=1)
        spec = VersionSpec(
            model=NAME,
            base=Weights(name="echo", sha256="0"),
            prompt=Prompt(system=str(version)),
            decoding=Decoding(),
            labels=LABELS,
        )
        registered = ModelVersion(
            spec=spec, version=version, run_id="r", config_hash="c", data_hash=data_hash, created_at=self.now
        )
        self.control.put("version", f"{NAME}/{version}", registered)
        move = AliasMove(
            model=NAME, alias="champion", before=before, after=version, at=self.now, actor="test", reason="test"
        )
        self.control.move([move])

    def look(self, file: Project | None = None) -> list[Alert]:
        return watch.look(self.place, file or self.file, self.control, Lake(self.place), self.now)

    def drift_reports(self, version: int = 1) -> list[DriftReport]:
        return self.control.facts("drift_report", DriftReport, f"{NAME}/{version}/")

    def quality_reports(self, version: int = 1) -> list[QualityReport]:
        return self.control.facts("quality_report", QualityReport, f"{NAME}/{version}/")


def project(alerts: Sequence[str] = ("input_drift", "quality")) -> Project:
    return Project.model_validate(
        {
            "name": NAME,
            "model": {"base": "echo", "prompt": "p.md"},
            "monitor": {"input_drift": {"window": WINDOW}, "quality": {"min": 0.8, "window": 40}},
            "alerts": [{"on": alerts}] if alerts else [],
        }
    )


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    place = trimtab_settings.load(tmp_path)
    made = Desk(place, Control(place), project())
    made.promote(1, None)
    return made


def test_nothing_happens_before_there_is_a_champion_and_a_reference(desk: Desk, tmp_path: Path) -> None:
    bare = trimtab_settings.load(tmp_path / "bare")
    assert watch.look(bare, project(), Control(bare), Lake(bare), START) == []
    desk.ask(OLD[: 2 * WINDOW - 1])
    assert desk.look() == []
    assert desk.drift_reports() == []


def test_a_new_topic_raises_one_alert_until_it_has_cleared(desk: Desk) -> None:
    desk.ask(OLD[: 2 * WINDOW])
    assert desk.look() == []
    desk.ask(RECALL[:WINDOW])
    (alert,) = desk.look()
    assert (alert.key, alert.report_key) == (f"{NAME}/input_drift/1/1", f"{NAME}/1/{2 * WINDOW}")
    assert "lumo" in alert.title
    assert desk.control.get("alert", alert.key, Alert) == alert
    assert desk.look() == []

    desk.ask(RECALL[WINDOW : 2 * WINDOW])
    assert desk.look() == []  # still the same cause
    desk.ask(OLD[2 * WINDOW : 3 * WINDOW])
    assert desk.look() == []  # cleared
    desk.ask(RECALL[:WINDOW])
    assert [again.key for again in desk.look()] == [f"{NAME}/input_drift/1/2"]

    reports = desk.drift_reports()
    assert [report.verdict for report in reports] == ["ok", "breach", "breach", "ok", "breach"]
    assert [(report.current.first, report.current.last) for report in reports] == [
        (first, first + WINDOW) for first in range(WINDOW, 6 * WINDOW, WINDOW)
    ]
    assert {(report.reference.first, report.reference.last) for report in reports} == {(0, WINDOW)}
    window = reports[0].current
    assert (window.start, window.end) == (
        START + timedelta(minutes=WINDOW + 2),
        START + timedelta(minutes=2 * WINDOW + 1),
    )


def test_an_alert_that_a_crash_swallowed_is_raised_at_the_next_look(desk: Desk) -> None:
    desk.ask([*OLD[:WINDOW], *RECALL[:WINDOW]])
    assert desk.look(project(alerts=())) == []  # the report was written, the alert was not
    assert [report.verdict for report in desk.drift_reports()] == ["breach"]
    assert [alert.kind for alert in desk.look()] == ["input_drift"]


def test_only_answered_requests_with_a_text_are_compared(desk: Desk) -> None:
    desk.ask(OLD[:WINDOW])
    desk.ask(OLD[WINDOW : WINDOW + 20])
    desk.ask(RECALL[:10], outcome="error")
    desk.ask([None, "", "From: Emily Walsh", *OLD[100:117]])
    desk.look()
    (report,) = desk.drift_reports()
    assert (report.n_reference, report.n_current, report.current.n) == (WINDOW, 37, WINDOW)


def test_a_retrained_champion_is_held_against_what_it_could_have_learned_from(desk: Desk) -> None:
    desk.ask([*OLD[: 2 * WINDOW], *RECALL[:WINDOW]])
    cut = desk.now
    desk.ask(PERIOD1[:30])  # arrives while the candidate is trained: neither reference nor window
    dataset = DatasetVersion(
        hash="d", recipe="r", mitigation="none", path="p", n_train=1, n_holdout=1, n_frames=0, labels=LABELS,
        nearest_leak=0.0, cut=cut,
    )  # fmt: skip
    desk.control.put("dataset", "d", dataset)
    desk.look()
    desk.promote(2, 1, "d")
    desk.ask(RECALL[WINDOW : 2 * WINDOW], version=2)
    assert desk.look() == []
    desk.ask(OLD[2 * WINDOW : 3 * WINDOW], version=2)
    assert [alert.key for alert in desk.look()] == [f"{NAME}/input_drift/2/1"]
    first = 3 * WINDOW + 30
    found = [(r.reference.first, r.reference.last, r.current.first, r.verdict) for r in desk.drift_reports(2)]
    assert found == [
        (2 * WINDOW, 3 * WINDOW, first, "ok"),
        (2 * WINDOW, 3 * WINDOW, first + WINDOW, "breach"),
    ]


def test_after_an_undo_the_former_champion_is_not_charged_with_its_successors_windows(desk: Desk) -> None:
    desk.ask(OLD[: 2 * WINDOW])
    desk.look()
    desk.promote(2, 1)
    desk.ask(RECALL[:WINDOW], version=2)
    desk.promote(1, 2)
    desk.ask(OLD[2 * WINDOW : 3 * WINDOW])
    assert desk.look() == []
    assert [report.current.first for report in desk.drift_reports()] == [WINDOW, 3 * WINDOW]


def test_a_champion_without_its_facts_is_an_error_not_silence(desk: Desk) -> None:
    desk.ask(OLD[: 2 * WINDOW])
    desk.promote(2, 1, "lost")
    with pytest.raises(Corrupt, match="dataset"):
        desk.look()


def test_quality_is_judged_again_when_ten_more_labels_have_arrived(desk: Desk) -> None:
    rows = desk.ask(OLD[:60], answer='{"intent":"refund"}')
    desk.label(rows[:9], "refund")
    assert desk.look() == []
    assert desk.quality_reports() == []
    desk.label(rows[9:20], "refund")
    assert desk.look() == []
    desk.label(rows[20:40], "login")
    (alert,) = desk.look()
    assert (alert.kind, alert.key) == ("quality", f"{NAME}/quality/1/1")
    assert desk.look() == []
    desk.label(rows[40:49], "login")
    desk.look()
    desk.label(rows[49:50], "login")
    assert desk.look() == []  # judged, and the same cause
    reports = desk.quality_reports()
    assert [(r.window.first, r.window.last, r.n, r.verdict) for r in reports] == [
        (0, 20, 20, "insufficient"),
        (0, 40, 40, "breach"),
        (10, 50, 40, "breach"),
    ]
    assert [report.value and report.value.estimate for report in reports] == [1.0, 0.5, 0.25]


def test_labels_may_arrive_in_any_order(desk: Desk) -> None:
    rows = desk.ask(OLD[:40], answer='{"intent":"refund"}')
    desk.label(rows[30:], "refund")
    desk.look()
    desk.label(rows[:25], "refund")
    desk.look()
    assert [(r.window.first, r.n) for r in desk.quality_reports()] == [(30, 10), (0, 35)]


def test_only_the_champions_answers_decide(desk: Desk) -> None:
    desk.label(desk.ask(OLD[:30], answer='{"intent":"refund"}'), "refund")
    desk.promote(2, 1)
    desk.promote(1, 2)
    desk.label(desk.ask(OLD[30:60], version=2, answer="nonsense"), "refund")
    desk.label(desk.ask(OLD[60:70], answer='{"intent":"refund"}'), "refund")
    assert desk.look() == []
    (report,) = desk.quality_reports()
    assert (report.n, report.verdict) == (40, "ok")
    assert {version: value.estimate for version, value in report.by_version.items()} == {1: 1.0, 2: 0.0}
