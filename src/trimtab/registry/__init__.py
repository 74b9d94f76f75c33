"""Stage 1, register: the one door to MLflow. Versions, aliases, lineage, history.

MLflow holds runs, versions and aliases for its ecosystem. What routes traffic is the control database: an alias is
moved there first, by compare-and-set and with its audit entry, and then shown in MLflow by `show_aliases`.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.errors import Fixable
from trimtab.project import Loaded
from trimtab.providers import pyfunc, weights
from trimtab.records.project import PYFUNC, Project
from trimtab.records.record import utc_now
from trimtab.records.registry import AliasMove, Average, Decoding, ModelVersion, VersionSpec, Weights
from trimtab.records.training import DatasetVersion, TrainingRun
from trimtab.registry import mlflow_model, project_files
from trimtab.responsible import identities
from trimtab.responsible.guards import topics as guards
from trimtab.settings import Settings
from trimtab.store import artifacts
from trimtab.store.control import Control

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

ALIASES = ("champion", "challenger")
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")
"""MLflow's error codes for what is not there."""


def base_weights(settings: Settings, project: Project, base: str) -> Weights:
    """A base that trimtab.yaml names, fetched and checked. Raises Fixable for one that cannot be served here."""
    if base == "echo":
        return Weights(name=base, sha256="", format="echo")
    if base.startswith(PYFUNC):
        allow_pickle, client = project.model.allow_pickle, client_of(settings)
        return mlflow_model.take_in(client, settings.blobs, settings.root, base, allow_pickle)
    if ":" in base and project.provider(base) is not None:
        return Weights(name=base, sha256="", format="hosted")
    if base.startswith("gguf:"):
        path = settings.root / base.removeprefix("gguf:")
        if not path.exists():
            raise Fixable(f"model.base: no file {path}", "give the path of a GGUF file, relative to trimtab.yaml")
        return Weights(name=base, sha256=artifacts.put_blob(settings, path))
    return Weights(name=base, sha256=artifacts.put_blob(settings, weights.fetch(settings.blobs, base)))


def register_base(settings: Settings, loaded: Loaded, show: bool = True) -> ModelVersion:
    """Register the file's model as a version; the first one becomes champion. Same content, same version.

    Without `show` the caller sees to `show_aliases`: a version that is known needs no MLflow, which takes seconds.
    """
    project, control = loaded.project, Control(settings)
    version = register_on(settings, loaded, control, project.model.base, "from trimtab.yaml")
    if control.alias(project.name, "champion") is None:
        move = AliasMove(
            model=project.name,
            alias="champion",
            before=None,
            after=version.version,
            at=utc_now(),
            actor="register",
            reason="the first registered version",
        )
        control.move([move])
    if show:
        show_aliases(settings, control, project.name)
    return version


def register_on(settings: Settings, loaded: Loaded, control: Control, base: str, note: str) -> ModelVersion:
    """The file's prompt, decoding and labels on a base, as a version. Same content, same version. Raises Fixable."""
    project = loaded.project
    spec = VersionSpec(
        model=project.name,
        base=base_weights(settings, project, base),
        prompt=loaded.prompt,
        decoding=Decoding(**project.model.decoding.model_dump(), constrained=loaded.labels is not None),
        labels=loaded.labels,
        masks=tuple(identities.mask_of(identities.pack(m.language), m.axes) for m in project.model.masks),
        average=_average(project),
        rotate=project.model.rotate,
        thresholds=loaded.thresholds if base == project.model.base else None,
        guards=guards.fitted(loaded.guards, loaded.labels),
    )
    return register(settings, control, spec, config_hash=project_files.keep(control, loaded), note=note)


def _average(project: Project) -> Average | None:
    section = project.model.average
    return None if section is None else identities.average_of(identities.pack(section.language), section.axis)


def register_guards(settings: Settings, loaded: Loaded, control: Control) -> ModelVersion:
    """The champion with the guards of the file, as a version. Same content, same version. Raises Fixable."""
    now = champion(control, loaded.project.name)
    spec = now.spec.model_copy(update={"guards": guards.fitted(loaded.guards, now.spec.labels)})
    note = f"version {now.version} with the guards of trimtab.yaml"
    read = project_files.keep(control, loaded)
    return register(settings, control, spec, config_hash=read, note=note, parent=now.version)


def register(
    settings: Settings,
    control: Control,
    spec: VersionSpec,
    *,
    config_hash: str,
    note: str,
    dataset: DatasetVersion | None = None,
    training: TrainingRun | None = None,
    parent: int | None = None,
) -> ModelVersion:
    """One MLflow run and model version for a specification, with lineage tags; found again by the specification's hash.

    Raises Fixable when MLflow cannot be reached, or when thresholds were fitted to another version's scores.
    """
    if spec.thresholds is not None and spec.thresholds.scores_of != spec.scoring_hash:
        raise Fixable(
            "model.thresholds were fitted to the scores of another version: base, adapter, prompt, decoding and labels "
            "must be those they were proved with",
            "fit them anew (`trimtab fairness mitigate --method thresholds`), or remove them",
        )
    known = [v for v in control.facts("version", ModelVersion, f"{spec.model}/") if v.spec.hash == spec.hash]
    if known:
        return known[-1]
    lineage = {
        "trimtab.spec_hash": spec.hash,
        "trimtab.config_hash": config_hash,
        "trimtab.base": spec.base.name,
        "trimtab.base_sha256": spec.base.sha256,
        "trimtab.data_hash": dataset.hash if dataset else "",
        "trimtab.parent_version": str(parent or ""),
        **_of_provider(training),
    }
    number, run_id = _log_version(settings, spec, lineage, dataset, training, note)
    version = ModelVersion(
        spec=spec,
        version=number,
        run_id=run_id,
        config_hash=config_hash,
        data_hash=dataset.hash if dataset else None,
        parent=parent,
        created_at=utc_now(),
        note=note,
    )
    control.put("version", f"{spec.model}/{number}", version)
    return version


def get(control: Control, model: str, number: int) -> ModelVersion:
    """A registered version. Raises Fixable when there is none of that number."""
    version = control.get("version", f"{model}/{number}", ModelVersion)
    if version is None:
        raise Fixable(f"{model} has no version {number}", "run `trimtab history` to see the versions")
    return version


def champion(control: Control, model: str) -> ModelVersion:
    """The version that answers now. Raises Fixable when nothing is registered."""
    number = control.alias(model, "champion")
    if number is None:
        raise Fixable(f"{model} has no champion", "run `trimtab register` first")
    return get(control, model, number)


def history(control: Control, model: str) -> list[AliasMove]:
    """Every move of every alias, oldest first: what was live when, and why."""
    return control.facts("alias_move", AliasMove, f"{model}/")


def show_aliases(settings: Settings, control: Control, model: str) -> None:
    """Make MLflow's aliases say what the control database says. A registry that is away is logged, not fatal."""
    try:
        client, name = client_of(settings), registered_name(settings, model)
        shown = dict(client.get_registered_model(name).aliases)
        for alias in ALIASES:
            version = control.alias(model, alias)
            if version is None and alias in shown:
                client.delete_registered_model_alias(name, alias)
            elif version is not None and str(shown.get(alias)) != str(version):
                client.set_registered_model_alias(name, alias, str(version))
    except Exception as error:  # MLflow raises many kinds; routing does not depend on it
        log.warning("MLflow does not show the aliases of %s yet: %s", model, error)


def show_checkpoint(settings: Settings, model: str, note: str) -> None:
    """Keep the audit log's newest checkpoint as a tag of the registered model. ConnectionError: MLflow is away."""
    try:
        client, name = client_of(settings), registered_name(settings, model)
        client.set_registered_model_tag(name, "trimtab.audit_checkpoint", note)
    except Exception as error:  # MLflow raises many kinds
        raise ConnectionError(f"MLflow does not take the checkpoint: {error}") from error


def log_metrics(settings: Settings, version: ModelVersion, metrics: Mapping[str, float]) -> None:
    """Add metrics to a version's run, e.g. what the gates measured."""
    client = client_of(settings)
    for name, value in metrics.items():
        client.log_metric(version.run_id, name, value)


def log_text(settings: Settings, version: ModelVersion, text: str, file: str) -> None:
    """Add a text artifact to a version's run, e.g. its model card."""
    client_of(settings).log_text(version.run_id, text, file)


def registered_name(settings: Settings, model: str) -> str:
    """What the registry calls a model of this project: in Unity Catalog catalog.schema.name, `-` written `_`.

    Raises Fixable when the registry is Unity Catalog and TRIMTAB_UNITY_SCHEMA does not say where in it.
    """
    if not settings.registry_uri.startswith("databricks-uc"):
        return model
    if not re.fullmatch(r"[^.\s]+\.[^.\s]+", settings.unity_schema):
        given = f"TRIMTAB_UNITY_SCHEMA is {settings.unity_schema!r}" if settings.unity_schema else "no schema is named"
        raise Fixable(f"the registry is Unity Catalog, and {given}", "set TRIMTAB_UNITY_SCHEMA to catalog.schema")
    return f"{settings.unity_schema}.{model.replace('-', '_')}"


def number_of(client: MlflowClient, name: str, spec_hash: str) -> int | None:
    """The newest version of a registered model with this specification; None when there is none, or no such model.

    Versions that are not ready are passed over: where an upload broke off, one is left that will never be.
    """
    from mlflow.exceptions import MlflowException

    try:
        versions = sorted(client.search_model_versions(f"name = '{name}'"), key=lambda v: -int(v.version))
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise
    for version in versions:
        if version.status != "READY":
            continue
        found = version.tags if isinstance(version.tags, dict) else None  # Unity Catalog answers a search without tags
        tags = client.get_model_version(name, version.version).tags if found is None else found
        if tags.get("trimtab.spec_hash") == spec_hash:
            return int(version.version)
    return None


def client_of(settings: Settings) -> MlflowClient:
    """MLflow's client of this project; telemetry is off."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    # MLflow looks for a Spark session where Spark's client is installed, and that one has something to say of pandas.
    warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas", FutureWarning)
    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)  # a new database is no news to the reader
    given = "MLFLOW_TRACKING_URI" in os.environ
    mlflow.set_tracking_uri(settings.mlflow_uri)
    if not given:  # MLflow writes it there, where the settings of another project in this process would find it
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    settings.home.mkdir(parents=True, exist_ok=True)
    _start_from_migrated(settings)
    # Named for this client alone: where none is, MLflow imports Spark to ask its session for one.
    return mlflow.MlflowClient(registry_uri=settings.registry_uri or settings.mlflow_uri)


def _start_from_migrated(settings: Settings) -> None:
    """Begin a project's database as a copy of an empty one that MLflow has migrated once: each time takes seconds.

    Where no copy can be made (a cache that is read-only or full), MLflow migrates a new one itself.
    """
    database = Path(settings.mlflow_uri.removeprefix("sqlite:///"))
    if database.parent != settings.home or database.exists():
        return
    import mlflow

    empty = settings.blobs.parent / f"mlflow-{mlflow.__version__}.db"
    with suppress(OSError), tempfile.TemporaryDirectory(dir=database.parent) as folder:
        if not empty.exists():
            _migrate(empty)
        os.link(shutil.copyfile(empty, Path(folder) / database.name), database)  # unless another process was quicker


def _migrate(place: Path) -> None:
    """An empty database with MLflow's tables of this release."""
    from mlflow.store.db import utils

    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        fresh = Path(folder) / place.name
        engine = utils.create_sqlalchemy_engine(f"sqlite:///{fresh}")
        utils._initialize_tables(engine)
        engine.dispose()
        fresh.replace(place)


def _log_version(
    settings: Settings,
    spec: VersionSpec,
    lineage: dict[str, str],
    dataset: DatasetVersion | None,
    training: TrainingRun | None,
    note: str,
) -> tuple[int, str]:
    client, name = client_of(settings), registered_name(settings, spec.model)
    if not _is_registered(client, name):
        client.create_registered_model(name, description="Managed by Trimtab.")
    if (found := number_of(client, name, spec.hash)) is not None:
        return found, client.get_model_version(name, str(found)).run_id or ""
    run_id = _run(client, settings, spec, lineage)
    for parameter, value in _params(spec, dataset, training).items():
        client.log_param(run_id, parameter, value)
    losses = {"first": training.loss_first, "last": training.loss_last} if training else {}
    for when, loss in losses.items():
        if loss is not None:
            client.log_metric(run_id, f"train/loss_{when}", loss)
    if spec.base.format == "pyfunc":
        source, model_id = _copy_model(client, settings, spec, run_id), None
    else:
        info = _log_model(settings, spec, run_id)
        source, model_id = info.model_uri, info.model_id
    version = client.create_model_version(
        name, source=source, run_id=run_id, tags=lineage, description=note, model_id=model_id
    )
    client.set_terminated(run_id)
    return int(version.version), run_id


def _is_registered(client: MlflowClient, name: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code in ABSENT:
            return False
        raise
    return True


def _run(client: MlflowClient, settings: Settings, spec: VersionSpec, lineage: dict[str, str]) -> str:
    remote = settings.mlflow_uri.startswith("databricks")  # where an experiment is a path, and keeps its own artifacts
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or (f"/Shared/{spec.model}" if remote else spec.model)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        artifacts = None if remote else settings.mlflow_artifacts.as_uri()
        identity = client.create_experiment(name, artifact_location=artifacts)
    else:
        identity = experiment.experiment_id
    unfinished = client.search_runs(
        [identity], f"tags.`trimtab.spec_hash` = '{spec.hash}' and attributes.status = 'RUNNING'"
    )
    if unfinished:
        return unfinished[0].info.run_id
    return client.create_run(identity, tags=lineage, run_name=f"register {spec.hash[:8]}").info.run_id


def _of_provider(training: TrainingRun | None) -> dict[str, str]:
    """Lineage of a model that a provider fine-tuned: its job, its files and what was in them."""
    made = training.hosted if training else None
    if made is None:
        return {}
    files = {f"trimtab.{part}_file": identity for part, identity in made.files.items()}
    job = {"trimtab.fine_tuning_job": made.job, "trimtab.fine_tuned_model": made.model}
    return job | files | {"trimtab.training_file_sha256": made.sha256}


def _params(spec: VersionSpec, dataset: DatasetVersion | None, training: TrainingRun | None) -> dict[str, Any]:
    params: dict[str, Any] = {
        "base": spec.base.name,
        "examples": len(spec.prompt.examples),
        **spec.decoding.model_dump(),
    }
    if dataset:
        params |= {
            "data.n_train": dataset.n_train,
            "data.n_holdout": dataset.n_holdout,
            "data.mitigation": dataset.mitigation,
        }
    if training:
        params |= {f"{training.method}.{name}": value for name, value in training.params.items()}
        params |= {"steps": training.steps}
    return params


def _copy_model(client: MlflowClient, settings: Settings, spec: VersionSpec, run_id: str) -> str:
    """Put an MLflow model that somebody else logged into a version's run, as it is; returns where."""
    client.log_artifacts(run_id, str(pyfunc.unpacked(settings, spec.base.sha256)), "model")
    return f"{client.get_run(run_id).info.artifact_uri}/model"


def _log_model(settings: Settings, spec: VersionSpec, run_id: str) -> Any:
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    from trimtab import __version__

    signature = ModelSignature(
        inputs=Schema([ColSpec("string", "input")]), outputs=Schema([ColSpec("string", "output")])
    )
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, str] = {}
        if spec.adapter_sha256:
            adapter = Path(folder) / "adapter.gguf"
            adapter.write_bytes(artifacts.blob(settings, spec.adapter_sha256).read_bytes())
            files["adapter"] = str(adapter)
        warnings.filterwarnings("ignore", message=".*An input example was not provided")  # the signature is given
        with mlflow.start_run(run_id=run_id):
            return mlflow.pyfunc.log_model(
                name="model",
                python_model=str(Path(__file__).with_name("pyfunc_model.py")),
                artifacts=files or None,
                model_config={"spec": spec.model_dump_json()},
                signature=signature,
                pip_requirements=[f"trimtab=={__version__}"],
            )


def spark_function(spark: Any, model_uri: str) -> Any:
    """A registered version as a function of a column of texts, for Spark. The workers' own environment answers.

    An alias is resolved here and now: over Spark Connect MLflow keeps a loaded model by its URI, so that the next
    function of the same session would go on with the version that the alias named before.
    """
    import mlflow.pyfunc

    if found := re.fullmatch(r"models:/([^/@]+)@([^/@]+)", model_uri):
        name, alias = found.groups()
        model_uri = f"models:/{name}/{mlflow.MlflowClient().get_model_version_by_alias(name, alias).version}"
    return mlflow.pyfunc.spark_udf(spark, model_uri, result_type="string", env_manager="local")
