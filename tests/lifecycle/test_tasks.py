"""The steps of a cycle one at a time, each on a machine of its own, end with the facts of a cycle in one piece."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import triage
from test_cycle import World, facts
from triage import MODEL

from trimtab import registry
from trimtab import settings as environment
from trimtab.errors import Fixable
from trimtab.lifecycle import cycle as cycles
from trimtab.lifecycle import jobs
from trimtab.lifecycle.rows import Rows, here
from trimtab.project import Loaded
from trimtab.records.lifecycle import Cycle, CycleEnd
from trimtab.records.record import utc_now
from trimtab.settings import Settings
from trimtab.store.control import Control
from trimtab.store.lake import Lake

pytestmark = pytest.mark.filterwarnings("default")  # MLflow and its dependencies warn about themselves

BY_TIME = ("alias_move", "traffic", "rollout_look", "trigger", "project_file")
"""Kinds whose keys are moments."""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Settings, Loaded]:
    monkeypatch.setenv("TRIMTAB_BLOBS", str(tmp_path / "blobs"))
    World(monkeypatch)
    settings, loaded = triage.write(tmp_path / "desk", "echo", "{latency_p95: null}")
    settings = replace(settings, files_url=f"file://{tmp_path}/volume")
    registry.register_base(settings, loaded)
    triage.answer(settings, 120)
    return settings, loaded


def run(name: str, desk: tuple[Settings, Loaded], reason: str = "asked") -> dict[str, str]:
    """One task on a machine that has nothing but the control database, the shared files and the lake."""
    settings, loaded = desk
    folder = settings.root.parent / f"machine-{name}"
    triage.write(folder, "echo", "{latency_p95: null}")
    machine = replace(
        environment.load(folder),
        database_url=settings.database_url,
        mlflow_uri=settings.mlflow_uri,
        files_url=settings.files_url,
    )
    rows = Rows(Lake(settings), here(settings).arrive, here(settings).tables)
    return jobs.run(name, jobs.Job(machine, loaded, Control(machine), rows, reason))


def keys(settings: Settings) -> set[tuple[str, str]]:
    """Facts that a cycle writes, without the cycle's own id."""
    (cycle,) = Control(settings).facts("cycle", Cycle)
    found = {(kind, key.replace(cycle.id, "CYCLE")) for kind, key in facts(settings)}
    return {(kind, key) for kind, key in found if kind not in BY_TIME}


def test_tasks_on_machines_of_their_own_do_what_a_cycle_does(
    desk: tuple[Settings, Loaded], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings, _ = desk
    values = {name: run(name, desk) for name in ("curate", "train", "evaluate", "decide", "deploy")}
    (cycle,) = Control(settings).facts("cycle", Cycle)
    assert {found["cycle"] for found in values.values()} == {cycle.id}
    assert cycle.trigger == "asked"
    assert values["train"]["version"] == values["evaluate"]["version"] == values["deploy"]["version"] == "2"
    assert values["decide"]["decision"] == "promote"
    assert values["deploy"]["outcome"] == "promoted"
    assert Control(settings).alias(MODEL, "champion") == 2
    apart = keys(settings)

    World(monkeypatch)
    whole, loaded = triage.write(tmp_path / "whole", "echo", "{latency_p95: null}")
    registry.register_base(whole, loaded)
    triage.answer(whole, 120)
    control = Control(whole)
    end = cycles.run_cycle(whole, loaded, control, cycles.open_cycle(control, MODEL, "asked", utc_now()))
    assert end.outcome == "promoted"
    texts = {"answers", "dataset"}  # keyed by a hash of texts, whose times differ
    assert {key for key in apart if key[0] not in texts} == {key for key in keys(whole) if key[0] not in texts}


def test_a_task_that_is_repeated_finds_what_was_done(desk: tuple[Settings, Loaded]) -> None:
    settings, _ = desk
    assert run("curate", desk) == run("curate", desk)
    before = facts(settings)
    assert run("curate", desk, jobs.SCHEDULE)["cycle"] != ""
    assert facts(settings) == before
    run("train", desk)
    before = facts(settings)
    assert run("train", desk)["version"] == "2"
    assert facts(settings) == before
    with pytest.raises(Fixable, match="there is no job"):
        run("tune", desk)


def test_without_an_open_cycle_the_tasks_behind_curate_have_nothing_to_do(desk: tuple[Settings, Loaded]) -> None:
    assert run("train", desk) == run("evaluate", desk) == {"cycle": ""}
    assert run("decide", desk)["decision"] == "hold"
    assert run("deploy", desk) == {"outcome": "", "cycle": ""}
    assert Control(desk[0]).facts("cycle", Cycle) == []


def test_a_cycle_that_never_ended_does_not_block_the_next_one(
    desk: tuple[Settings, Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, loaded = desk
    control = Control(settings)
    old = cycles.open_cycle(control, MODEL, "left", utc_now() - timedelta(hours=25))
    assert run("curate", desk)["cycle"] != old.id
    ends = control.facts("cycle_end", CycleEnd)
    assert [(end.cycle, end.outcome) for end in ends] == [(old.id, "failed")]
    assert len(cycles.unfinished(control, loaded.project.name)) == 1
