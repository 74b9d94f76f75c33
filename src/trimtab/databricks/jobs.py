"""The jobs of a workspace, as values: dicts of the Jobs API 2.1, for `trimtab databricks schedule` and the bundle.

Three jobs, keyed as in a bundle's `resources.jobs`:

- `retrain`: curate → train → evaluate → decide → gate → deploy. `gate` is a condition on the task value `decision`
  that `decide` sets (promote, hold, reject: the outcome of the Decision).
- `drift_monitor`: profile → drift → drifted → retrain. `drifted` is a condition on the task value `drifted` (true,
  false) that `drift` sets; then the retrain job runs with the reason.
- `erase`: forget one subject in the workspace's tables. Nothing starts it but a person, with parameters.

Every task that computes is the wheel's entry point `trimtab job NAME`, the function that the laptop runs.
"""

from __future__ import annotations

import re
from typing import Any

from trimtab import __version__
from trimtab.errors import Fixable
from trimtab.records.databricks import DatabricksTarget
from trimtab.records.project import Project

Json = dict[str, Any]

RETRAIN = ("curate", "train", "evaluate", "decide")
"""Tasks of the retrain job before its gate, in order."""

EXTRAS = "train,databricks"
"""What jobs need of Trimtab beside its core."""

ENVIRONMENT = "trimtab"
"""Key of the serverless environment, or of the job cluster."""


def target_of(project: Project) -> DatabricksTarget:
    """The file's target.databricks. Raises Fixable when it has none."""
    if project.target.databricks is None:
        fix = "add `target: {databricks: {profile: …, catalog: …, schema: …}}` to trimtab.yaml"
        raise Fixable("trimtab.yaml names no Databricks workspace", fix)
    return project.target.databricks


def package(target: DatabricksTarget, extra: str = "") -> str:
    """The pip requirement that installs Trimtab, e.g. `trimtab[train]==0.1.0`."""
    wanted = target.package or f"trimtab=={__version__}"
    if not extra:
        return wanted
    if wanted.endswith(".whl"):
        return f"trimtab[{extra}] @ file://{wanted}"
    return re.sub(r"^([A-Za-z0-9_.-]+)(?=[^A-Za-z0-9_.-]|$)", rf"\1[{extra}]", wanted, count=1)


def project_folder(project: Project) -> str:
    """Where `trimtab databricks push` puts trimtab.yaml and the files it names."""
    return f"{target_of(project).volume_path}/projects/{project.name}"


def payload_table(project: Project) -> str:
    """The endpoint's inference table, as AI Gateway names it: its prefix and `_payload`."""
    return target_of(project).in_catalog(f"{project.name}_payload")


def request_log(project: Project) -> str:
    """The view that reads every generation of the inference table in one shape."""
    return target_of(project).in_catalog(f"{project.name}_request_log")


def jobs(project: Project, retrain_id: int | str = 0) -> dict[str, Json]:
    """The jobs by key. `retrain_id` is the retrain job's id, or a bundle's reference to it."""
    return {
        "retrain": retrain(project),
        "drift_monitor": drift_monitor(project, retrain_id),
        "erase": erase(project),
    }


def retrain(project: Project) -> Json:
    """The retrain job; its schedule is the cron of retrain.when. Raises Fixable when that has two."""
    crons = [when.removeprefix("cron:").strip() for when in project.retrain.when if when.startswith("cron:")]
    if len(crons) > 1:
        raise Fixable("retrain.when has two schedules, and a Databricks job has one", "keep one cron in retrain.when")
    reason = ("--reason", "{{job.parameters.reason}}")
    tasks = [_work(project, name, RETRAIN[at - 1] if at else None, reason) for at, name in enumerate(RETRAIN)]
    tasks.append(_condition("gate", after="decide", left="{{tasks.decide.values.decision}}", right="promote"))
    tasks.append(_work(project, "deploy", "gate", reason, outcome="true"))
    job = _job(project, "retrain", tasks, "Curate, train, evaluate, decide; deploy what passed every gate.")
    job["parameters"] = [{"name": "reason", "default": "schedule"}]
    if crons:
        job["schedule"] = _schedule(project, crons[0])
    return job


def drift_monitor(project: Project, retrain_id: int | str) -> Json:
    """The job that looks for drift, when new rows arrive or on a schedule, and starts the retrain job."""
    section = target_of(project).monitor
    tasks = [
        _work(project, "profile", None),
        _work(project, "drift", "profile"),
        _condition("drifted", after="drift", left="{{tasks.drift.values.drifted}}", right="true"),
        {
            "task_key": "retrain",
            "depends_on": [{"task_key": "drifted", "outcome": "true"}],
            "run_job_task": {"job_id": retrain_id, "job_parameters": {"reason": "input_drift"}},
        },
    ]
    job = _job(project, "drift-monitor", tasks, "Profile new requests, test for drift, start retraining.")
    if section.when.startswith("cron:"):
        job["schedule"] = _schedule(project, section.when.removeprefix("cron:").strip())
        return job
    job["trigger"] = {
        "pause_status": _pause(project),
        "table_update": {
            "table_names": [payload_table(project)],
            "condition": "ANY_UPDATED",
            "min_time_between_triggers_seconds": 3600,
            "wait_after_last_change_seconds": 60,
        },
    }
    return job


def erase(project: Project) -> Json:
    """The job that erases: its parameters say whom, and `confirm` (the project's name) that it is meant."""
    names = ("subject", "request", "confirm")
    more = tuple(part for name in names for part in (f"--{name}", f"{{{{job.parameters.{name}}}}}"))
    task = _work(project, "erase", None, more) | {"max_retries": 0}
    job = _job(project, "erase", [task], "Forget one subject. Without `confirm` it only counts what it would reach.")
    job["parameters"] = [{"name": name, "default": ""} for name in names]
    return job


def quartz(cron: str) -> str:
    """A five-field cron as Quartz writes it: seconds first, `?` for the day that is not asked for.

    Days of the week must be names: their numbers differ. Raises Fixable when both days are restricted, which Quartz
    cannot say. Source: Quartz CronExpression.
    """
    minute, hour, day, month, weekday = cron.split()
    if day != "*" and weekday != "*":
        fix = "restrict the day of the month or the day of the week, not both"
        raise Fixable(f"'cron: {cron}' has no form in Databricks' schedules", fix)
    day, weekday = ("?", weekday.upper()) if weekday != "*" else (day, "?")
    return f"0 {minute} {hour} {day} {month.upper()} {weekday}"


def _job(project: Project, name: str, tasks: list[Json], description: str) -> Json:
    target = target_of(project)
    job: Json = {
        "name": f"{project.name}-{name}",
        "description": description,
        "tags": {"trimtab": project.name},
        "max_concurrent_runs": 1,
        "queue": {"enabled": True},
        "health": {"rules": [{"metric": "RUN_DURATION_SECONDS", "op": "GREATER_THAN", "value": 4 * 3600}]},
        "tasks": tasks,
    }
    if target.alerts.emails:
        job["email_notifications"] = {"on_failure": list(target.alerts.emails)}
    job |= _compute(target)
    return job


def _compute(target: DatabricksTarget) -> Json:
    if target.compute == "serverless":
        spec = {
            "environment_version": "4",
            "dependencies": [package(target, EXTRAS), *target.cluster.libraries],
        }
        return {"environments": [{"environment_key": ENVIRONMENT, "spec": spec}]}
    return {"job_clusters": [{"job_cluster_key": ENVIRONMENT, "new_cluster": cluster_spec(target)}]}


def cluster_spec(target: DatabricksTarget) -> Json:
    """What a cluster and a job cluster share. `runtime` lts and lts-ml are resolved by whoever has a workspace."""
    cluster = target.cluster
    spec: Json = {
        "spark_version": cluster.runtime,
        "node_type_id": cluster.node_type,
        "num_workers": cluster.workers,
        "data_security_mode": "SINGLE_USER",
    }
    if cluster.workers == 0:
        spec["spark_conf"] = {"spark.databricks.cluster.profile": "singleNode", "spark.master": "local[*]"}
        spec["custom_tags"] = {"ResourceClass": "SingleNode"}
    return spec


def libraries(target: DatabricksTarget) -> list[Json]:
    """Trimtab and the file's libraries, as a cluster installs them."""
    wanted = [package(target, EXTRAS), *target.cluster.libraries]
    return [{"whl": line} if line.endswith(".whl") else {"pypi": {"package": line}} for line in wanted]


def _work(
    project: Project, name: str, after: str | None, more: tuple[str, ...] = (), outcome: str | None = None
) -> Json:
    target = target_of(project)
    task: Json = {
        "task_key": name,
        "python_wheel_task": {
            "package_name": "trimtab",
            "entry_point": "trimtab",
            "parameters": ["job", name, "--project", project_folder(project), *more],
        },
        "max_retries": 1,
        "timeout_seconds": 4 * 3600,
    }
    if after:
        task["depends_on"] = [{"task_key": after} | ({"outcome": outcome} if outcome else {})]
    if target.compute == "serverless":
        task["environment_key"] = ENVIRONMENT
    else:
        task["job_cluster_key"] = ENVIRONMENT
        task["libraries"] = libraries(target)
    return task


def _condition(name: str, *, after: str, left: str, right: str) -> Json:
    return {
        "task_key": name,
        "depends_on": [{"task_key": after}],
        "condition_task": {"op": "EQUAL_TO", "left": left, "right": right},
    }


def _schedule(project: Project, cron: str) -> Json:
    return {"quartz_cron_expression": quartz(cron), "timezone_id": "UTC", "pause_status": _pause(project)}


def _pause(project: Project) -> str:
    return "PAUSED" if target_of(project).paused else "UNPAUSED"
