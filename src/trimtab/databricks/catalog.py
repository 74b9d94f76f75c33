"""Kinds that hold things: catalog, schema, volume, registered model, experiment, secrets, files of a volume.

What Trimtab made carries a mark (a comment or a tag); what was there before is used and never removed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import NotFound
from databricks.sdk.service.catalog import VolumeType
from databricks.sdk.service.ml import ExperimentTag

from trimtab.databricks.plan import Call, Json, Kind, Resource
from trimtab.databricks.workspace import found
from trimtab.errors import Fixable

COMPARED_BYTES = 4_000_000
"""Files up to this size are compared by content, larger ones by size: their names are hashes."""


def kinds(w: WorkspaceClient) -> dict[str, Kind]:
    """The kinds of this module by name."""
    return {
        "catalog": _catalog(w),
        "schema": _schema(w),
        "volume": _volume(w),
        "registered model": _registered_model(w),
        "experiment": _experiment(w),
        "secret scope": _secret_scope(w),
        "secret": _secret(w),
        "file": _file(w),
    }


def marked(resource: Resource, there: Json) -> bool:
    """Whether what is there has Trimtab's mark as its comment."""
    return there.get("comment") == resource.given["mark"]


def _nothing(resource: Resource, there: Json, paths: Sequence[str]) -> Sequence[Call]:
    return ()


def _catalog(w: WorkspaceClient) -> Kind:
    def kept(resource: Resource, there: Json) -> str:
        usual = {"information_schema", "default", resource.given["schema"]}
        others = {schema.name for schema in w.schemas.list(resource.name)} - usual
        if others:
            return f"holds other schemas: {', '.join(sorted(map(str, others)))}"
        return _tables(w, resource.name, resource.given["schema"])

    def delete(resource: Resource, there: Json) -> Sequence[Call]:
        calls: list[Call] = [lambda: w.catalogs.delete(resource.name)]
        if found(lambda: w.schemas.get(f"{resource.name}.default")) is not None:  # made with every catalog
            calls.insert(0, lambda: w.schemas.delete(f"{resource.name}.default"))
        return calls

    return Kind(
        read=lambda r: found(lambda: w.catalogs.get(r.name)),
        create=lambda r: [lambda: w.catalogs.create(name=r.name, comment=r.given["mark"])],
        change=_nothing,
        delete=delete,
        mine=marked,
        kept=kept,
        shares=True,
    )


def _schema(w: WorkspaceClient) -> Kind:
    return Kind(
        read=lambda r: found(lambda: w.schemas.get(r.name)),
        create=lambda r: [
            lambda: w.schemas.create(name=r.body["name"], catalog_name=r.body["catalog_name"], comment=r.given["mark"])
        ],
        change=_nothing,
        delete=lambda r, there: [lambda: w.schemas.delete(r.name)],
        mine=marked,
        kept=lambda r, there: _tables(w, r.body["catalog_name"], r.body["name"]),
        shares=True,
    )


def _tables(w: WorkspaceClient, catalog: str, schema: str) -> str:
    """Why the schema must stay: it has tables, e.g. the requests that were answered."""
    try:
        names = sorted(str(table.name) for table in w.tables.list(catalog, schema))
    except NotFound:
        return ""
    return f"holds tables: {', '.join(names)} (drop them yourself if nobody needs them)" if names else ""


def _volume(w: WorkspaceClient) -> Kind:
    return Kind(
        read=lambda r: found(lambda: w.volumes.read(r.name)),
        create=lambda r: [
            lambda: w.volumes.create(
                catalog_name=r.body["catalog_name"],
                schema_name=r.body["schema_name"],
                name=r.body["name"],
                volume_type=VolumeType.MANAGED,
                comment=r.given["mark"],
            )
        ],
        change=_nothing,
        delete=lambda r, there: [lambda: w.volumes.delete(r.name)],
        mine=marked,
        shares=True,
    )


def _registered_model(w: WorkspaceClient) -> Kind:
    def delete(resource: Resource, there: Json) -> Sequence[Call]:
        versions = [int(v.version) for v in w.model_versions.list(resource.name) if v.version is not None]
        first: list[Call] = [lambda v=version: w.model_versions.delete(resource.name, v) for version in versions]
        return [*first, lambda: w.registered_models.delete(resource.name)]

    return Kind(
        read=lambda r: found(lambda: w.registered_models.get(r.name)),
        create=lambda r: [lambda: w.registered_models.create(**r.body, comment=r.given["mark"])],
        change=_nothing,
        delete=delete,
        mine=marked,
        shares=True,
    )


def _experiment(w: WorkspaceClient) -> Kind:
    def read(resource: Resource) -> Json | None:
        there = found(lambda: w.experiments.get_by_name(resource.name))
        return there and there.get("experiment")

    def mine(resource: Resource, there: Json) -> bool:
        return {"key": "trimtab", "value": resource.given["project"]} in there.get("tags", [])

    return Kind(
        read=read,
        create=lambda r: [
            lambda: w.experiments.create_experiment(
                r.name, tags=[ExperimentTag(key="trimtab", value=r.given["project"])]
            )
        ],
        change=_nothing,
        delete=lambda r, there: [lambda: w.experiments.delete_experiment(there["experiment_id"])],
        mine=mine,
        shares=True,
    )


def _secret_scope(w: WorkspaceClient) -> Kind:
    """A scope takes no comment: a secret named `trimtab` in it is the mark."""

    def read(resource: Resource) -> Json | None:
        return next((scope.as_dict() for scope in w.secrets.list_scopes() if scope.name == resource.name), None)

    def keys(resource: Resource) -> set[str]:
        return {str(secret.key) for secret in w.secrets.list_secrets(resource.name)}

    def kept(resource: Resource, there: Json) -> str:
        others = keys(resource) - {_SCOPE_MARK, *resource.given["keys"]}
        return f"holds secrets that Trimtab did not put there: {', '.join(sorted(others))}" if others else ""

    return Kind(
        read=read,
        create=lambda r: [
            lambda: w.secrets.create_scope(r.name),
            lambda: w.secrets.put_secret(r.name, _SCOPE_MARK, string_value=r.given["mark"]),
        ],
        change=_nothing,
        delete=lambda r, there: [lambda: w.secrets.delete_scope(r.name)],
        mine=lambda r, there: _SCOPE_MARK in keys(r),
        kept=kept,
        shares=True,
    )


_SCOPE_MARK = "trimtab"


def _secret(w: WorkspaceClient) -> Kind:
    """A key of a hosted model. Secrets cannot be read back: one that is there is left as it is."""

    def read(resource: Resource) -> Json | None:
        scope, key = resource.name.split("/")
        try:
            return next((s.as_dict() for s in w.secrets.list_secrets(scope) if s.key == key), None)
        except NotFound:
            return None

    def create(resource: Resource) -> Sequence[Call]:
        scope, key = resource.name.split("/")
        if not resource.given["value"]:
            variable = resource.given["variable"]
            raise Fixable(f"the secret {resource.name} is not there, and {variable} is not set", f"set {variable}")
        return [lambda: w.secrets.put_secret(scope, key, string_value=resource.given["value"])]

    def delete(resource: Resource, there: Json) -> Sequence[Call]:
        scope, key = resource.name.split("/")
        return [lambda: w.secrets.delete_secret(scope, key)]

    return Kind(read=read, create=create, change=_nothing, delete=delete, mine=lambda r, there: True)


def _file(w: WorkspaceClient) -> Kind:
    def read(resource: Resource) -> Json | None:
        try:
            size = w.files.get_metadata(resource.name).content_length or 0
            if size != resource.body["bytes"] or size > COMPARED_BYTES:
                return {"bytes": size, "sha256": resource.body["sha256"]}
            contents = w.files.download(resource.name).contents
        except NotFound:
            return None
        return {"bytes": size, "sha256": hashlib.sha256(contents.read() if contents else b"").hexdigest()}

    def upload(resource: Resource) -> Any:
        # In parts from 50 MiB on, each tried again by the SDK; what breaks off is aborted, and never half there.
        return w.files.upload_from(resource.name, resource.given["path"], overwrite=True)

    return Kind(
        read=read,
        create=lambda r: [lambda: upload(r)],
        change=lambda r, there, paths: [lambda: upload(r)],
        delete=lambda r, there: [lambda: w.files.delete(r.name)],
        mine=lambda r, there: True,
    )
