"""Cycles as people follow them: attempts with their evidence, and where in the loop they are. Reads facts only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from trimtab.lifecycle.cycle import STEPS
from trimtab.records.lifecycle import Cycle, CycleEnd, Progress, Step
from trimtab.records.monitor import Alert
from trimtab.records.promotion import Decision, GateResult, RolloutLook
from trimtab.records.record import Record
from trimtab.records.training import DatasetVersion, TrainingRun
from trimtab.settings import Settings
from trimtab.store.control import Control

STAGE_OF: dict[str, str] = dict(zip(STEPS, ("retrain",) * 3 + ("judge",) * 3 + ("roll out",) * 3, strict=True))
"""The stage of the lifecycle that each step of a cycle belongs to."""


class Stage(Record):
    """Where one stage of the lifecycle stands. `stopped`: a cycle ended here without promoting anything."""

    name: str
    state: Literal["done", "running", "pending", "stopped"]
    text: str


class Attempt(Record):
    """One candidate of a cycle: what was done, on what, with what evidence."""

    number: int
    steps: tuple[Step, ...]
    dataset: DatasetVersion | None
    training: TrainingRun | None
    gates: tuple[GateResult, ...]
    decision: Decision | None
    looks: tuple[RolloutLook, ...]
    """The last look at each share of callers, in order."""


class CycleView(Record):
    """One cycle from its opening to its end, if it has one. `progress` is what happens right now."""

    cycle: Cycle
    trigger: str
    """What started it, in words."""
    attempts: tuple[Attempt, ...]
    progress: Progress | None
    end: CycleEnd | None


class PastCycle(Record):
    """An earlier cycle in short."""

    cycle: Cycle
    end: CycleEnd | None


def cycles(settings: Settings, control: Control, model: str) -> tuple[CycleView | None, tuple[PastCycle, ...]]:
    """The latest cycle, and those before it, newest first."""
    opened = [cycle for cycle in control.facts("cycle", Cycle) if cycle.model == model]
    if not opened:
        return None, ()
    ends = {end.cycle: end for end in control.facts("cycle_end", CycleEnd)}
    *before, latest = opened
    past = tuple(PastCycle(cycle=cycle, end=ends.get(cycle.id)) for cycle in reversed(before))
    return _cycle(settings, control, latest, ends.get(latest.id)), past


def _cycle(settings: Settings, control: Control, cycle: Cycle, end: CycleEnd | None) -> CycleView:
    progress = None if end else _progress(settings, cycle)
    steps = control.facts("step", Step, f"{cycle.id}/")
    numbers = {step.attempt for step in steps} | ({progress.attempt} if progress else set())
    alert = control.get("alert", cycle.trigger, Alert)
    return CycleView(
        cycle=cycle,
        trigger=alert.title if alert else cycle.trigger,
        attempts=tuple(_attempt(control, cycle, number, steps) for number in sorted(numbers)),
        progress=progress,
        end=end,
    )


def _attempt(control: Control, cycle: Cycle, number: int, steps: list[Step]) -> Attempt:
    key, mine = f"{cycle.id}/{number}", tuple(step for step in steps if step.attempt == number)
    curated = next((step.output for step in mine if step.name == "curate"), None)
    looks = {look.percent: look for look in control.facts("rollout_look", RolloutLook, f"{key}/")}
    return Attempt(
        number=number,
        steps=mine,
        dataset=control.get("output", curated, DatasetVersion) if curated else None,
        training=control.get("training_run", key, TrainingRun),
        gates=tuple(control.facts("gate", GateResult, f"{key}/")),
        decision=control.get("decision", key, Decision),
        looks=tuple(looks.values()),
    )


def _progress(settings: Settings, cycle: Cycle) -> Progress | None:
    """What a running cycle says of itself. A file that is absent, of another cycle or another release says nothing."""
    try:
        progress = Progress.model_validate_json(settings.progress_file.read_bytes())
    except (OSError, ValueError):
        return None
    return progress if progress.cycle == cycle.id and progress.step in STAGE_OF else None


def stages_of(view: CycleView | None) -> Iterator[Stage]:
    """The stages that a cycle passes through: retrain, judge, roll out."""
    names, texts = list(dict.fromkeys(STAGE_OF.values())), _texts(view)
    at = names.index(_at(view)) if view else 0
    for number, name in enumerate(names):
        yield Stage(name=name, state=_state(view, number, at), text=texts.get(name, ""))


def _state(view: CycleView | None, number: int, at: int) -> Literal["done", "running", "pending", "stopped"]:
    if view is None or number > at:
        return "pending"
    if view.end is None:
        return "running" if number == at else "done"
    return "done" if number < at or view.end.outcome == "promoted" else "stopped"


def _at(view: CycleView) -> str:
    """The stage that a cycle is in, or ended in."""
    if view.progress:
        return STAGE_OF[view.progress.step]
    last = view.attempts[-1] if view.attempts else None
    if last and last.decision:
        return "roll out" if last.decision.outcome == "promote" else "judge"
    done = {step.name for step in last.steps} if last else set[str]()
    return STAGE_OF[next(step for step in STEPS if step not in done)]


def _texts(view: CycleView | None) -> dict[str, str]:
    """A few words for each stage that was reached."""
    if view is None:
        return {"retrain": "no cycle yet"}
    texts, last = {"retrain": "preparing"}, view.attempts[-1] if view.attempts else None
    if last and last.training:
        run, attempt = last.training, f"attempt {last.number}: " if last.number > 1 else ""
        texts["retrain"] = f"{attempt}{run.steps} steps, {run.losses(2, ' → ')}"
    if last and last.gates:
        texts["judge"] = f"{sum(gate.verdict == 'pass' for gate in last.gates)} of {len(last.gates)} gates passed"
    if last and last.decision:
        texts["judge"] = f"version {last.decision.candidate}: {last.decision.outcome}"
    if last and last.looks:
        texts["roll out"] = f"{last.looks[-1].percent:g}% of callers"
    if view.end:
        version = f" version {view.end.version}" if view.end.version else ""
        texts[_at(view)] = f"{view.end.outcome.replace('_', ' ')}{version}"
    return texts
