"""A Declarative Automation Bundle: the same resources as the commands make, as files that the user owns and can read.

`databricks bundle deploy` then makes them. Every file says in its first line that Trimtab wrote it and carries the
SHA-256 of the rest: a file that was changed by hand since is the user's, and is never overwritten.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML

from trimtab.databricks import jobs, request_log, resources
from trimtab.databricks.jobs import Json, target_of
from trimtab.records.project import Project

_MARK = "Written by `trimtab databricks bundle`; yours to change: a changed file is kept. sha256:"
_WRITTEN = re.compile(rf"\A(?:#|--) {re.escape(_MARK)}([0-9a-f]{{64}})\n")

ABOUT = {
    "databricks.yml": "The bundle. `databricks bundle validate`, then `databricks bundle deploy --target dev`.",
    "resources/data.yml": "Where things live: schema, volume, registered model, experiment, secret scope.",
    "resources/serving.yml": "The endpoint. `trimtab databricks push` registers what it serves.",
    "resources/jobs.yml": "The loop. Each task is the wheel's entry point `trimtab job NAME`.",
    "resources/monitoring.yml": "What is watched: a profile of the requests, and an alert.",
    "src/request_log.sql": "The view that reads the inference table. The drift job creates it too, for either schema.",
}
"""The files, and what each is for."""


@dataclass(frozen=True)
class File:
    """One file of the bundle and what is to be done about it. `difference`: lines of a unified diff."""

    path: Path
    text: str
    action: Literal["create", "change", "keep", "yours"]
    difference: tuple[str, ...] = ()


def plan(project: Project, folder: Path) -> list[File]:
    """What writing the bundle into a folder would do. Raises Fixable when the file names no workspace."""
    return [_planned(folder / name, text) for name, text in texts(project).items()]


def write(files: list[File]) -> None:
    """Write the files that are to be created or changed."""
    for file in files:
        if file.action in ("create", "change"):
            file.path.parent.mkdir(parents=True, exist_ok=True)
            file.path.write_text(file.text, "utf-8")


def texts(project: Project) -> dict[str, str]:
    """The files of the bundle by path, signed. Raises Fixable when trimtab.yaml names no workspace."""
    made = resources_of(project)
    parts = {
        "databricks.yml": _bundle(project),
        "resources/data.yml": made["data"],
        "resources/serving.yml": made["serving"],
        "resources/jobs.yml": made["jobs"],
        "resources/monitoring.yml": made["monitoring"],
    }
    signed = {name: _signed(f"# {ABOUT[name]}\n\n{_yaml(content)}", "#") for name, content in parts.items()}
    view = request_log.view(jobs.request_log(project), jobs.payload_table(project), 2)
    return signed | {"src/request_log.sql": _signed(f"-- {ABOUT['src/request_log.sql']}\n\n{view};\n", "--")}


def resources_of(project: Project) -> dict[str, Json]:
    """What each resource file holds: `resources` by type and key, as bundles name them."""
    target = target_of(project)
    at = {"catalog_name": target.catalog, "schema_name": target.schema}
    data: Json = {
        "schemas": {"schema": {"name": target.schema, "catalog_name": target.catalog, "comment": _comment(project)}},
        "volumes": {"files": {**at, "name": target.volume, "volume_type": "MANAGED", "comment": _comment(project)}},
        "registered_models": {"model": {**at, "name": project.name.replace("-", "_"), "comment": _comment(project)}},
        "experiments": {"experiment": {"name": resources.experiment_name(project)}},
        "secret_scopes": {"secrets": {"name": target.secret_scope}},
    }
    made = jobs.jobs(project, "${resources.jobs.retrain.id}")
    monitoring: Json = {
        "quality_monitors": {"request_log": _monitor(project)},
        "alerts": _alerts(project),
    }
    return {
        "data": {"resources": data},
        "serving": {"resources": {"model_serving_endpoints": {"endpoint": _endpoint(project)}}},
        "jobs": {"resources": {"jobs": {key: _runtime_named(job) for key, job in made.items()}}},
        "monitoring": {"resources": monitoring},
    }


def _bundle(project: Project) -> Json:
    target = target_of(project)
    workspace = {"host": target.host} if target.host else {"profile": target.profile} if target.profile else {}
    variables: Json = {
        "model_version": {
            "description": "Version of the registered model that the endpoint serves",
            "default": "1",
        },
        "warehouse_id": {"description": "SQL warehouse that the alert runs on", "default": target.warehouse or ""},
        "service_principal": {"description": "Application id that production jobs run as", "default": ""},
    }
    if target.compute == "cluster":
        runtime = target.cluster.runtime
        known = "17.3.x-scala2.13" if runtime.startswith("lts") else runtime
        variables["spark_version"] = {"description": "Runtime of job clusters", "default": known}
    return {
        "bundle": {"name": project.name},
        "include": ["resources/*.yml"],
        "variables": variables,
        "targets": {
            "dev": {"mode": "development", "default": True} | ({"workspace": workspace} if workspace else {}),
            "prod": {
                "mode": "production",
                "workspace": {**workspace, "root_path": f"/Workspace/Shared/.bundle/{project.name}"},
                "run_as": {"service_principal_name": "${var.service_principal}"},
            },
        },
    }


def _endpoint(project: Project) -> Json:
    """The endpoint of the commands, with the version as a variable: which one is served is decided at deployment."""
    endpoint = resources.endpoint(project, {"champion": 1}, 0)
    body: Json = {"name": endpoint.name, **endpoint.body}
    for served in body["config"]["served_entities"]:
        if "entity_version" in served:
            served["entity_version"] = "${var.model_version}"
    return body


def _monitor(project: Project) -> Json:
    """The data profile, in the older names that bundles have for it."""
    target, made = target_of(project), resources.monitor(project)
    log = made.body["inference_log"]
    return {
        "table_name": made.name,
        "assets_dir": made.body["assets_dir"],
        "output_schema_name": f"{target.catalog}.{target.schema}",
        "inference_log": {
            "granularities": [target.monitor.granularity.removesuffix("s")],
            "timestamp_col": log["timestamp_column"],
            "prediction_col": log["prediction_column"],
            "model_id_col": log["model_id_column"],
            "problem_type": log["problem_type"].removeprefix("INFERENCE_"),
        },
    }


def _alerts(project: Project) -> Json:
    """The alert on the error rate, and one for each threshold of the file; the warehouse is a variable."""
    target = target_of(project)
    named = target.model_copy(update={"warehouse": target.warehouse or "0"})
    section = project.target.model_copy(update={"databricks": named})
    made = resources.alerts(project.model_copy(update={"target": section}))
    keys = ["error_rate", *(re.sub(r"\W+", "_", threshold.slug) for threshold in project.thresholds())]
    warehouse = {"warehouse_id": "${var.warehouse_id}"}
    return {key: {**alert.body, **warehouse} for key, alert in zip(keys, made, strict=True)}


def _runtime_named(job: Json) -> Json:
    for cluster in job.get("job_clusters", ()):
        cluster["new_cluster"]["spark_version"] = "${var.spark_version}"
    return job


def _comment(project: Project) -> str:
    return resources.mark(project)


def _planned(path: Path, text: str) -> File:
    if not path.exists():
        return File(path, text, "create")
    there = path.read_text("utf-8")
    if there == text:
        return File(path, text, "keep")
    lines = difflib.unified_diff(there.splitlines(), text.splitlines(), str(path), "trimtab.yaml", lineterm="", n=1)
    return File(path, text, "change" if _is_ours(there) else "yours", tuple(lines))


def _is_ours(text: str) -> bool:
    """Whether Trimtab wrote this and nobody changed it since."""
    found = _WRITTEN.match(text)
    return found is not None and found.group(1) == _digest(text[found.end() :])


def _signed(text: str, comment: str) -> str:
    return f"{comment} {_MARK}{_digest(text)}\n{text}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _yaml(content: Mapping[str, Any]) -> str:
    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.ignore_aliases = lambda *_: True
    text = io.StringIO()
    yaml.dump(dict(content), text)
    return text.getvalue()
