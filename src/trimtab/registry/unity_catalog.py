"""Versions in Unity Catalog, by MLflow's own client: `databricks-uc` refuses a model without a signature, and knows no
stages, only aliases. A name there is catalog.schema.model; MLflow does not check that, so we do.

Source of the sequence: MLflow 3.17, `store/_unity_catalog/registry/rest_store.py`.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab import __version__, registry
from trimtab.errors import Fixable
from trimtab.logs import redacted
from trimtab.records.registry import ModelVersion
from trimtab.settings import Settings
from trimtab.store import blobs

if TYPE_CHECKING:
    from mlflow import MlflowClient

URI = "databricks-uc"


def client_of(settings: Settings, uri: str = URI) -> MlflowClient:
    """A client whose registry is Unity Catalog (`databricks-uc`, or `databricks-uc://PROFILE`); runs stay here."""
    registry.client_of(settings)
    logging.getLogger("mlflow.store._unity_catalog").setLevel(logging.ERROR)  # runs are kept here, as intended
    import mlflow

    return mlflow.MlflowClient(tracking_uri=settings.mlflow_uri, registry_uri=uri)


def check_name(name: str) -> str:
    """The name, when it has three levels. Raises Fixable otherwise."""
    if not re.fullmatch(r"[^.\s/]+\.[^.\s/]+\.[^.\s/]+", name):
        raise Fixable(f"{name} is no name for Unity Catalog", "write catalog.schema.model")
    return name


def find(client: MlflowClient, name: str, spec_hash: str) -> int | None:
    """The newest version with this specification; None when there is none. Raises Fixable."""
    with _translated(f"looking for versions of {check_name(name)}"):
        return registry.number_of(client, name, spec_hash)


def tags(client: MlflowClient, name: str, number: int) -> dict[str, str]:
    """The tags of a version. Raises Fixable."""
    return dict(_version(client, name, number).tags)


def named(client: MlflowClient, name: str, alias: str) -> dict[str, str] | None:
    """Specification and status (READY, or what became of its upload) of the version that an alias names, or None.

    Raises Fixable.
    """
    number = aliases(client, name).get(alias)
    if number is None:
        return None
    version = _version(client, name, number)
    return {"spec_hash": version.tags.get("trimtab.spec_hash", ""), "status": version.status}


def aliases(client: MlflowClient, name: str) -> dict[str, int]:
    """Versions by alias; empty for a model that is not there. Raises Fixable."""
    from mlflow.exceptions import MlflowException

    with _translated(f"reading the aliases of {check_name(name)}"):
        try:
            shown = client.get_registered_model(name).aliases
        except MlflowException as error:
            if error.error_code in registry.ABSENT:
                return {}
            raise
    return {alias: int(number) for alias, number in dict(shown).items()}


def versions(client: MlflowClient, name: str) -> dict[int, int]:
    """This project's number of each version that it published, by its number there. Raises Fixable."""
    with _translated(f"reading the versions of {check_name(name)}"):
        numbers = [int(found.version) for found in client.search_model_versions(f"name = '{name}'")]
    known = {number: tags(client, name, number).get("trimtab.version") for number in numbers}
    return {there: int(here) for there, here in known.items() if here is not None}


def publish(settings: Settings, client: MlflowClient, version: ModelVersion, name: str, package: str) -> int:
    """Register a version of this project in Unity Catalog; it stands alone there: base weights are an artifact.

    `package`: the requirement that installs Trimtab where the model is served. Returns the number it got there. Raises
    Fixable, e.g. for a model without a signature.
    """
    check_name(name)
    from mlflow.artifacts import download_artifacts

    with _translated(f"registering {name}"), tempfile.TemporaryDirectory() as folder:
        model = Path(download_artifacts(source(version), dst_path=folder, tracking_uri=settings.mlflow_uri))
        _stand_alone(settings, version, model, package)
        made = client.create_model_version(
            name, source=str(model), tags=lineage(version), description=version.note, await_creation_for=0
        )
    return int(made.version)


def source(version: ModelVersion) -> str:
    """Where this project keeps a version's model: with its run, whichever registry MLFLOW_REGISTRY_URI names."""
    return f"runs:/{version.run_id}/model"


def tag(client: MlflowClient, name: str, number: int, wanted: dict[str, str]) -> None:
    """Set tags of a version. Raises Fixable."""
    with _translated(f"tagging {name} version {number}"):
        for key, value in wanted.items():
            client.set_model_version_tag(name, str(number), key, value)


def point(client: MlflowClient, name: str, alias: str, number: int) -> None:
    """Let an alias name a version. Raises Fixable."""
    with _translated(f"moving the alias {alias} of {name}"):
        client.set_registered_model_alias(name, alias, str(number))


def drop(client: MlflowClient, name: str, alias: str) -> None:
    """Let an alias name nothing. Raises Fixable."""
    with _translated(f"dropping the alias {alias} of {name}"):
        client.delete_registered_model_alias(name, alias)


def lineage(version: ModelVersion) -> dict[str, str]:
    """Where a version in Unity Catalog comes from: tags of one that this project registered here."""
    tags = {
        "trimtab.spec_hash": version.spec.hash,
        "trimtab.config_hash": version.config_hash,
        "trimtab.base_sha256": version.spec.base.sha256,
        "trimtab.data_hash": version.data_hash,
        "trimtab.version": str(version.version),
        "trimtab.run_id": version.run_id,
        "trimtab.parent_version": str(version.parent or ""),
    }
    return {key: value for key, value in tags.items() if value}


def _stand_alone(settings: Settings, version: ModelVersion, model: Path, package: str) -> None:
    """Add the base weights to a downloaded model, and name the package that serves it."""
    from mlflow.models import Model

    if version.spec.base.sha256:
        (model / "artifacts").mkdir(exist_ok=True)
        shutil.copyfile(blobs.get(settings.blobs, version.spec.base.sha256), model / "artifacts" / "base.gguf")
        description = Model.load(str(model))
        flavor = description.flavors["python_function"]
        base = {"path": "artifacts/base.gguf", "uri": f"sha256:{version.spec.base.sha256}"}
        flavor["artifacts"] = {**(flavor.get("artifacts") or {}), "base": base}
        description.save(str(model / "MLmodel"))
    for name in ("requirements.txt", "conda.yaml"):
        file = model / name
        if file.exists():
            file.write_text(file.read_text("utf-8").replace(f"trimtab=={__version__}", package), "utf-8")


def _version(client: MlflowClient, name: str, number: int) -> Any:
    with _translated(f"reading {name} version {number}"):
        return client.get_model_version(name, str(number))


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        text = redacted(str(error).strip().split("\n", 1)[0])
        raise Fixable(f"while {doing}: {text}", _fix(error.error_code, text)) from error


def _fix(code: str, text: str) -> str:
    if "access token" in text or code == "UNAUTHENTICATED":
        return "log in again: `databricks auth login`, or a new DATABRICKS_TOKEN"
    if "signature" in text:
        return "register the version here again: `trimtab register` logs every model with its signature"
    if code == "PERMISSION_DENIED":
        return "ask an owner for CREATE MODEL VERSION on the model and USE on its catalog and schema"
    if code in registry.ABSENT:
        return "run `trimtab databricks init --apply` first"
    return "wait a few minutes and run the command again; what was done is kept"
