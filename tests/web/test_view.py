"""The read model says what the records say: of a finished loop, of one under way, and of a project nobody has used."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import loop_story
import pytest

from trimtab.lifecycle import STAGES
from trimtab.promotion import apply
from trimtab.records.record import utc_now
from trimtab.store.lake import Lake
from trimtab.web.view import View, snapshot

END = datetime(2026, 11, 22, 14, 9, tzinfo=UTC)


def look(story: loop_story.Story, now: datetime | None = None) -> View:
    return snapshot(story.settings, story.loaded, story.control, Lake(story.settings), now or story.at)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> loop_story.Story:
    return loop_story.tell(tmp_path_factory.mktemp("finished"), END)


@pytest.fixture(scope="module")
def under_way(tmp_path_factory: pytest.TempPathFactory) -> loop_story.Story:
    return loop_story.tell(tmp_path_factory.mktemp("under-way"), END, until="canary")


def test_the_champion_and_what_undo_would_take_back(finished: loop_story.Story) -> None:
    view = look(finished)
    assert (view.champion, view.challenger, view.canary) == (3, None, None)
    assert view.since == view.undo
    assert view.undo is not None
    assert (view.undo.before, view.undo.after) == (1, 3)
    assert [(m.alias, m.before, m.after) for m in view.history] == [
        ("champion", None, 1),
        ("challenger", None, 3),
        ("champion", 1, 3),
        ("challenger", 3, None),
    ]


def test_every_request_is_in_the_picture_once(finished: loop_story.Story) -> None:
    view, rows = look(finished), Lake(finished.settings).sample(0, 10**6)
    assert view.figures.requests == rows.height == finished.rows
    counts = {version: sum(counts) for version, counts in view.traffic.by_version.items()}
    assert counts == {v: int((rows["model_version"] == str(v)).sum()) for v in (1, 3)}
    assert sum(view.traffic.failed) == int((rows["outcome"] != "ok").sum())
    gaps = {after - before for before, after in zip(view.traffic.starts, view.traffic.starts[1:], strict=False)}
    assert gaps == {timedelta(seconds=view.traffic.seconds)}


def test_the_figures_are_those_of_the_rows(finished: loop_story.Story) -> None:
    recent = Lake(finished.settings).sample(finished.rows - 500, finished.rows)
    good = recent.filter(recent["outcome"] == "ok")
    found = look(finished).figures
    assert found.recent == 500
    assert found.success == good.height / 500
    assert found.median_ms == good["execution_duration_ms"].median()
    assert found.per_minute == pytest.approx(60, rel=0.15)
    assert look(finished, finished.at + timedelta(hours=1)).figures.per_minute == 0


def test_the_cycle_with_its_evidence(finished: loop_story.Story) -> None:
    view = look(finished)
    assert view.cycle is not None
    assert view.cycle.trigger.startswith("support-triage: two new topics: recall, lumo, battery")
    first, second = view.cycle.attempts
    assert [(gate.gate, gate.verdict) for gate in first.gates] == [
        ("quality", "pass"),
        ("latency", "pass"),
        ("fairness", "fail"),
    ]
    assert first.decision is not None
    assert second.decision is not None
    assert (first.decision.outcome, second.decision.outcome) == ("reject", "promote")
    assert second.dataset is not None
    assert second.dataset.mitigation == "counterfactual_augmentation"
    assert second.training is not None
    assert second.training.steps == 112
    assert [(look.percent, look.verdict) for look in second.looks] == [(25, "advance"), (50, "advance")]
    assert [step.name for step in second.steps] == ["curate", "train", "register", "compare", "fairness", "decide"]
    assert view.cycle.end is not None
    assert view.cycle.end.outcome == "promoted"


def test_the_stages_are_those_of_the_lifecycle(finished: loop_story.Story, under_way: loop_story.Story) -> None:
    assert tuple(stage.name for stage in look(finished).stages) == STAGES
    assert {stage.state for stage in look(finished).stages} == {"done"}
    assert [stage.state for stage in look(under_way).stages] == ["done"] * 5 + ["running"]


def test_a_canary_shows_its_share_and_its_progress(under_way: loop_story.Story) -> None:
    view = look(under_way)
    assert (view.champion, view.challenger, view.undo) == (1, 3, None)
    assert view.canary is not None
    assert view.canary.percent == 50
    assert view.cycle is not None
    assert view.cycle.progress is not None
    assert (view.cycle.progress.step, view.cycle.progress.fraction) == ("roll out", 0.8)


def test_what_another_cycle_left_in_the_progress_file_is_not_this_ones(tmp_path: Path) -> None:
    story = loop_story.tell(tmp_path, END, until="canary")
    said = json.loads(story.settings.progress_file.read_text())
    story.settings.progress_file.write_text(json.dumps(said | {"cycle": "20200101-000000"}))
    found = look(story).cycle
    assert found is not None
    assert found.progress is None


def test_an_alert_holds_as_long_as_its_version_answers(
    under_way: loop_story.Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://registry")
    [alert] = look(under_way).alerts
    assert alert.open
    assert [cluster.terms[0] for cluster in alert.clusters] == ["recall", "text"]
    story = loop_story.tell(tmp_path, END)
    assert [view.open for view in look(story).alerts] == [False]
    apply.rollback(story.settings, story.control, loop_story.NAME, actor="test", reason="the topic is new to it again")
    assert [view.open for view in look(story).alerts] == [True]


def test_an_unused_project_has_a_picture_too(tmp_path: Path) -> None:
    story = loop_story.begin(tmp_path, END)
    view = look(story)
    assert (view.champion, view.undo, view.cycle, view.alerts, view.traffic.starts) == (None, None, None, (), ())
    assert view.figures.requests == 0
    assert view.figures.success is None
    assert {stage.state for stage in view.stages} == {"pending"}


def test_the_picture_is_json_and_back(finished: loop_story.Story) -> None:
    view = look(finished, utc_now())
    assert View.model_validate_json(view.model_dump_json()) == view
