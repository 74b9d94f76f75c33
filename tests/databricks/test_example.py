"""The example: its script from provision to destroy, and its notebooks, cell by cell. Rung 3 of the ladder.

Proves that what the example shows runs as it stands. Not: that it runs in a workspace.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from databricks_place import Desk
from standin import Standin

from trimtab import project

EXAMPLE = Path(__file__).parents[2] / "examples" / "databricks"

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(600)]  # MLflow warns about itself


@pytest.fixture
def runs(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs are kept in the desk's database: to make another takes longer than the tests."""
    before = dict(os.environ)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", desk.settings.mlflow_uri)
    for name in ("AZURE_OPENAI_API_KEY", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_the_file_has_no_fault() -> None:
    loaded = project.load(EXAMPLE)
    assert loaded.project.target.databricks is not None


def test_the_walk_goes_from_provision_to_destroy(
    runs: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("walk", EXAMPLE / "walk.py")
    assert spec is not None
    assert spec.loader is not None
    walk = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(walk)
    requests = walk.main(tmp_path)
    said = capsys.readouterr().out
    assert said.count("    > ") == requests > 60
    assert said.count("nothing to do") == len(walk.STEPS) - 1, (
        "each step, destroy too, finds nothing to do when it is run again"
    )
    assert "changed something, 0 while planning" in said
    for request in ("> PUT /subscriptions/", "> POST /api/2.0/serving-endpoints {", "> POST /api/2.2/jobs/create {"):
        assert request in said
    assert '"openai_api_key": "{{secrets/trimtab/azure-api-key}}"' in said
    assert "a-key-for-the-stand-in" not in said


def test_the_notebooks_run(
    runs: None, workspace: Standin, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("trimtab.yaml", "labels.yaml", "prompts/triage.md"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes((EXAMPLE / file).read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "hush")
    execute(EXAMPLE / "1-serve.ipynb")
    assert workspace.of("aliases")["ml.support.support_triage"]["champion"]
    (entity,) = workspace.of("endpoints")["support-triage"]["config"]["served_entities"]
    assert entity["external_model"]["openai_config"]["openai_deployment_name"] == "triage"
    table = "ml.support.support_triage_request_log"
    workspace.of("tables")[table] = {"name": table.rpartition(".")[2], "table_id": "t-1"}
    execute(EXAMPLE / "2-operate.ipynb")
    assert len(workspace.of("jobs")) == 3
    assert "hush" not in capsys.readouterr().out


def execute(notebook: Path) -> None:
    """Run the code cells in order, as a kernel would; %pip lines are for a workspace."""
    scope: dict[str, Any] = {}
    content = json.loads(notebook.read_text("utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    for cell in content["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and not source.startswith("%"):
            assert cell["outputs"] == []
            exec(compile(source, notebook.name, "exec"), scope)  # noqa: S102 (our own notebook)
