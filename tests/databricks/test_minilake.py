"""Our requests against an emulator that we did not write: minilake 1.9. Rung 5 of the ladder, for what it implements:
Unity Catalog's containers, volumes and their files, secrets, clusters, jobs, SQL.

Proves that another author read the same API: what we plan is created, found as it should be, and removed. Not: that a
workspace agrees; it has no registered models, serving endpoints, libraries, data profiling or alerts of version 2.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from databricks_place import TARGET

import place
from trimtab import project
from trimtab.databricks import alert_rules, catalog, jobs, plan, resources, running, workspace
from trimtab.databricks.plan import Resource
from trimtab.databricks.wire import Wire
from trimtab.project import Loaded
from trimtab.records.threshold import threshold

pytest.importorskip("minilake", reason="minilake is not installed here: pip install minilake")
pytestmark = pytest.mark.filterwarnings("default")

HAS = ("catalog", "schema", "volume", "secret scope", "file", "cluster", "job")


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("minilake"), place.free_port()
    (folder / "none").mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "MINILAKE_DATA_DIR": str(folder / "data"),
        "MINILAKE_DUCKDB_EXTENSION_DIR": str(folder / "none"),  # so that it downloads none
        "MINILAKE_NOTEBOOK": "0",
        "MINILAKE_CLUSTER_START_DELAY": "0",
    }
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-m", "minilake", "--port", str(port)]
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
        try:
            yield _address(f"http://127.0.0.1:{port}", process, folder / "log")
        finally:
            process.terminate()
            process.wait(120)


def _address(url: str, process: subprocess.Popen[bytes], log: Path) -> str:
    while process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/_minilake/health", timeout=5):  # noqa: S310 (of this machine)
                return url
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture
def loaded(tmp_path: Path, emulator: str, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    monkeypatch.setenv("DATABRICKS_HOST", emulator)
    monkeypatch.setenv("DATABRICKS_TOKEN", "any")
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "databrickscfg"))
    place.make(tmp_path)
    (tmp_path / "trimtab.yaml").write_text(place.FILE + TARGET)
    return project.load(tmp_path)


def wanted(loaded: Loaded, folder: Path) -> list[Resource]:
    made = [
        *resources.containers(loaded.project),
        *resources.cluster(loaded.project, "17.3.x-scala2.13"),
        *resources.scheduled(loaded.project),
    ]
    content = (folder / "prompt.md").read_bytes()
    body = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    name = f"{jobs.project_folder(loaded.project)}/prompt.md"
    made.insert(3, Resource("file", name, body, {"path": str(folder / "prompt.md")}))
    return [resource for resource in made if resource.kind in HAS]


def test_what_the_steps_plan_is_made_found_and_removed(loaded: Loaded, tmp_path: Path) -> None:
    wire = Wire()
    client = workspace.connect(jobs.target_of(loaded.project), wire)
    kinds, want = catalog.kinds(client) | running.kinds(client), wanted(loaded, tmp_path)
    first = plan.plan(wire, kinds, want)
    assert {change.action for change in first} == {"create"}
    plan.apply(kinds, first, lambda _: None)
    again = plan.plan(wire, kinds, want)
    lost = {change.resource.kind: [one.path for one in change.differences] for change in again if change.differences}
    assert lost == {"cluster": ["data_security_mode"]}, "the emulator keeps no security mode, and everything else"

    more = loaded.project.model_copy(
        update={"retrain": loaded.project.retrain.model_copy(update={"when": (_SUNDAYS,)})}
    )
    (changed,) = [one for one in plan.plan(wire, kinds, resources.scheduled(more)) if one.action != "keep"]
    assert [one.path for one in changed.differences] == ["schedule"]
    plan.apply(kinds, [changed], lambda _: None)
    assert {one.action for one in plan.plan(wire, kinds, resources.scheduled(more))} == {"keep"}

    removable = [resource for resource in want if resource.kind != "file"]  # which goes with its volume
    plan.apply(kinds, plan.plan_removal(wire, kinds, removable), lambda _: None)
    assert plan.plan_removal(wire, kinds, removable) == []


_SUNDAYS = "cron: 0 3 * * SUN"


@pytest.mark.parametrize(("slow", "breach"), [(0, 0), (40, 1)])
def test_an_alerts_query_runs_as_a_statement_of_a_warehouse(loaded: Loaded, slow: int, breach: int) -> None:
    client = workspace.connect(jobs.target_of(loaded.project), Wire())
    table = f"logs.log_{slow}"
    rows = ", ".join(
        f"(CURRENT_TIMESTAMP - INTERVAL 1 MINUTE, 200, {3000 if number < slow else 150})" for number in range(200)
    )
    for statement in (
        "CREATE SCHEMA IF NOT EXISTS logs",
        f"CREATE TABLE {table} (request_time TIMESTAMPTZ, status_code INT, execution_duration_ms BIGINT)",
        f"INSERT INTO {table} VALUES {rows}",  # noqa: S608 (of this test)
    ):
        _run(client, statement)
    found = _run(client, alert_rules.sql(threshold("latency_p99 > 2s"), table, "CURRENT_TIMESTAMP"))
    assert [column.name for column in found.manifest.schema.columns] == ["n", "exceeding", "observed", "breach"]
    ((n, exceeding, _, said),) = found.result.data_array
    assert (int(n), int(exceeding), int(said)) == (200, slow, breach)  # as text in a workspace


def _run(client: Any, statement: str) -> Any:
    done = client.statement_execution.execute_statement(statement=statement, warehouse_id=_warehouse(client))
    assert done.status.state.value == "SUCCEEDED", json.dumps(done.as_dict())
    return done


def _warehouse(client: Any) -> str:
    there = next(iter(client.warehouses.list()), None)
    return there.id if there else client.warehouses.create(name="w", cluster_size="2X-Small").id
