"""One step of the loop at a time, for a scheduler: the wheel's entry points in a Databricks job, or a crontab here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimtab.cli import show
from trimtab.cli.opening import Folder, opened

if TYPE_CHECKING:
    from trimtab.lifecycle.jobs import Job
    from trimtab.project import Loaded

Reason = Annotated[
    str, typer.Option(help="Why now; it stands in the record. With `schedule` the brakes of trimtab.yaml apply.")
]


def profile(project: Folder = Path()) -> None:
    """Bring in the requests that arrived, and put every full window in numbers: counts, histograms, a sample of rows.

    Runs where the rows are: on Spark in a workspace, on delta-rs here. The profiles are facts that `drift` reads.
    """
    _run("profile", project)


def drift(project: Folder = Path()) -> None:
    """Test the profiled windows for drift and the labelled answers for quality, and raise the alerts.

    Task value `drifted`: true when an alert asks for a cycle and the brakes let it; the cycle is open then.
    """
    _run("drift", project)


def curate(project: Folder = Path(), reason: Reason = "schedule") -> None:
    """Open a retraining cycle, or take the one that is open, and write its data set: hold-out first, then train.

    When the brakes hold the cycle back, nothing is opened, and the tasks behind this one have nothing to do.
    """
    _run("curate", project, reason)


def train(project: Folder = Path(), reason: Reason = "schedule") -> None:
    """Train the open cycle's candidate on its data set and register it as a model version with its lineage."""
    _run("train", project, reason)


def evaluate(project: Folder = Path(), reason: Reason = "schedule") -> None:
    """Put the gates' questions (quality, latency, fairness) to candidate and champion, on the same held-out cases."""
    _run("evaluate", project, reason)


def decide(project: Folder = Path(), reason: Reason = "schedule") -> None:
    """Decide about the candidate. Task value `decision`: promote, hold or reject; only the first leads to `deploy`.

    A candidate that is rejected for fairness alone is mitigated and judged again here, as often as retrain.attempts
    allows.
    """
    _run("decide", project, reason)


def deploy(project: Folder = Path(), reason: Reason = "schedule") -> None:
    """Roll out the candidate that was decided to be promoted: approval, canary, champion, model card."""
    _run("deploy", project, reason)


def erase(
    project: Folder = Path(),
    subject: Annotated[str, typer.Option(metavar="SUBJECT", help="Whose requests; it stays in the job's run.")] = "",
    request: Annotated[str, typer.Option(metavar="ID", help="Instead: a request of theirs.")] = "",
    confirm: Annotated[str, typer.Option(metavar="NAME", help="The project's name, typed: erase it.")] = "",
) -> None:
    """Forget one subject where the rows are: `trimtab erase`, for tables in a workspace. Without --confirm: counts.

    Rows and feedback are rewritten, older files vacuumed, data sets in the volume cleaned. It says what it does not
    reach, and the SQL for that.
    """
    runtime, job = _opened(project, "erasure")
    from trimtab.lifecycle import jobs

    if runtime is not None:
        runtime.keep_master_key(job.settings, job.loaded.project)
    with show.working("erase…"):
        values = jobs.erase(job, subject, request, confirm)
    _tell(runtime, job, "erase", values)
    if job.loaded.project.target.databricks is not None:
        from trimtab.databricks import erasing

        for line in erasing.remains(job.loaded.project):
            show.say(line)
    name = job.loaded.project.name
    show.then("`trimtab audit verify`" if confirm else f"the same with --confirm {name}; nothing was changed")


def _run(name: str, folder: Path, reason: str = "schedule") -> None:
    runtime, job = _opened(folder, reason)
    from trimtab.lifecycle import jobs

    with show.working(f"{name}…"):
        values = jobs.run(name, job)
    _tell(runtime, job, name, values)
    after = list(jobs.TASKS)[list(jobs.TASKS).index(name) + 1 :]
    show.then(f"`trimtab job {after[0]}`" if after else "`trimtab status`")


def _opened(folder: Path, reason: str) -> tuple[Any, Job]:
    """What is different in a workspace (None here), and what every job needs."""
    settings, loaded = opened(folder)
    runtime = _workspace(loaded)
    if runtime is not None:
        settings, loaded = opened(runtime.local_copy(folder))
        settings = runtime.settings_of(settings, loaded.project)
    from trimtab.lifecycle import jobs, rows
    from trimtab.store.control import Control

    control = Control(settings)
    return runtime, jobs.Job(settings, loaded, control, rows.anywhere(settings, loaded, control), reason)


def _tell(runtime: Any, job: Job, name: str, values: dict[str, str]) -> None:
    from trimtab.lifecycle import jobs

    if runtime is not None:
        runtime.set_task_values(values)
    kept = jobs.keep_values(job.settings, name, values)
    for key, value in values.items():
        show.say(f"{key}: {value}")
    show.say(f"task values: {kept}")


def _workspace(loaded: Loaded) -> Any:
    """What is different in a workspace of Databricks; None here."""
    if loaded.project.target.databricks is None:
        return None
    from trimtab.databricks import runtime

    return runtime if runtime.in_workspace() else None
