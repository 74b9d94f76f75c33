"""The steps of the loop one at a time, for a scheduler that is not ours: `trimtab job NAME`.

Each is the function that the loop itself runs. They hand over by facts in the control database, so any of them may run
on another machine than the one before it, twice, or again after a crash; what is done is found and not done again.
What a scheduler needs to branch on is returned as task values.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from trimtab.errors import Fixable
from trimtab.lifecycle import cycle as cycles
from trimtab.lifecycle import erasure
from trimtab.lifecycle.loop import consider, open_alerts
from trimtab.lifecycle.rows import Rows
from trimtab.monitor import watch
from trimtab.project import Loaded
from trimtab.records.lifecycle import Cycle
from trimtab.records.record import utc_now
from trimtab.settings import Settings
from trimtab.store.control import Control

SCHEDULE = "schedule"
"""The reason of a job that nobody asked for: the brakes of trimtab.yaml apply to it."""
STALE = timedelta(hours=24)
"""A cycle that is still open after this time is given up by the next job that would open one."""

Values = dict[str, str]
"""Task values: what a job's conditions compare. Text, as Databricks' conditions are."""


@dataclass(frozen=True)
class Job:
    """What every task needs. `reason`: why now, for the record."""

    settings: Settings
    loaded: Loaded
    control: Control
    rows: Rows
    reason: str

    @property
    def model(self) -> str:
        """The registered model's name."""
        return self.loaded.project.name


def profile(job: Job) -> Values:
    """Bring in what arrived, and put every window that is due in numbers, where the rows are."""
    arrived = job.rows.arrive()
    made = watch.profiles(job.loaded.project, job.control, job.rows.lake)
    values = {"arrived": str(arrived), "rows": str(job.rows.lake.count()), "windows": str(max(0, len(made) - 1))}
    if made[1:]:
        seen = sum(made[2:], start=made[1])
        answered = seen.counts["outcome"].get("ok", 0)
        values |= {"failed": f"{1 - answered / seen.window.n:.4f}"}
        if duration := seen.numbers.get("execution_duration_ms"):
            values |= {"duration_p95_ms": str(duration.quantile(0.95))}
    return values


def drift(job: Job) -> Values:
    """Test the windows, judge the answers, raise alerts; `drifted` when a cycle is open or was opened for one."""
    project, control, now = job.loaded.project, job.control, utc_now()
    raised = watch.look(job.settings, project, control, job.rows.lake, now)
    values = {"alerts": str(len(raised)), "drifted": "false", "reason": "no alert asks for a cycle"}
    if cycles.unfinished(control, job.model):
        return values | {"drifted": "true", "reason": "a cycle is open"}
    for alert in open_alerts(project, control):
        due = consider(project, control, job.rows.lake, alert.title, alert, now)
        control.put("trigger", f"{job.model}/{now.isoformat()}", due)
        values["reason"] = due.reason
        if due.fired:
            cycles.open_cycle(control, job.model, alert.key, now)
            return values | {"drifted": "true"}
    return values


def curate(job: Job) -> Values:
    """Open a cycle, unless one is open, and write its data set."""
    cycle = _opened(job)
    if cycle is None:
        return {"cycle": ""}
    dataset = cycles.curated(_attempt(job, cycle))
    return {"cycle": cycle.id, "dataset": dataset.hash, "train": str(dataset.n_train)}


def train(job: Job) -> Values:
    """Train the open cycle's candidate and register it."""
    cycle = _open(job)
    if cycle is None:
        return {"cycle": ""}
    return {"cycle": cycle.id, "version": str(cycles.trained(_attempt(job, cycle)).version)}


def evaluate(job: Job) -> Values:
    """Put the gates' questions to the open cycle's candidate."""
    cycle = _open(job)
    if cycle is None:
        return {"cycle": ""}
    return {"cycle": cycle.id, "version": str(cycles.evaluated(_attempt(job, cycle)).version)}


def decide(job: Job) -> Values:
    """Decide about the candidate: promote, hold or reject. One rejected for fairness alone is mitigated here first."""
    cycle = _open(job)
    if cycle is None:
        return {"decision": "hold", "cycle": ""}
    work, candidate, decision = cycles.decided(job.settings, job.loaded, job.control, cycle, job.rows)
    if decision.outcome != "promote":
        cycles.turn_down(work, decision)
    return {"decision": decision.outcome, "cycle": cycle.id, "version": str(candidate.version)}


def deploy(job: Job) -> Values:
    """Approval, canary, alias, model card, for a candidate that was decided to be promoted."""
    cycle = _open(job)
    if cycle is None:
        return {"outcome": "", "cycle": ""}
    work, candidate, decision = cycles.decided(job.settings, job.loaded, job.control, cycle, job.rows)
    if decision.outcome != "promote":
        raise Fixable(f"cycle {cycle.id} was decided: {decision.outcome}", "run `trimtab job decide` before it")
    end = cycles.finish(work, candidate, decision)
    return {"outcome": end.outcome, "cycle": cycle.id, "version": str(candidate.version)}


def erase(job: Job, subject: str, request: str, confirm: str) -> Values:
    """Forget a subject, or whose a request is, where the rows are; without `confirm` (the model's name) only counted.

    Raises Fixable for neither or both, for a request that is not there, and under a legal hold.
    """
    if bool(subject) == bool(request):
        raise Fixable("whom to forget is not said, or said twice", "give --subject, or --request")
    if confirm not in ("", job.model):
        raise Fixable(f"nothing was erased: {confirm} is not the project's name", f"give `--confirm {job.model}`")
    arguments = job.settings, job.loaded, job.control
    if request:
        planned = erasure.plan_request(*arguments, request, job.rows)
    else:
        planned = erasure.plan(*arguments, subject, job.rows)
    values = {
        "rows": str(len(planned.rows)),
        "feedback": str(len(planned.feedback)),
        "dataset_rows": str(sum(planned.datasets.values())),
        "versions": ", ".join(map(str, planned.versions)),
        "held": planned.held,
        "erased": "false",
    }
    if not confirm:
        return values
    erasure.erase(*arguments, planned, "job", utc_now())
    return values | {"erased": "true"}


TASKS: dict[str, Callable[[Job], Values]] = {
    task.__name__: task for task in (profile, drift, curate, train, evaluate, decide, deploy)
}
"""The tasks in order."""


def run(name: str, job: Job) -> Values:
    """Run one task; its task values. Raises Fixable for an unknown name, and while another process runs a cycle."""
    if name not in TASKS:
        raise Fixable(f"there is no job {name}", f"choose one of {', '.join(TASKS)}")
    if name in ("profile", "drift"):
        return TASKS[name](job)
    with cycles.only_cycle(job.settings) as free:
        if not free:
            raise Fixable("a cycle is running in another process", "watch it with `trimtab status`")
        return TASKS[name](job)


def keep_values(settings: Settings, name: str, values: Values) -> Path:
    """Write the task values for a scheduler on this machine, as JSON; the file."""
    file = settings.runtime / "task-values" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values) + "\n")
    return file


def _opened(job: Job) -> Cycle | None:
    """The open cycle, or a new one; None when the brakes hold one back that nobody asked for."""
    cycle, now = _open(job), utc_now()
    if cycle is not None and now - cycle.opened_at > STALE:
        cycles.give_up(job.settings, job.control, cycle, f"did not end within {STALE.total_seconds() / 3600:g} hours")
        cycle = None
    if cycle is not None:
        return cycle
    job.rows.arrive()
    if job.reason == SCHEDULE:
        due = consider(job.loaded.project, job.control, job.rows.lake, job.reason, None, now)
        job.control.put("trigger", f"{job.model}/{now.isoformat()}", due)
        if not due.fired:
            return None
    return cycles.open_cycle(job.control, job.model, job.reason, utc_now())


def _open(job: Job) -> Cycle | None:
    waiting = cycles.unfinished(job.control, job.model)
    return waiting[0] if waiting else None


def _attempt(job: Job, cycle: Cycle) -> cycles.Work:
    """The first attempt. Later ones are made where the first one's decision asks for them: see `decide`."""
    return next(cycles.attempts(job.settings, job.loaded, job.control, cycle, job.rows))
