"""The bundle. Rung 1 of the ladder: the types of databricks-bundles 1.22.1 take every resource, and lose nothing.

Proves names, enumerations, required fields and types; not that a workspace accepts it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from databricks.bundles.core._resource_type import _ResourceType
from ruamel.yaml import YAML

from trimtab.databricks import bundle
from trimtab.records.project import Project

TYPES = {kind.plural_name: kind.resource_type for kind in _ResourceType.all()}
"""The vendor's dataclass of each type of resource, as a bundle calls it."""

SERVERLESS: dict[str, Any] = {"host": "https://adb-1.2.azuredatabricks.net", "alerts": {"emails": ("a@example.com",)}}
CLUSTER: dict[str, Any] = {"compute": "cluster", "monitor": {"when": "cron: 0 * * * *", "granularity": "5 minutes"}}


def project(base: str = "echo", **target: Any) -> Project:
    return Project.model_validate(
        {
            "name": "support-triage",
            "model": {"base": base, "prompt": "p.md"},
            "retrain": {"when": ("cron: 0 3 * * SUN",)},
            "target": {"databricks": {"catalog": "ml", "schema": "support", **target}},
            "alerts": ({"on": ("error_rate > 2%", "latency_p99 > 2s"), "notify": ("log",)},),
            "providers": {"azure": {"base_url": "https://x.openai.azure.com/openai/v1", "key_env": "AZURE_KEY"}},
        }
    )


def resources(folder: Path) -> dict[str, dict[str, Any]]:
    """What `databricks.yml` includes, by type and key."""
    main = YAML(typ="safe").load(folder / "databricks.yml")
    (pattern,) = main["include"]
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob(pattern)):
        for kind, named in YAML(typ="safe").load(file)["resources"].items():
            assert kind not in found
            found[kind] = named
    return found


@pytest.mark.parametrize("made", [project(**SERVERLESS), project(**CLUSTER), project("azure:gpt-5-mini")])
def test_the_vendors_types_take_every_resource_and_lose_nothing(made: Project, tmp_path: Path) -> None:
    bundle.write(bundle.plan(made, tmp_path))
    found = resources(tmp_path)
    assert {"schemas", "volumes", "registered_models", "experiments", "model_serving_endpoints", "jobs"} <= found.keys()
    assert {"quality_monitors", "alerts", "secret_scopes"} <= found.keys()
    assert [alert["display_name"] for alert in found["alerts"].values()] == [
        f"support-triage: {what}" for what in ("error rate", "error_rate > 2%", "latency_p99 > 2s")
    ]
    for kind, named in found.items():
        for key, body in named.items():
            assert TYPES[kind].from_dict(body).as_dict() == body, f"{kind}.{key}"
    bad = {**found["jobs"]["retrain"], "max_concurent_runs": 1}
    with pytest.raises(ValueError, match="max_concurent_runs"):  # what the types are worth
        TYPES["jobs"].from_dict(bad)


def test_the_vendors_build_step_has_no_diagnostics(tmp_path: Path) -> None:
    """Started as the Databricks CLI starts it, over the merged bundle of a target."""
    bundle.write(bundle.plan(project(**SERVERLESS), tmp_path))
    main, found = YAML(typ="safe").load(tmp_path / "databricks.yml"), resources(tmp_path)
    merged = {"bundle": {**main["bundle"], "target": "dev"}, "variables": main["variables"], "resources": found}
    built, diagnostics = build(merged, tmp_path)
    assert diagnostics == []
    assert built["resources"] == found
    found["jobs"]["retrain"]["tasks"][0]["task_kee"] = "curate"
    _, (fault,) = build(merged, tmp_path)
    assert (fault["severity"], fault["path"]) == ("error", "resources.jobs.retrain")
    assert "task_kee" in fault["detail"]


def build(merged: dict[str, Any], folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the vendor's step makes of a bundle, and what it says about it."""
    files = {name: str(folder / f"{name}.json") for name in ("input", "output", "diagnostics", "locations")}
    Path(files["input"]).write_text(json.dumps(merged))
    options = [part for name, path in files.items() for part in (f"--{name}", path)]
    command = [sys.executable, "-m", "databricks.bundles.build", "--phase", "apply_mutators", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = [json.loads(line) for line in Path(files["diagnostics"]).read_text().splitlines()]
    assert done.returncode == bool(said), done.stderr
    return json.loads(Path(files["output"]).read_text() or "{}"), said


@pytest.mark.parametrize("made", [project(**SERVERLESS), project(**CLUSTER)])
def test_every_reference_is_to_something_in_the_bundle(made: Project, tmp_path: Path) -> None:
    bundle.write(bundle.plan(made, tmp_path))
    main, found = YAML(typ="safe").load(tmp_path / "databricks.yml"), resources(tmp_path)
    texts = [path.read_text() for path in tmp_path.rglob("*.yml")]
    referred = {part.split("}")[0] for text in texts for part in text.split("${")[1:]}
    for reference in referred:
        first, *path = reference.split(".")
        if first == "var":
            assert path[0] in main["variables"]
        else:
            assert path[1] in found[path[0]], reference
    assert {f"var.{name}" for name in main["variables"]} <= referred
    assert main["targets"].keys() == {"dev", "prod"}
    assert [name for name, target in main["targets"].items() if target.get("default")] == ["dev"]
    tasks = {task["task_key"]: task for task in found["jobs"]["drift_monitor"]["tasks"]}
    assert tasks["retrain"]["run_job_task"]["job_id"] == "${resources.jobs.retrain.id}"


def test_only_what_trimtab_wrote_is_overwritten_and_first_shown(tmp_path: Path) -> None:
    assert {file.action for file in bundle.plan(project(), tmp_path)} == {"create"}
    assert list(tmp_path.iterdir()) == []
    bundle.write(bundle.plan(project(), tmp_path))
    assert {file.action for file in bundle.plan(project(), tmp_path)} == {"keep"}

    mine = tmp_path / "resources" / "jobs.yml"
    mine.write_text(mine.read_text().replace("queue:", "queue: # mine"))
    stranger = tmp_path / "resources" / "serving.yml"
    stranger.write_text("resources: {}\n")
    before = {path: path.read_text() for path in (mine, stranger)}
    paused = project(paused=True, volume="other")
    planned = {file.path.name: file for file in bundle.plan(paused, tmp_path)}
    assert {name: file.action for name, file in planned.items()} == {
        "databricks.yml": "keep",
        "data.yml": "change",
        "serving.yml": "yours",
        "jobs.yml": "yours",
        "monitoring.yml": "change",
        "request_log.sql": "keep",
    }
    assert any(line.startswith("+") and "name: other" in line for line in planned["data.yml"].difference)
    bundle.write(list(planned.values()))
    assert {path: path.read_text() for path in before} == before
    assert "name: other" in (tmp_path / "resources" / "data.yml").read_text()
