"""Kinds that run: cluster and its libraries, serving endpoint, data profiling monitor, alert, job."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import NotFound
from databricks.sdk.service import compute, dataquality, jobs, serving, sql

from trimtab.databricks.plan import Call, Json, Kind, Resource, Tell
from trimtab.databricks.workspace import found

PATIENCE = timedelta(minutes=45)
"""How long a cluster or an endpoint may take to come up."""


def kinds(w: WorkspaceClient) -> dict[str, Kind]:
    """The kinds of this module by name."""
    return {
        "cluster": _cluster(w),
        "libraries": _libraries(w),
        "endpoint": _endpoint(w),
        "monitor": _monitor(w),
        "alert": _alert(w),
        "job": _job(w),
    }


def runtime(w: WorkspaceClient, wanted: str) -> str:
    """The version key of a runtime: `lts` and `lts-ml` are the newest with long-term support that the workspace has."""
    if wanted not in ("lts", "lts-ml"):
        return wanted
    return w.clusters.select_spark_version(long_term_support=True, ml=wanted == "lts-ml", scala="2.13")


def _cluster(w: WorkspaceClient) -> Kind:
    def create(resource: Resource) -> Sequence[Call]:
        given = compute.ClusterSpec.from_dict(resource.body)
        return [lambda: w.clusters.create(**_fields(given, resource.body))]

    def change(resource: Resource, there: Json, paths: Sequence[str]) -> Sequence[Call]:
        given = compute.ClusterSpec.from_dict(resource.body)
        return [lambda: w.clusters.edit(there["cluster_id"], **_fields(given, resource.body))]

    def wait(resource: Resource, tell: Tell) -> None:
        there = _cluster_there(w, resource.name)
        if there and there.get("state") in ("PENDING", "RESTARTING", "RESIZING"):
            w.clusters.wait_get_cluster_running(
                there["cluster_id"], PATIENCE, lambda c: tell(f"{c.state.value if c.state else ''} {c.state_message}")
            )

    return Kind(
        read=lambda r: _cluster_there(w, r.name),
        create=create,
        change=change,
        delete=lambda r, there: [lambda: w.clusters.permanent_delete(there["cluster_id"])],
        mine=lambda r, there: there.get("custom_tags", {}).get("trimtab") == r.body["custom_tags"]["trimtab"],
        wait=wait,
    )


def _cluster_there(w: WorkspaceClient, name: str) -> Json | None:
    return next((c.as_dict() for c in w.clusters.list() if c.cluster_name == name), None)


def _libraries(w: WorkspaceClient) -> Kind:
    """What is installed on a cluster, by the cluster's name. It goes with the cluster."""

    def cluster_id(resource: Resource) -> str:
        there = _cluster_there(w, resource.name)
        return there["cluster_id"] if there else f"<id of {resource.name}>"

    def read(resource: Resource) -> Json | None:
        if _cluster_there(w, resource.name) is None:
            return None
        statuses = w.libraries.cluster_status(cluster_id(resource))
        leaving = compute.LibraryInstallStatus.UNINSTALL_ON_RESTART
        return {"libraries": [s.library.as_dict() for s in statuses if s.library and s.status != leaving]}

    def install(resource: Resource, missing: list[Json]) -> Call:
        wanted = [compute.Library.from_dict(library) for library in missing]
        return lambda: w.libraries.install(cluster_id(resource), wanted)

    def change(resource: Resource, there: Json, paths: Sequence[str]) -> Sequence[Call]:
        want, have = resource.body["libraries"], there["libraries"]
        missing = [library for library in want if library not in have]
        extra = [compute.Library.from_dict(library) for library in have if library not in want]
        calls: list[Call] = [lambda: w.libraries.uninstall(cluster_id(resource), extra)] if extra else []
        return [*calls, install(resource, missing)] if missing else calls

    return Kind(
        read=read,
        create=lambda r: [install(r, r.body["libraries"])],
        change=change,
        delete=lambda r, there: [],
        mine=lambda r, there: True,
    )


def _endpoint(w: WorkspaceClient) -> Kind:
    def read(resource: Resource) -> Json | None:
        there = found(lambda: w.serving_endpoints.get(resource.name))
        if there and "config" not in there:  # its first configuration is still being loaded
            there["config"] = there.get("pending_config", {})
        return there

    def create(resource: Resource) -> Sequence[Call]:
        body = resource.body
        config = serving.EndpointCoreConfigInput.from_dict({"name": resource.name, **body["config"]})
        gateway = serving.AiGatewayConfig.from_dict(body["ai_gateway"])
        tags = [serving.EndpointTag(key="trimtab", value=resource.given["project"])]
        return [lambda: w.serving_endpoints.create(name=resource.name, config=config, ai_gateway=gateway, tags=tags)]

    def change(resource: Resource, there: Json, paths: Sequence[str]) -> Sequence[Call]:
        calls: list[Call] = []
        if any(path.startswith("config") for path in paths):
            given = serving.EndpointCoreConfigInput.from_dict({"name": resource.name, **resource.body["config"]})
            config = _fields(given, resource.body["config"])
            calls.append(lambda: w.serving_endpoints.update_config(resource.name, **config))
        if any(path.startswith("ai_gateway") for path in paths):
            gateway = serving.AiGatewayConfig.from_dict(resource.body["ai_gateway"])
            parts = _fields(gateway, resource.body["ai_gateway"])
            calls.append(lambda: w.serving_endpoints.put_ai_gateway(resource.name, **parts))
        return calls

    def wait(resource: Resource, tell: Tell) -> None:
        def told(endpoint: serving.ServingEndpointDetailed) -> None:
            update = endpoint.state and endpoint.state.config_update
            tell(f"{update.value if update else 'IN_PROGRESS'} (a first start takes 10 to 20 minutes)")

        w.serving_endpoints.wait_get_serving_endpoint_not_updating(resource.name, PATIENCE, told)

    return Kind(
        read=read,
        create=create,
        change=change,
        delete=lambda r, there: [lambda: w.serving_endpoints.delete(r.name)],
        mine=lambda r, there: {"key": "trimtab", "value": r.given["project"]} in there.get("tags", []),
        wait=wait,
    )


def _monitor(w: WorkspaceClient) -> Kind:
    """Data profiling of a table, by the table's name; its statistics go into the table's schema."""

    def asked(resource: Resource) -> dataquality.Monitor:
        schema = w.schemas.get(resource.name.rpartition(".")[0])
        config = {**resource.body, "output_schema_id": schema.schema_id}
        table_id = w.tables.get(resource.name).table_id
        return dataquality.Monitor.from_dict(
            {"object_type": "table", "object_id": table_id, "data_profiling_config": config}
        )

    def read(resource: Resource) -> Json | None:
        table = found(lambda: w.tables.get(resource.name))
        there = table and found(lambda: w.data_quality.get_monitor("table", table["table_id"]))
        return there and {**there["data_profiling_config"], "table_id": there["object_id"]}

    return Kind(
        read=read,
        create=lambda r: [lambda: w.data_quality.create_monitor(asked(r))],
        change=lambda r, there, paths: [
            lambda: w.data_quality.update_monitor("table", there["table_id"], asked(r), "data_profiling_config")
        ],
        delete=lambda r, there: [lambda: w.data_quality.delete_monitor("table", there["table_id"])],
        mine=lambda r, there: True,  # the table is the endpoint's own
    )


def _alert(w: WorkspaceClient) -> Kind:
    def read(resource: Resource) -> Json | None:
        active = (a for a in w.alerts_v2.list_alerts() if a.lifecycle_state != sql.AlertLifecycleState.DELETED)
        there = next((a for a in active if a.display_name == resource.name), None)
        return there and w.alerts_v2.get_alert(str(there.id)).as_dict()

    def asked(resource: Resource) -> sql.AlertV2:
        return sql.AlertV2.from_dict(resource.body)

    def change(resource: Resource, there: Json, paths: Sequence[str]) -> Sequence[Call]:
        mask = ",".join(sorted({path.split(".")[0].split("[")[0] for path in paths}))
        return [lambda: w.alerts_v2.update_alert(there["id"], asked(resource), mask)]

    return Kind(
        read=read,
        create=lambda r: [lambda: w.alerts_v2.create_alert(asked(r))],
        change=change,
        delete=lambda r, there: [lambda: w.alerts_v2.trash_alert(there["id"])],
        mine=lambda r, there: there.get("custom_description") == r.body["custom_description"],
    )


def _job(w: WorkspaceClient) -> Kind:
    """A job by its name. In its body, a task that runs another job names it; the id is filled in when it is sent."""

    def asked(resource: Resource) -> jobs.JobSettings:
        settings = jobs.JobSettings.from_dict(_without_ids(resource.body))
        names = {task["task_key"]: task.get("run_job_task", {}).get("job_id") for task in resource.body["tasks"]}
        for task in settings.tasks or ():
            if task.run_job_task and (name := names[task.task_key]):
                there = _job_there(w, name)
                unknown: Any = f"<id of {name}>"  # only while rehearsing: jobs are made in the order of the plan
                task.run_job_task.job_id = there.job_id if there and there.job_id else unknown
        return settings

    def read(resource: Resource) -> Json | None:
        first = _job_there(w, resource.name)
        if first is None or first.job_id is None:
            return None
        settings = w.jobs.get(first.job_id).settings
        there = settings.as_dict() if settings else {}
        for task in there.get("tasks", []):
            if run := task.get("run_job_task"):
                run["job_id"] = _job_name(w, run["job_id"])
        return {**there, "job_id": first.job_id}

    return Kind(
        read=read,
        create=lambda r: [lambda: w.jobs.create(**_fields(asked(r), r.body))],
        change=lambda r, there, paths: [lambda: w.jobs.reset(there["job_id"], asked(r))],
        delete=lambda r, there: [lambda: w.jobs.delete(there["job_id"])],
        mine=lambda r, there: there.get("tags", {}).get("trimtab") == r.body["tags"]["trimtab"],
    )


def _job_there(w: WorkspaceClient, name: str) -> jobs.BaseJob | None:
    """The job of that very name: the API's own filter overlooks upper and lower case."""
    return next((job for job in w.jobs.list(name=name) if job.settings and job.settings.name == name), None)


def _job_name(w: WorkspaceClient, job_id: int) -> str:
    try:
        settings = w.jobs.get(job_id).settings
    except NotFound:
        return str(job_id)
    return (settings and settings.name) or str(job_id)


def _without_ids(body: Json) -> Json:
    tasks = [
        {**task, **({"run_job_task": {**task["run_job_task"], "job_id": 0}} if "run_job_task" in task else {})}
        for task in body["tasks"]
    ]
    return {**body, "tasks": tasks}


def _fields(given: Any, body: Json) -> dict[str, Any]:
    """The fields of an SDK dataclass that the body has, as arguments."""
    return {name: getattr(given, name) for name in body}
