"""An MLflow model that somebody else logged (scikit-learn, XGBoost, a pyfunc of their own), taken in as a base.

The boundary: from a base `pyfunc:models:/NAME@ALIAS`, `pyfunc:models:/NAME/VERSION` or `pyfunc:PATH` to an archive in
the blob store. An alias is resolved once, so that a version is what it was when it was registered. Such a model is
code, and may hold a pickle, which runs code when it is opened: one that does is taken from the project's own registry,
and from a path only where trimtab.yaml says `allow_pickle: true`. Nothing is loaded here.
"""

from __future__ import annotations

import re
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ruamel.yaml import YAML

from trimtab.errors import Fixable
from trimtab.records.project import PYFUNC
from trimtab.records.registry import Weights
from trimtab.store import blobs

if TYPE_CHECKING:
    from mlflow import MlflowClient

_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))")
_PICKLED = (".pkl", ".pickle", ".joblib", ".cloudpickle", ".dill", ".pt", ".pth", ".ckpt")


def take_in(client: MlflowClient, store: Path, root: Path, base: str, allow_pickle: bool) -> Weights:
    """Put a model's archive into the blob store `store`; its name has the alias resolved. `root` is where paths begin.

    Raises Fixable when there is no such model, or when it holds a pickle and may not.
    """
    uri = base.removeprefix(PYFUNC)
    with tempfile.TemporaryDirectory(prefix="trimtab-model-") as scratch:
        if uri.startswith("models:/"):
            name, folder = _from_registry(client, uri, Path(scratch) / "model")
        else:
            name, folder = uri, root / uri
            _check_folder(folder, allow_pickle)
        archive = Path(scratch) / "model.tar"
        pack(folder, archive)
        return Weights(name=f"{PYFUNC}{name}", sha256=blobs.put(store, archive), format="pyfunc")


def pickles(folder: Path) -> list[str]:
    """The files of a model that are, or hold, a pickle; relative to its folder, sorted.

    By their names, their first bytes (PROTO of protocols 2 to 5) and what is in a zip archive (as PyTorch writes it);
    what MLmodel says of the serialization covers the rest. A skops file that brings its own list of trusted types
    counts as one: the list may name anything.
    """
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    found = [name for name, path in files.items() if _is_pickle(path)]
    flavors = _flavors(folder)
    for flavor in flavors.values():
        saved = str(flavor.get("serialization_format", "")).lower()
        if saved in ("pickle", "cloudpickle") or flavor.get("skops_trusted_types"):
            found.append(str(flavor.get("pickled_model") or "MLmodel"))
    return sorted(set(found))


def harmless(folder: Path) -> bool:
    """Whether MLflow may be told to open no pickle. It refuses skops then, too, whatever types a file has."""
    return not pickles(folder) and "sklearn" not in _flavors(folder)


def pack(folder: Path, archive: Path) -> None:
    """A folder as a tar archive that depends on nothing but names and contents. Raises Fixable for a link in it."""
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise Fixable(f"{path} is neither a file nor a folder", "copy the model without links")
            entry = tarfile.TarInfo(str(path.relative_to(folder)))
            entry.mode = 0o755 if path.is_dir() else 0o644
            if path.is_dir():
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
                continue
            entry.size = path.stat().st_size
            with path.open("rb") as file:
                tar.addfile(entry, file)


def _from_registry(client: MlflowClient, uri: str, folder: Path) -> tuple[str, Path]:
    """A registered model version, downloaded, and its name with the version's number."""
    from mlflow.artifacts import download_artifacts

    named = _URI.fullmatch(uri)
    if named is None:
        raise Fixable(f"{uri} names no model version", "write pyfunc:models:/NAME@ALIAS or pyfunc:models:/NAME/VERSION")
    name, version = named["name"], named["version"]
    try:
        if version is None:
            version = client.get_model_version_by_alias(name, named["alias"]).version
        resolved = f"models:/{name}/{version}"
        download_artifacts(resolved, dst_path=str(folder))
    except Exception as error:  # MLflow raises many kinds
        message = f"the MLflow registry does not give {uri}: {str(error).splitlines()[0]}"
        raise Fixable(message, "check the name, and MLFLOW_TRACKING_URI") from error
    _check_model(folder)
    return resolved, folder


def _check_folder(folder: Path, allow_pickle: bool) -> None:
    _check_model(folder)
    if not allow_pickle and (found := pickles(folder)):
        raise Fixable(
            f"{folder} holds a pickle ({', '.join(found[:3])}), which may run anything when it is opened",
            "register it in the project's MLflow and name it pyfunc:models:/NAME@ALIAS, save it as skops, or write "
            "model.allow_pickle: true if you trust who made it",
        )


def _check_model(folder: Path) -> None:
    if not (folder / "MLmodel").is_file():
        raise Fixable(f"{folder} is not an MLflow model: it has no file MLmodel", "give the folder that holds MLmodel")
    if "python_function" not in _flavors(folder):
        raise Fixable(f"{folder} has no flavor python_function", "log it with a flavor that MLflow can load as pyfunc")


def _flavors(folder: Path) -> dict[str, dict[str, object]]:
    try:
        told = YAML(typ="safe").load((folder / "MLmodel").read_text())
    except Exception as error:
        raise Fixable(f"{folder / 'MLmodel'} cannot be read: {error}", "log the model again") from error
    flavors = told.get("flavors") if isinstance(told, dict) else None
    if not isinstance(flavors, dict):
        raise Fixable(f"{folder / 'MLmodel'} names no flavors", "log the model again")
    named = cast("dict[str, object]", flavors).items()
    return {name: cast("dict[str, object]", flavor) for name, flavor in named if isinstance(flavor, dict)}


def _is_pickle(path: Path) -> bool:
    if path.suffix in _PICKLED:
        return True
    with path.open("rb") as file:
        head = file.read(4)
    if len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return True
    if head == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith((".pkl", ".pickle")) for name in archive.namelist())
        except zipfile.BadZipFile:
            return True  # what cannot be looked into is not called harmless
    return False
