"""The whole loop with the real model, as `make demo` runs it; then a person presses Undo on the dashboard.

The statistics decide how the loop ends, so the test does not: it checks that what happened is consistent and on record.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from trimtab import processes, registry, settings
from trimtab.records.lifecycle import CycleEnd, Step
from trimtab.records.monitor import Alert
from trimtab.records.promotion import Decision
from trimtab.records.registry import ModelVersion
from trimtab.records.training import TrainingRun
from trimtab.store.control import Control
from trimtab.store.lake import Lake

CHROMIUM = shutil.which("chromium")

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(1700)]


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("tour") / "demo"
    command = [sys.executable, "-m", "trimtab", "demo", str(folder), "--no-undo"]
    # NiceGUI would take a child that sees PYTEST_CURRENT_TEST for a test of its own.
    env = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    done = subprocess.run(command, capture_output=True, text=True, env=env | {"COLUMNS": "200"})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    print(done.stdout[-3500:])
    return folder, done.stdout


def test_every_answer_is_one_row_and_none_failed(tour: tuple[Path, str]):
    folder, shown = tour
    rows = Lake(settings.load(folder)).sample(0, 10_000, ["databricks_request_id", "outcome"])
    assert rows["databricks_request_id"].is_unique().all()
    assert set(rows["outcome"]) == {"ok"}
    assert f"{rows.height} answers, 0 failed, {rows.height} rows" in shown


def test_drift_is_found_and_starts_a_cycle_that_ends_with_a_decision(tour: tuple[Path, str]):
    control = Control(settings.load(tour[0]))
    drift = [alert for alert in control.facts("alert", Alert) if alert.kind == "input_drift"]
    assert drift
    assert drift[0].title
    (end,) = control.facts("cycle_end", CycleEnd)
    decisions = control.facts("decision", Decision)
    assert decisions
    for decision in decisions:
        assert {gate.gate for gate in decision.gates} == {"quality", "fairness", "latency"}
        assert all(gate.n > 0 and gate.value is not None for gate in decision.gates)
    assert (end.outcome == "promoted") == (decisions[-1].outcome == "promote")
    first, *mitigated = control.facts("training_run", TrainingRun)
    assert first.start_adapter_sha256 is None
    assert all(run.start_adapter_sha256 == first.adapter_sha256 for run in mitigated)
    steps = [(step.attempt, step.name) for step in control.facts("step", Step)]
    assert len(steps) == len(set(steps))


def test_mlflow_the_history_and_the_audit_chain_agree(tour: tuple[Path, str]):
    import mlflow

    where = settings.load(tour[0])
    control = Control(where)
    champion = control.alias("support-triage", "champion")
    client = mlflow.MlflowClient(where.mlflow_uri)
    assert int(client.get_model_version_by_alias("support-triage", "champion").version) == champion
    assert registry.history(control, "support-triage")
    assert control.audit_faults() == []
    for version in control.facts("version", ModelVersion)[1:]:
        assert (where.cards / f"support-triage-{version.version}.md").read_text().startswith("---\n")
        assert client.get_model_version("support-triage", str(version.version)).tags["trimtab.data_hash"]


def test_undo_on_the_page_of_the_finished_loop_brings_the_earlier_version_back(
    tour: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TRIMTAB_DASHBOARD_PORT", "0")
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)
    folder, _ = tour
    control = Control(settings.load(folder))
    (end,) = control.facts("cycle_end", CycleEnd)
    if end.outcome != "promoted":
        pytest.skip(f"nothing to undo: this run's cycle {end.outcome} ({end.summary})")
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine: the page was not looked at")
    child = processes.start("trimtab.web", "--project", str(folder), "--page-only", log=folder / "page.log")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page()
            page.goto(f"http://{child.ready['address']}/")
            expect(page.get_by_test_id("champion")).to_have_text(f"version {end.version}", timeout=30_000)
            page.get_by_test_id("undo").click()
            page.get_by_test_id("undo-confirm").click()
            expect(page.get_by_test_id("champion")).to_have_text("version 1", timeout=30_000)
            browser.close()
    finally:
        child.stop()
    assert control.alias("support-triage", "champion") == 1
    assert registry.history(control, "support-triage")[-1].actor == "dashboard"
