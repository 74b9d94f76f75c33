"""What is different while `trimtab job` runs in the workspace: where rows, files and facts are, and who is told values.

Everything that decides is the same code as on a laptop. The control database is one that all jobs reach: its URL is the
secret `database-url` of the scope that trimtab.yaml names. Files are shared in the volume.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trimtab.databricks import jobs, lake_spark, request_log
from trimtab.errors import Fixable
from trimtab.project import Loaded
from trimtab.records.gateway import EngineState
from trimtab.records.project import Project
from trimtab.records.record import utc_now
from trimtab.registry import unity_catalog
from trimtab.settings import Settings
from trimtab.store import key_file
from trimtab.store.control import Control
from trimtab.store.subjects import Subjects

DATABASE_KEY = "database-url"
"""The key of the secret that holds the control database's URL."""
AUDIT_KEY = "audit-key"
"""The key of the secret that holds the text of .trimtab/audit.key, which signs the audit log's checkpoints."""
SUBJECTS_KEY = "subjects-url"
"""The key of the secret that holds the URL of the subjects' keys: without it none is destroyed from here."""
MASTER_KEY = "master-key"
"""The key of the secret that holds the text of .trimtab/master.key: without it a legal hold would not be found."""

log = logging.getLogger(__name__)


def in_workspace() -> bool:
    """Whether this is a job or a notebook of a workspace."""
    return "DATABRICKS_RUNTIME_VERSION" in os.environ


def on_spark(project: Project) -> bool:
    """Whether the project's rows are read by Spark: in a workspace, or where SPARK_REMOTE names a Spark Connect server
    that stands for one."""
    return project.target.databricks is not None and (in_workspace() or "SPARK_REMOTE" in os.environ)


def local_copy(folder: Path) -> Path:
    """A copy of the project's folder on this machine's disk: a volume is no place for locks and half-written files."""
    copy = Path(tempfile.mkdtemp(prefix="trimtab-")) / folder.name
    shutil.copytree(folder, copy)
    return copy


def settings_of(settings: Settings, project: Project) -> Settings:
    """Where things are for a job in the workspace. Raises Fixable when no control database is named."""
    target = jobs.target_of(project)
    url = os.environ.get("TRIMTAB_DATABASE_URL") or _secret(target.secret_scope, DATABASE_KEY)
    if url is None:
        fix = f"put a PostgreSQL URL into the secret {DATABASE_KEY} of the scope {target.secret_scope}"
        raise Fixable("jobs hand over by the control database, and none is named", fix)
    key = _secret(target.secret_scope, AUDIT_KEY)
    if key is None:
        log.warning("the audit log is signed by a key that ends with this job: no secret %s", AUDIT_KEY)
    else:
        key_file.keep(settings.home / "audit.key", key.encode())
    subjects = os.environ.get("TRIMTAB_SUBJECTS_URL") or _secret(target.secret_scope, SUBJECTS_KEY)
    return dataclasses.replace(
        settings,
        database_url=url,
        subjects_url=subjects,
        mlflow_uri=os.environ.get("MLFLOW_TRACKING_URI") or "databricks",
        registry_uri=os.environ.get("MLFLOW_REGISTRY_URI") or unity_catalog.URI,
        unity_schema=f"{target.catalog}.{target.schema}",
        files_url=f"file://{target.volume_path}/files",
    )


def keep_master_key(settings: Settings, project: Project) -> None:
    """Put the project's master key where this job looks for it. Raises Fixable when the scope does not have it."""
    if os.environ.get("TRIMTAB_MASTER_KEY_COMMAND") or os.environ.get("TRIMTAB_MASTER_KEY_FILE"):
        return
    scope = jobs.target_of(project).secret_scope
    text = _secret(scope, MASTER_KEY)
    if text is None:
        fix = f"put the text of .trimtab/master.key into the secret {MASTER_KEY} of the scope {scope}"
        raise Fixable("holds and tombstones know subjects by a keyed hash, and the key is not here", fix)
    key_file.keep(settings.home / "master.key", text.encode())


def lake(project: Project, settings: Settings) -> tuple[lake_spark.SparkLake, Callable[[], int]]:
    """The lake in the catalog, and what brings in the rows that the endpoint's inference table has by now."""
    target, spark = jobs.target_of(project), lake_spark.session()
    names = {name: target.in_catalog(f"{project.name}_{name}") for name in ("inference", "feedback")}
    opened = lake_spark.SparkLake(spark, **names, subjects=Subjects(settings))

    def arrive() -> int:
        payload = jobs.payload_table(project)
        if not spark.catalog.tableExists(payload):
            return 0  # nobody has asked yet
        kind = request_log.generation(spark.read.table(payload).columns)
        entities = request_log.SERVED_ENTITIES
        known = entities if spark.catalog.tableExists(entities) else None  # an account turns its system tables on
        spark.sql(request_log.view(jobs.request_log(project), payload, kind, known)).collect()
        return opened.append(jobs.request_log(project), _versions(settings, project) if in_workspace() else {})

    return opened, arrive


def set_task_values(values: dict[str, str]) -> None:
    """Tell the job: {{tasks.NAME.values.KEY}} is the value in a condition.

    Raises Fixable where they would be dropped, and the job's gate would wait for them in vain.
    """
    dbutils = _dbutils()
    if type(dbutils).__module__ == "databricks.sdk.dbutils":
        fix = "run it as a job's task, on serverless compute or a cluster of this workspace"
        raise Fixable("task values reach no job from here", fix)
    for key, value in values.items():
        dbutils.jobs.taskValues.set(key, value)


def serving(settings: Settings, loaded: Loaded, control: Control) -> Callable[[], None]:
    """What makes the endpoint serve what the control database says: the versions its aliases name, at their shares.

    It returns when the endpoint is ready, and says so in the control database, as the supervisor does on a laptop.
    """
    from trimtab import registry
    from trimtab.databricks import steps

    name = loaded.project.name

    def serve() -> None:
        numbers = {alias: control.alias(name, alias) for alias in registry.ALIASES}
        versions = {alias: registry.get(control, name, n) for alias, n in numbers.items() if n is not None}
        traffic = control.traffic(name)
        share = traffic.percent if traffic and traffic.version is not None else 0.0
        steps.apply(steps.prepare_push(settings, loaded, versions), lambda _: None)
        steps.apply(steps.prepare_deploy(loaded.project, share, versions), lambda _: None)
        for version in versions.values():
            control.set_engine(EngineState(model=name, version=version.version, state="ready", at=utc_now()))

    return serve


def _versions(settings: Settings, project: Project) -> dict[str, str]:
    """The project's number of each version in Unity Catalog, by its number there."""
    client, name = unity_catalog.client_of(settings), jobs.target_of(project).in_catalog(project.name)
    return {str(there): str(here) for there, here in unity_catalog.versions(client, name).items()}


def _secret(scope: str, key: str) -> str | None:
    """A secret's value; None where there is none. Databricks has no error of its own for that."""
    try:
        return str(_dbutils().secrets.get(scope=scope, key=key))
    except Exception as error:
        if "does not exist" in str(error).lower():
            return None
        raise Fixable(f"the secret {key} of the scope {scope} cannot be read: {error}", "grant READ on it") from error


def _dbutils() -> Any:
    """The runtime's own dbutils. Where its notebook namespace is not to be had, as on Spark Connect, databricks-sdk
    hands out one of its own, which works by REST and drops task values: there Databricks' pyspark has the real one.
    """
    from databricks.sdk import runtime

    if runtime.is_local_implementation:
        try:
            own = importlib.import_module("pyspark.dbutils")
        except ImportError:
            return runtime.dbutils
        return own.DBUtils(lake_spark.session())
    return runtime.dbutils
