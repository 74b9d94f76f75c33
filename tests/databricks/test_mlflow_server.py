"""Tracking and registry through MLflow's `databricks` scheme. Rung 4 of the ladder: a real open-source `mlflow server`.

Proves that our registry works through the code path of a workspace: host and token from the environment, REST, aliases.
Not: Unity Catalog, which the open-source server does not have (test_steps has that sequence).
"""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from databricks_place import Desk

import place
from trimtab import project, registry, settings
from trimtab.store.control import Control

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(600)]  # MLflow warns about itself


@pytest.fixture(scope="module")
def server(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow server on the desk's database: making another one would take longer than the tests."""
    folder, port = tmp_path_factory.mktemp("server"), place.free_port()
    url = f"http://127.0.0.1:{port}"
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--no-serve-artifacts"]
    where = ["--backend-store-uri", desk.settings.mlflow_uri, "--default-artifact-root", (folder / "runs").as_uri()]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "PATH": "/usr/bin:/bin"}
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-m", "mlflow", "server", *options, *where]
        process = subprocess.Popen(command, env=quiet, stdout=log, stderr=log)
        try:
            _wait(url, process, folder / "log")
            yield url
        finally:
            process.terminate()
            process.wait(120)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    while process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):  # noqa: S310 (of this machine)
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def test_a_version_is_registered_tagged_and_named_by_alias(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "databricks")  # the workspace's registry; databricks-uc is Unity Catalog
    monkeypatch.setenv("DATABRICKS_HOST", server)
    monkeypatch.setenv("DATABRICKS_TOKEN", "any")
    place.make(tmp_path)
    text = (tmp_path / "trimtab.yaml").read_text().replace("name: desk", "name: remote-desk")
    (tmp_path / "trimtab.yaml").write_text(text)
    where, loaded = settings.load(tmp_path), project.load(tmp_path)
    assert where.mlflow_uri == "databricks"
    version = registry.register_base(where, loaded)
    assert registry.register_base(where, loaded) == version
    client = registry.client_of(where)
    shown = client.get_model_version("remote-desk", str(version.version))
    assert shown.tags["trimtab.spec_hash"] == version.spec.hash
    assert registry.champion(Control(where), "remote-desk") == version
    assert "'set_registered_model_alias' is unsupported for models in the Workspace Model Registry" in caplog.text
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", server)  # of the same server without the scheme, which has aliases
    open_source = settings.load(tmp_path)
    registry.show_aliases(open_source, Control(where), "remote-desk")
    named = registry.client_of(open_source).get_model_version_by_alias("remote-desk", "champion")
    assert (named.version, named.tags["trimtab.spec_hash"]) == (str(version.version), version.spec.hash)
    run = client.get_run(version.run_id)
    assert run.data.params["base"] == "echo"
    assert client.get_experiment(run.info.experiment_id).name == "/Shared/remote-desk"
