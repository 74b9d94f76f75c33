"""One pass of the retraining loop, readable from top to bottom.

Each step finds its key first: if the fact is there, the step is done. A crash is cured by running the cycle again;
there is no other resume code.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Literal, TypeVar

from trimtab import registry, training
from trimtab.errors import Conflict, DatabaseAway, EngineError, Fixable, Unproved
from trimtab.lifecycle import compliance, deployments, erasure
from trimtab.lifecycle.evidence import approval, card, wait_for_approval
from trimtab.lifecycle.rows import Rows, here
from trimtab.project import Loaded
from trimtab.promotion import decide, gather, rollout
from trimtab.records.lifecycle import Cycle, CycleEnd, Progress, Step
from trimtab.records.promotion import Decision, GateResult
from trimtab.records.record import Record, utc_now
from trimtab.records.registry import LabelSet, ModelVersion, Prompt, Weights
from trimtab.records.training import DatasetVersion, Mitigation, TrainingRun
from trimtab.registry import project_files
from trimtab.responsible.guards import topics as guards
from trimtab.settings import Settings
from trimtab.store import artifacts
from trimtab.store.control import Control
from trimtab.training.hosted import Plan

STAGES = ("register", "serve", "watch", "retrain", "judge", "roll out")
"""The lifecycle in order: the CLI's panels, the docs and the dashboard follow it."""

STEPS = ("curate", "train", "register", "compare", "fairness", "decide", "approve", "roll out", "card")
"""The steps of one attempt, in order."""

MITIGATION_EPOCHS = 1.0
"""Passes over messages and twins when a rejected candidate is mitigated; each message is then seen under two names."""

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Work:
    """What every step of one attempt of a cycle needs."""

    settings: Settings
    loaded: Loaded
    control: Control
    cycle: Cycle
    attempt: int
    mitigation: Mitigation
    rows: Rows

    @property
    def champion(self) -> ModelVersion:
        """The version that the candidate is to replace."""
        return registry.get(self.control, self.cycle.model, self.cycle.champion)

    @property
    def key(self) -> str:
        return f"{self.cycle.id}/{self.attempt}"


def run_cycle(settings: Settings, loaded: Loaded, control: Control, cycle: Cycle, rows: Rows | None = None) -> CycleEnd:
    """Curate, train, register, compare, decide, roll out; again with mitigation after a rejection for fairness alone.

    What a person must mend first (Fixable) ends the cycle as failed. Raises StepFailed, EngineError or DatabaseAway
    when a step broke off: run the cycle again and it goes on there. `rows`: by default those of this machine's lake.
    """
    try:
        work, candidate, decision = decided(settings, loaded, control, cycle, rows or here(settings))
        return finish(work, candidate, decision) if decision.outcome == "promote" else turn_down(work, decision)
    except DatabaseAway:
        raise
    except Fixable as error:
        return give_up(settings, control, cycle, str(error))


def decided(
    settings: Settings, loaded: Loaded, control: Control, cycle: Cycle, rows: Rows
) -> tuple[Work, ModelVersion, Decision]:
    """The last attempt of a cycle, its candidate and what was decided about it."""
    last = None
    for work in attempts(settings, loaded, control, cycle, rows):
        candidate, decision = judge_candidate(work)
        last = work, candidate, decision
        if decision.outcome == "reject":
            deployments.remove(control, cycle.model)
        if not failed_for_fairness_alone(decision):
            break
    assert last is not None  # noqa: S101 (attempts is at least 1)
    return last


def attempts(settings: Settings, loaded: Loaded, control: Control, cycle: Cycle, rows: Rows) -> Iterator[Work]:
    """The attempts of a cycle in order: first as the file says, then mitigated. A given candidate has one attempt."""
    most, fair = loaded.project.retrain.attempts if cycle.candidate is None else 1, loaded.project.gates.fairness
    for attempt in range(1, most + 1):
        mitigation: Mitigation = "none" if attempt == 1 or fair is None else fair.mitigation
        yield Work(settings, loaded, control, cycle, attempt, mitigation, rows)


def curated(work: Work) -> DatasetVersion:
    """The data of an attempt."""
    return _step(work, "curate", DatasetVersion, lambda: _curate(work))


def trained(work: Work) -> ModelVersion:
    """Its candidate, registered."""
    if work.cycle.candidate is not None:
        return registry.get(work.control, work.cycle.model, work.cycle.candidate)
    dataset = curated(work)
    run = _step(work, "train", TrainingRun, lambda: _train(work, dataset))
    return _step(work, "register", ModelVersion, lambda: _register(work, dataset, run))


def evaluated(work: Work) -> ModelVersion:
    """Its candidate with the evidence of every gate."""
    candidate, dataset = trained(work), curated(work)
    _step(work, "compare", Gates, lambda: _compare(work, candidate, dataset))
    _step(work, "fairness", Gates, lambda: _fairness(work, candidate, dataset))
    return candidate


def judge_candidate(work: Work) -> tuple[ModelVersion, Decision]:
    """One candidate from data to decision."""
    candidate = evaluated(work)
    return candidate, _step(work, "decide", Decision, lambda: _decide(work, candidate))


def turn_down(work: Work, decision: Decision) -> CycleEnd:
    """End a cycle whose candidate is not promoted."""
    outcome = "rejected" if decision.outcome == "reject" else "held"
    return _end(work.settings, work.control, work.cycle, outcome, " ".join(decision.reasons), None)


def finish(work: Work, candidate: ModelVersion, decision: Decision) -> CycleEnd:
    """From a decision to promote to traffic: approval, canary, alias, model card."""
    settings, control, cycle = work.settings, work.control, work.cycle
    outcome: Literal["promoted", "rolled_back", "held", "failed"]
    try:
        if work.loaded.project.retrain.brakes.approval == "required":
            wait_for_approval(control, decision, _say(work, "approve"))
        say = _say(work, "roll out")
        actor, rows = f"cycle {cycle.id}", work.rows
        endpoint = rows.endpoint or rollout.Endpoint(rows.lake)
        promoted = rollout.roll_out(
            settings,
            work.loaded,
            control,
            decision,
            actor,
            say,
            endpoint=endpoint,
            admit=lambda: compliance.readmit(settings, work.loaded, control, candidate, utc_now()),
        )
        outcome = "promoted" if promoted else "rolled_back"
        summary = "; ".join(decision.reasons) if promoted else "the canary failed more often than the champion"
    except (Conflict, Unproved) as stopped:
        outcome, summary = "held", str(stopped)
    except EngineError as error:
        outcome, summary = "failed", str(error)
    card(settings, work.loaded, candidate.version)
    return _end(settings, control, cycle, outcome, summary, candidate.version)


def failed_for_fairness_alone(decision: Decision) -> bool:
    """Whether mitigation may help: fairness failed or lacks evidence of parity, everything else passed."""
    failed = [gate.gate for gate in decision.gates if gate.verdict == "fail"]
    return decision.outcome == "reject" and failed == ["fairness"]


def give_up(settings: Settings, control: Control, cycle: Cycle, reason: str) -> CycleEnd:
    """End a cycle that cannot go on, with the reason; what it did so far stays on record."""
    return _end(settings, control, cycle, "failed", reason, None)


def open_cycle(control: Control, model: str, trigger: str, now: datetime, candidate: int | None = None) -> Cycle:
    """Write the opening of a cycle; it sees no row after `now`. `candidate`: a version to judge; None: train one.

    It is named by its second, and by a number where that second has one already, of this model or of another one that
    shares the database: facts of one cycle must never be taken for another's. Raises Fixable when there is no such
    version, or when it is champion already.
    """
    champion = registry.champion(control, model)
    if candidate is not None and registry.get(control, model, candidate) == champion:
        raise Fixable(f"version {candidate} is the champion of {model} already", "see `trimtab history`")
    second = f"{now.astimezone(UTC):%Y%m%d-%H%M%S}"
    for number in count(1):
        cycle = Cycle(
            id=second if number == 1 else f"{second}-{number}",
            model=model,
            opened_at=now,
            trigger=trigger,
            champion=champion.version,
            cut=now,
            candidate=candidate,
        )
        if control.put("cycle", cycle.id, cycle):
            return cycle
    raise AssertionError("some number is free")


def unfinished(control: Control, model: str) -> list[Cycle]:
    """Cycles that were opened and have not ended, oldest first."""
    ended = {end.cycle for end in control.facts("cycle_end", CycleEnd)}
    return [cycle for cycle in control.facts("cycle", Cycle) if cycle.model == model and cycle.id not in ended]


def run_now(settings: Settings, loaded: Loaded, reason: str, candidate: int | None = None) -> CycleEnd:
    """Resume the unfinished cycle, or open one, and run it here. `candidate`: a version to judge; None: train one.

    Raises Fixable when another process runs one, or when an unfinished one has another candidate.
    """
    control, rows = Control(settings), here(settings)
    erasure.choose(settings, loaded.project)
    rows.arrive()
    with only_cycle(settings) as free:
        if not free:
            raise Fixable("a cycle is running in another process", "watch it with `trimtab status`")
        waiting = unfinished(control, loaded.project.name)
        if waiting and candidate not in (None, waiting[0].candidate):
            raise Fixable(f"cycle {waiting[0].id} is not finished", "end it with `trimtab cycle run`, then try again")
        cycle = waiting[0] if waiting else open_cycle(control, loaded.project.name, reason, utc_now(), candidate)
        return run_cycle(settings, loaded, control, cycle, rows)


def dry_run(settings: Settings, loaded: Loaded) -> tuple[DatasetVersion, Plan | None]:
    """The dataset that a cycle would train on now, and what it would ask of a provider (None: it trains here).

    Nothing is opened, sent or registered. Raises Fixable and StepFailed as the cycle would.
    """
    control, now = Control(settings), utc_now()
    champion = registry.champion(control, loaded.project.name)
    cycle = Cycle(
        id=f"{now:%Y%m%d-%H%M%S}",
        model=loaded.project.name,
        opened_at=now,
        trigger="dry run",
        champion=champion.version,
        cut=now,
    )
    work = Work(settings, loaded, control, cycle, 1, "none", here(settings))
    with only_cycle(settings) as free:
        if not free:
            raise Fixable("a cycle is running in another process", "watch it with `trimtab status`")
        try:
            dataset = _curate(work)
        finally:
            settings.progress_file.unlink(missing_ok=True)
    if loaded.project.retrain.method != "hosted":
        return dataset, None
    return dataset, training.plan(loaded.project, dataset, _tuned_prompt(work).system, key=work.key)[0]


def approve(settings: Settings, loaded: Loaded, cycle: str | None, actor: str) -> None:
    """Record a person's approval of the decision that waits for one. Raises Fixable when none does."""
    approval(Control(settings), loaded.project.name, cycle, actor)


@contextmanager
def only_cycle(settings: Settings) -> Iterator[bool]:
    """True for the one process that may run cycles; the lock goes with the process, however it ends."""
    settings.runtime.mkdir(parents=True, exist_ok=True)
    with (settings.runtime / "cycle.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


class Gates(Record):
    """Gate results of one step."""

    gates: tuple[GateResult, ...]


def _curate(work: Work) -> DatasetVersion:
    _say(work, "curate")(0.0, None, "freezing the hold-out, filtering, looking for leaks")
    work.rows.arrive()  # what was journalled before the cut is in the lake from here on, for every attempt alike
    fair = work.loaded.project.gates.fairness
    return training.curate(
        work.settings,
        work.rows.lake.labelled(until=work.cycle.cut),
        model=work.cycle.model,
        labels=work.champion.spec.labels or LabelSet(fields={}),
        section=work.loaded.project.retrain,
        mitigation=work.mitigation,
        swaps=work.loaded.swaps[fair.sensitive[0]] if fair and work.loaded.swaps else None,
        field=fair.field if fair else None,
        cut=work.cycle.cut,
    )


def _train(work: Work, dataset: DatasetVersion) -> TrainingRun:
    """A mitigated candidate goes on from the rejected one: what that one learned of the task is kept."""
    rejected = work.control.get("training_run", f"{work.cycle.id}/{work.attempt - 1}", TrainingRun)
    if work.loaded.project.retrain.method == "hosted":
        return training.fine_tune(
            work.settings,
            work.control,
            work.loaded.project,
            dataset,
            key=work.key,
            system=_tuned_prompt(work).system,
            say=_say(work, "train"),
            start=rejected.hosted.model if rejected and rejected.hosted else None,
        )
    section = work.loaded.project.retrain.lora
    if rejected is not None:
        section = section.model_copy(update={"epochs": min(section.epochs, MITIGATION_EPOCHS)})
    return training.train(
        work.settings,
        dataset,
        key=work.key,
        base=work.champion.spec.base,
        prompt=_tuned_prompt(work),
        section=section,
        on_progress=_say(work, "train"),
        adapter=rejected.adapter_sha256 if rejected else None,
        masks=work.champion.spec.masks,
    )


def _register(work: Work, dataset: DatasetVersion, run: TrainingRun) -> ModelVersion:
    prompt = _tuned_prompt(work)
    changes: dict[str, Any] = {"adapter_sha256": run.adapter_sha256, "labels": dataset.labels, "prompt": prompt}
    if run.hosted is not None:
        changes |= {"base": Weights(name=run.hosted.served, sha256="", format="hosted")}
    changes["thresholds"] = None  # they were fitted to the champion's scores
    changes["guards"] = guards.fitted(work.loaded.guards, dataset.labels)
    return registry.register(
        work.settings,
        work.control,
        work.champion.spec.model_copy(update=changes),
        config_hash=project_files.keep(work.control, work.loaded),
        note=f"cycle {work.key}: {run.method}, mitigation {dataset.mitigation}",
        dataset=dataset,
        training=run,
        parent=work.cycle.champion,
    )


def _tuned_prompt(work: Work) -> Prompt:
    """A tuned version needs no few-shot examples: it was trained without them."""
    return Prompt(system=work.loaded.prompt.system)


def _compare(work: Work, candidate: ModelVersion, dataset: DatasetVersion) -> Gates:
    say = _say(work, "compare")
    args = (work.settings, work.loaded, work.control, candidate, work.champion, dataset, say)
    return _judged(work, candidate, gather.quality_and_latency(*args))


def _fairness(work: Work, candidate: ModelVersion, dataset: DatasetVersion) -> Gates:
    say = _say(work, "fairness")
    gate = gather.fairness_gate(work.settings, work.loaded, work.control, candidate, dataset, say)
    return _judged(work, candidate, [gate] if gate else [])


def _judged(work: Work, candidate: ModelVersion, gates: list[GateResult]) -> Gates:
    """Gate results as facts and as metrics of the version's run."""
    metrics: dict[str, float] = {}
    for gate in gates:
        work.control.put("gate", f"{work.key}/{gate.gate}", gate)
        if gate.value:
            value = {"estimate": gate.value.estimate, "low": gate.value.low, "high": gate.value.high}
            metrics |= {f"gate/{gate.gate}/{name}": number for name, number in value.items()}
    registry.log_metrics(work.settings, candidate, metrics)
    return Gates(gates=tuple(gates))


def _decide(work: Work, candidate: ModelVersion) -> Decision:
    made = work.control.get("decision", work.key, Decision)
    if made is not None:  # and then interrupted: a decision is made once
        return made
    found = [work.control.get("gate", f"{work.key}/{name}", GateResult) for name in gather.required(work.loaded)]
    gates = [gate for gate in found if gate is not None]
    report = compliance.at_promotion(work.settings, work.loaded, work.control, candidate, gates, work.key, utc_now())
    decision = decide.decide(
        key=work.key,
        model=work.cycle.model,
        candidate=candidate.version,
        champion_compared=work.cycle.champion,
        champion_now=work.control.alias(work.cycle.model, "champion"),
        gates=gates,
        required=gather.required(work.loaded),
        now=utc_now(),
        unproved=[f"Clause {f.clause} is {f.status}: {f.reason}" for f in report.open] if report else (),
        guidelines=work.loaded.guidelines_sha256,
        config_hash=project_files.keep(work.control, work.loaded),
    )
    work.control.put("decision", work.key, decision)
    card(work.settings, work.loaded, candidate.version)
    return decision


def _step(work: Work, name: str, type_: type[R], do: Callable[[], R]) -> R:
    """The step's output: found under its key, or made and recorded."""
    key = f"{work.key}/{name}"
    found = work.control.get("output", key, type_)
    if isinstance(found, DatasetVersion):  # its files may have been made on another machine
        return found.model_copy(update={"path": str(artifacts.dataset(work.settings, found.hash))})
    if found is not None:
        return found
    started = time.monotonic()
    _say(work, name)(0.0, None, "")
    output = do()
    if isinstance(output, DatasetVersion):
        artifacts.share(work.settings, Path(output.path))
        work.control.put("dataset", output.hash, output)
    if isinstance(output, TrainingRun):
        work.control.put("training_run", output.key, output)
    done = Step(
        cycle=work.cycle.id,
        attempt=work.attempt,
        name=name,
        at=utc_now(),
        seconds=time.monotonic() - started,
        summary=_summary(output),
        output=key,
    )
    work.control.put("step", key, done)
    work.control.put("output", key, output)  # last: until it is there the step is not done, and is made again
    return output


def _summary(output: Record) -> str:
    match output:
        case DatasetVersion():
            text = f"{output.n_train} train, {output.n_holdout} hold-out, {output.n_frames} frames"
            new = ", ".join(label for labels in output.new_labels.values() for label in labels)
            return f"{text}; mitigation {output.mitigation}" + (f"; new labels: {new}" if new else "")
        case TrainingRun():
            return f"{output.steps} steps, {output.losses(2, ' to ')}"
        case ModelVersion():
            return f"version {output.version}"
        case Gates():
            return "; ".join(f"{gate.gate}: {gate.verdict}" for gate in output.gates) or "no gate asked for"
        case Decision():
            return output.outcome
        case _:
            return ""


def _say(work: Work, step: str) -> gather.Say:
    """Progress of a step, for whoever looks."""

    def say(fraction: float, eta: float | None, text: str) -> None:
        progress = Progress(
            cycle=work.cycle.id,
            attempt=work.attempt,
            step=step,
            fraction=min(1.0, max(0.0, fraction)),
            eta_seconds=eta,
            text=text,
            at=utc_now(),
        )
        path = work.settings.progress_file
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.write_text(progress.model_dump_json())
        temporary.replace(path)

    return say


def _end(
    settings: Settings,
    control: Control,
    cycle: Cycle,
    outcome: Literal["promoted", "rejected", "held", "rolled_back", "failed"],
    summary: str,
    version: int | None,
) -> CycleEnd:
    end = CycleEnd(cycle=cycle.id, at=utc_now(), outcome=outcome, summary=summary, version=version)
    control.put("cycle_end", cycle.id, end)
    deployments.remove(control, cycle.model)
    settings.progress_file.unlink(missing_ok=True)
    return end
