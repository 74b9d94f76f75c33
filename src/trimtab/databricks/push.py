"""What `trimtab databricks push` brings into the workspace: the project's files, versions and their aliases, or the key
of a hosted model.

Files go into the volume, versions into Unity Catalog by MLflow's own client (see `registry.unity_catalog`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab import registry
from trimtab.databricks import jobs, resources
from trimtab.databricks.jobs import target_of
from trimtab.databricks.plan import Json, Kind, Resource
from trimtab.databricks.wire import Request, Wire
from trimtab.databricks.workspace import whole_parts
from trimtab.project import Loaded
from trimtab.records.project import Project
from trimtab.records.registry import ModelVersion
from trimtab.registry import unity_catalog
from trimtab.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient


def desired(settings: Settings, loaded: Loaded, versions: Mapping[str, ModelVersion]) -> list[Resource]:
    """Files, the hosted model's key, versions and aliases. `versions`: by alias, as the control database has them.

    Raises Fixable when a hosted model's key is not in the environment.
    """
    project = loaded.project
    name = resources.model_name(project)
    made = [_file(project, settings.root / file, file) for file in loaded.files]
    made += _secret(project)
    by_hash = {version.spec.hash: version for version in versions.values()}
    for spec_hash, version in by_hash.items():
        tags = unity_catalog.lineage(version)
        made.append(Resource("model version", f"{name}/{spec_hash[:12]}", {"tags": tags}, {"version": version}))
    for alias, version in versions.items():
        made.append(Resource("alias", f"{name}@{alias}", {"spec_hash": version.spec.hash, "status": "READY"}))
    return made


def dropped(project: Project, versions: Mapping[str, ModelVersion]) -> list[Resource]:
    """Aliases that no version has any more: they are to go, e.g. after a canary was called back."""
    name = resources.model_name(project)
    return [Resource("alias", f"{name}@{alias}") for alias in registry.ALIASES if alias not in versions]


def kinds(settings: Settings, wire: Wire, client: MlflowClient, project: Project) -> dict[str, Kind]:
    """How versions and aliases in Unity Catalog are read and made. Their writes are MLflow's, named on the wire."""
    name, package = resources.model_name(project), jobs.package(target_of(project))
    return {"model version": _version(settings, wire, client, name, package), "alias": _alias(wire, client, name)}


def _version(settings: Settings, wire: Wire, client: MlflowClient, name: str, package: str) -> Kind:
    def number_of(resource: Resource) -> int | None:
        return unity_catalog.find(client, name, resource.given["version"].spec.hash)

    def read(resource: Resource) -> Json | None:
        number = number_of(resource)
        return None if number is None else {"tags": unity_catalog.tags(client, name, number)}

    def publish(resource: Resource) -> None:
        version: ModelVersion = resource.given["version"]
        body = {"source": unity_catalog.source(version), "tags": resource.body["tags"]}
        wire.write(Request("MLFLOW", f"create_model_version {name}", body))
        with whole_parts():
            unity_catalog.publish(settings, client, version, name, package)

    def retag(resource: Resource) -> None:
        wire.write(Request("MLFLOW", f"set_model_version_tag {name}", resource.body["tags"]))
        unity_catalog.tag(client, name, number_of(resource) or 0, resource.body["tags"])

    return Kind(
        read=read,
        create=lambda r: [lambda: publish(r)],
        change=lambda r, there, paths: [lambda: retag(r)],
        delete=lambda r, there: (),  # goes with its registered model
        mine=lambda r, there: True,
    )


def _alias(wire: Wire, client: MlflowClient, name: str) -> Kind:
    def read(resource: Resource) -> Json | None:
        return unity_catalog.named(client, name, resource.name.rpartition("@")[2])

    def point(resource: Resource) -> None:
        alias = resource.name.rpartition("@")[2]
        number = unity_catalog.find(client, name, resource.body["spec_hash"])
        body = {"alias": alias, "version": number or "<the new version>"}
        wire.write(Request("MLFLOW", f"set_registered_model_alias {name}", body))
        unity_catalog.point(client, name, alias, number or 0)

    def drop(resource: Resource) -> None:
        alias = resource.name.rpartition("@")[2]
        wire.write(Request("MLFLOW", f"delete_registered_model_alias {name}", {"alias": alias}))
        unity_catalog.drop(client, name, alias)

    return Kind(
        read=read,
        create=lambda r: [lambda: point(r)],
        change=lambda r, there, paths: [lambda: point(r)],
        delete=lambda r, there: [lambda: drop(r)],
        mine=lambda r, there: True,
    )


def _file(project: Project, path: Path, name: str) -> Resource:
    content = path.read_bytes()
    body = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return Resource("file", f"{jobs.project_folder(project)}/{name}", body, {"path": str(path)})


def _secret(project: Project) -> list[Resource]:
    secret = resources.secret_of(project)
    if secret is None:
        return []
    key, variable = secret
    given: dict[str, Any] = {"value": os.environ.get(variable), "variable": variable}
    return [Resource("secret", f"{target_of(project).secret_scope}/{key}", {}, given)]
