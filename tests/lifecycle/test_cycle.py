"""A cycle that is killed at any moment and run again ends as if nothing had happened."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import mlflow
import polars as pl
import pytest
import triage
from triage import MODEL

from running import kill, until
from training.tiny_base import write as write_base
from trimtab import registry, training
from trimtab import settings as environment
from trimtab.errors import Fixable
from trimtab.lifecycle import cycle as cycles
from trimtab.project import Loaded
from trimtab.promotion import gather, rollout
from trimtab.records.lifecycle import Cycle, CycleEnd, Step
from trimtab.records.promotion import Answers, Decision, GateResult
from trimtab.records.record import content_hash, utc_now
from trimtab.records.registry import AliasMove, ModelVersion, VersionSpec
from trimtab.records.training import DatasetVersion, TrainingRun
from trimtab.settings import Settings
from trimtab.store import blobs
from trimtab.store.control import Control

# MLflow and its dependencies warn about themselves.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(300)]

STEPS = ("curate", "train", "register", "compare", "fairness", "decide")
FAIRNESS = "{latency_p95: null, fairness: {swaps: names.yaml, field: urgency, favourable: [high], pairs: 30}}"


def facts(settings: Settings, kind: str = "%") -> dict[tuple[str, str], str]:
    """Bodies of facts by (kind, key), as they lie in the database."""
    with sqlite3.connect(settings.home / "trimtab.db") as db:
        rows = db.execute("SELECT kind, key, body FROM facts WHERE kind LIKE ?", (kind,)).fetchall()
    db.close()
    return {(kind, key): body for kind, key, body in rows}


# ── a real trainer, real engines, kill -9 ─────────────────────────────────────────────────────────────────────────


def test_a_cycle_killed_in_every_stage_ends_with_each_step_done_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for empty in environment.load().blobs.parent.glob("mlflow-*.db"):  # migrated before: each time takes seconds
        shutil.copy(empty, tmp_path)
    monkeypatch.setenv("TRIMTAB_BLOBS", str(tmp_path / "blobs"))
    write_base(tmp_path / "tiny.gguf")
    settings, loaded = triage.write(tmp_path, "gguf:tiny.gguf", FAIRNESS)
    registry.register_base(settings, loaded)
    triage.answer(settings, 100)

    def stepped(name: str) -> bool:
        return any(key.endswith(f"/{name}") for _, key in facts(settings, "step"))

    moments: dict[str, Callable[[], bool]] = {
        "in training": lambda: any((settings.home / "training").rglob("checkpoint.pt")) and not stepped("train"),
        "registered": lambda: stepped("register"),
        "compared": lambda: stepped("compare"),
    }
    before: dict[tuple[str, str], str] = {}
    for name, reached in moments.items():
        process = cycle_run(tmp_path)
        until(lambda p=process, there=reached: p.poll() is not None or there())
        assert process.poll() is None, f"ended before it was {name}"
        kill(process)
        now = facts(settings)
        assert now | before == now, f"a fact changed after the kill when {name}"
        before = now
    assert cycle_run(tmp_path).wait() == 0
    now = facts(settings)
    assert now | before == now

    control = Control(settings)
    (end,) = control.facts("cycle_end", CycleEnd)
    assert end.outcome in ("held", "rejected")  # a base of random weights learns little from 80 rows
    assert control.alias(MODEL, "champion") == 1
    steps = Counter((step.attempt, step.name) for step in control.facts("step", Step))
    attempts = max(attempt for attempt, _ in steps)
    assert steps == Counter(itertools.product(range(1, attempts + 1), STEPS))
    shown = mlflow.MlflowClient(settings.mlflow_uri).search_model_versions(f"name = '{MODEL}'")
    assert len(shown) == 1 + attempts
    adapter = control.get("training_run", f"{end.cycle}/1", TrainingRun)
    assert adapter is not None
    assert blobs.get(settings.blobs, adapter.adapter_sha256).exists()
    assert control.audit_faults() == []


def cycle_run(folder: Path) -> subprocess.Popen[bytes]:
    """`trimtab cycle run`, started."""
    command = [sys.executable, "-m", "trimtab", "cycle", "run", "--project", str(folder)]
    with (folder / "cycle.log").open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ})


# ── every write of a cycle that ends in a promotion ───────────────────────────────────────────────────────────────


class Killed(BaseException):
    """The process is no more."""


class Mortal(Control):
    """A database whose process is killed right after its nth write."""

    def __init__(self, settings: Settings, writes: int) -> None:
        super().__init__(settings)
        self.left = writes

    def put(self, kind: str, key: str, record) -> bool:
        made = super().put(kind, key, record)
        self._one_less()
        return made

    def move(self, moves, traffic=None) -> None:
        super().move(moves, traffic)
        self._one_less()

    def _one_less(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


class World:
    """What a cycle does outside the database, without engines, trainer and MLflow; it counts what it is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[int, str]] = []
        self.trained = 0
        self.versions: dict[str, int] = {}
        nothing = lambda *_, **__: None  # noqa: E731
        for name in ("show_aliases", "log_metrics", "log_text"):
            monkeypatch.setattr(registry, name, nothing)
        monkeypatch.setattr(registry, "_log_version", self.log_version)
        monkeypatch.setattr(training, "train", self.train)
        monkeypatch.setattr(gather, "_ask", self.ask)
        monkeypatch.setattr(rollout, "_wait_until_loaded", nothing)
        monkeypatch.setattr(rollout, "_judged", judged)

    def log_version(self, settings: Settings, spec: VersionSpec, *_: object) -> tuple[int, str]:
        number = self.versions.setdefault(spec.hash, len(self.versions) + 1)
        return number, f"run {number}"

    def train(self, settings: Settings, dataset: DatasetVersion, *, key: str, **_: object) -> TrainingRun:
        self.trained += 1
        (settings.home / "adapter").write_text(dataset.hash)
        return TrainingRun(
            key=key,
            dataset_hash=dataset.hash,
            base_sha256="",
            params={},
            steps=1,
            loss_first=2.0,
            loss_last=1.0,
            seconds=1.0,
            adapter_sha256=blobs.put(settings.blobs, settings.home / "adapter"),
        )

    def ask(
        self, settings: Settings, loaded: Loaded, spec: VersionSpec, number: int, texts, say, together=1, deciding=None
    ) -> Answers:
        """A tuned version knows, another one guesses."""
        suite = content_hash(list(texts))
        self.asked.append((number, suite))
        right = [
            {
                "intent": "refund" if "refund" in text or "money" in text else "login",
                "urgency": "high" if "today" in text else "low",
            }
            for text in texts
        ]
        guess = [{"intent": "refund", "urgency": "low"}] * len(texts)
        found = tuple(right if spec.adapter_sha256 else guess)
        return Answers(version=number, suite=suite, answers=found, seconds=(0.1,) * len(texts))


def judged(*_: object) -> pl.DataFrame:
    """Three answers of the canary, all good, after any share was set."""
    late = utc_now() + timedelta(hours=1)
    return pl.DataFrame({"request_time": [late] * 3, "model_version": ["2"] * 3, "failed": [False] * 3})


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Loaded, Cycle]:
    """A project whose cycle was just opened."""
    monkeypatch.setenv("TRIMTAB_BLOBS", str(tmp_path / "blobs"))
    World(monkeypatch)
    settings, loaded = triage.write(tmp_path / "opened", "echo", "{latency_p95: null}")
    registry.register_base(settings, loaded)
    triage.answer(settings, 120)
    return settings.root, loaded, cycles.open_cycle(Control(settings), MODEL, "test", utc_now())


def test_whichever_write_a_cycle_is_killed_after_it_ends_with_the_same_facts(
    opened: tuple[Path, Loaded, Cycle], monkeypatch: pytest.MonkeyPatch
) -> None:
    template, loaded, cycle = opened

    def run(name: str, writes: int, world: World) -> tuple[Settings, CycleEnd | None]:
        settings = environment.load(template.parent / name)
        if not settings.root.exists():
            shutil.copytree(template, settings.root)
        world.versions = {version: n for n, version in enumerate(_hashes(settings), 1)}
        try:
            return settings, cycles.run_cycle(settings, loaded, Mortal(settings, writes), cycle)
        except Killed:
            return settings, None

    undisturbed, end = run("undisturbed", 0, World(monkeypatch))
    assert end is not None
    assert end.outcome == "promoted"
    expected = set(facts(undisturbed))
    assert {key for kind, key in expected if kind == "step"} == {f"{cycle.id}/1/{name}" for name in STEPS}

    for writes in itertools.count(1):
        settings, end = run(f"killed-{writes}", writes, World(monkeypatch))
        if end is not None:
            break
        left = facts(settings)
        world = World(monkeypatch)
        settings, end = run(f"killed-{writes}", 0, world)
        assert end is not None
        assert (end.outcome, end.version) == ("promoted", 2)
        found = facts(settings)
        assert found | left == found
        assert set(found) == expected
        control = Control(settings)
        assert (control.alias(MODEL, "champion"), control.alias(MODEL, "challenger")) == (2, None)
        assert [(m.alias, m.before, m.after) for m in control.facts("alias_move", AliasMove)][1:] == [
            ("challenger", None, 2),
            ("champion", 1, 2),
            ("challenger", 2, None),
        ]
        decision = control.get("decision", f"{cycle.id}/1", Decision)
        assert decision == control.get("output", f"{cycle.id}/1/decide", Decision)
        assert not [suite for number, suite in world.asked if ("answers", f"{MODEL}/{number}/{suite[:16]}") in left]
        assert world.trained == (("output", f"{cycle.id}/1/train") not in left)
        assert control.audit_faults() == []
    assert writes > len(STEPS) * 2


def test_quality_is_judged_on_the_field_that_the_file_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_BLOBS", str(tmp_path / "blobs"))
    World(monkeypatch)
    settings, loaded = triage.write(tmp_path, "echo", "{latency_p95: null, quality_field: intent}")
    registry.register_base(settings, loaded)
    triage.answer(settings, 120)
    control = Control(settings)
    cycle = cycles.open_cycle(control, MODEL, "test", utc_now())
    cycles.run_cycle(settings, loaded, control, cycle)
    gate, dataset = control.facts("gate", GateResult)[0], control.facts("dataset", DatasetVersion)[0]
    asked = [case.label["intent"] for case in gather.cases(dataset, "holdout")]
    assert gate.numbers["accuracy_champion"] == asked.count("refund") / len(asked)  # it says refund, and low, always
    assert gate.detail.startswith("Intent right: version 2 on ")


def test_a_given_candidate_meets_the_same_gates_and_nothing_is_trained(
    opened: tuple[Path, Loaded, Cycle], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, loaded, waiting = opened
    settings, world = environment.load(root), World(monkeypatch)
    control = Control(settings)
    cycles.give_up(settings, control, waiting, "not this one")
    champion = registry.champion(control, MODEL)
    world.versions = {champion.spec.hash: 1}
    (settings.home / "adapter").write_text("by hand")
    adapter = blobs.put(settings.blobs, settings.home / "adapter")
    given = {
        number: registry.register(
            settings, control, champion.spec.model_copy(update=change), config_hash="", note="by hand", parent=1
        ).version
        for number, change in (
            (2, {"adapter_sha256": adapter}),
            (3, {"prompt": champion.spec.prompt.model_copy(update={"system": "Guess."})}),
        )
    }
    assert given == {2: 2, 3: 3}
    with pytest.raises(Fixable, match="champion of desk already"):
        cycles.run_now(settings, loaded, "test", 1)
    with pytest.raises(Fixable, match="no version 9"):
        cycles.run_now(settings, loaded, "test", 9)
    guess = cycles.run_now(settings, loaded, "test", 3)
    assert guess.outcome == "held"  # as good as the champion, and no better evidence on so few rows
    end = cycles.run_cycle(settings, loaded, control, cycles.open_cycle(control, MODEL, "test", utc_now(), 2))
    assert (end.outcome, end.version) == ("promoted", 2)
    assert control.alias(MODEL, "champion") == 2
    decision = control.get("decision", f"{end.cycle}/1", Decision)
    assert decision is not None
    assert [gate.gate for gate in decision.gates] == ["quality"]
    assert world.trained == 0
    steps = [step.name for step in control.facts("step", Step, f"{end.cycle}/")]
    assert steps == ["curate", "compare", "fairness", "decide"]


def test_cycles_that_open_in_one_second_share_no_fact(opened: tuple[Path, Loaded, Cycle]) -> None:
    root, _, first = opened
    settings = environment.load(root)
    control = Control(settings)
    cycles.give_up(settings, control, first, "not this one")
    second = cycles.open_cycle(control, MODEL, "again", first.opened_at)
    third = cycles.open_cycle(control, MODEL, "and again", first.opened_at)
    assert [second.id, third.id] == [f"{first.id}-2", f"{first.id}-3"]
    assert [cycle.id for cycle in cycles.unfinished(control, MODEL)] == [second.id, third.id]


def _hashes(settings: Settings) -> list[str]:
    """What MLflow would know: the specifications registered so far, first to last."""
    return [version.spec.hash for version in Control(settings).facts("version", ModelVersion)]
