"""The engine of an MLflow model: `trimtab.registry.pyfunc_engine`, the one that may import MLflow, as a child process.

The boundary: from a version to a running engine. The model's archive is unpacked once, beside the project's other
files; its bytes are checked against the version each time.
"""

from __future__ import annotations

import secrets
import shutil
import tarfile
import tempfile
from pathlib import Path

from trimtab import processes
from trimtab.errors import Corrupt
from trimtab.records.project import LocalTarget
from trimtab.records.registry import VersionSpec
from trimtab.settings import Settings
from trimtab.store import blobs

MODULE = "trimtab.registry.pyfunc_engine"
START_SECONDS = 300.0
"""Longest wait for a model to load: it imports MLflow and whatever the model is made of."""


def start(settings: Settings, spec: VersionSpec, target: LocalTarget, log: Path) -> tuple[processes.Child, str]:
    """Start the engine of a version; returns the child and its API key.

    `ready` has the `address`, and in `golden` the body of a request that the model has answered before, or None.
    Raises EngineError when the model does not load or cannot answer its own example, Fixable or Corrupt when its
    archive is missing or changed.
    """
    key = secrets.token_urlsafe(24)
    env = {"TRIMTAB_ENGINE_KEY": key, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    env["PYTHONWARNINGS"] = "ignore"  # the model's libraries warn about themselves
    if target.engine_threads:
        env |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(target.engine_threads))
    folder = unpacked(settings, spec.base.sha256)
    return processes.start(MODULE, "--model", str(folder), log=log, env=env, timeout=START_SECONDS), key


def unpacked(settings: Settings, sha256: str) -> Path:
    """The folder of a model, from its archive in the blob store. Raises Fixable or Corrupt."""
    archive = blobs.get(settings.blobs, sha256)
    target = settings.home / "models" / sha256
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix="unpacking-"))
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
        scratch.replace(target)
    except (tarfile.TarError, OSError) as error:
        if not target.is_dir():  # somebody else was faster
            raise Corrupt(f"the model {sha256[:12]}… cannot be unpacked: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target
