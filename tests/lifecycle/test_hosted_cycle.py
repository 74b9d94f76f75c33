"""A provider's fine-tune through the whole loop: kill -9 in the middle, gates, canary, promotion, rollback.

Rung: the command line as a process, against an independent emulator of the provider (aimock) that it trains and asks.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mlflow
import msgspec
import pytest
import triage
from triage import MODEL

from emulator import KEY, emulator
from running import kill, until
from trimtab import project, registry
from trimtab import settings as environment
from trimtab.promotion import apply
from trimtab.records.gateway import EngineState
from trimtab.records.lifecycle import CycleEnd
from trimtab.records.promotion import Decision
from trimtab.records.record import utc_now
from trimtab.records.training import Case, DatasetVersion, HostedJob, TrainingRun
from trimtab.settings import Settings
from trimtab.store.control import Control
from trimtab.store.drain import drain
from trimtab.store.journal import Journal
from trimtab.store.lake import Lake

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(600)]  # MLflow warns about itself

BASE = "gpt-4.1-mini-2025-04-14"
FILE = """\
name: desk
model: {{base: 'vendor:gpt-4.1-mini-2025-04-14', prompt: prompt.md}}
task: {{kind: classification, labels: labels.yaml}}
providers: {{vendor: {{base_url: '{url}/v1', key_env: EMULATED_KEY}}}}
retrain: {{method: hosted, holdout: 0.3}}
gates: {{quality: better, latency_p95: null}}
rollout: {{canary: [50%, 100%], step_requests: 3}}
"""
GUESS = '{"intent":"login","urgency":"high"}'


def cycle_run(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "trimtab", "cycle", "run", "--project", str(folder)]
    with (folder / "cycle.log").open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def answered_by_the_canary(place: Settings) -> None:
    """Three good answers of version 2, as a gateway would have written them."""
    journal = Journal(place.journal)
    for number in range(3):
        row = triage._closed(1000 + number, 4_000_000_000_000 + number, "where is my money")
        journal.closed(msgspec.structs.replace(row, version=2))
    journal.close()
    drain(place)


def test_a_cycle_killed_while_the_provider_trains_ends_promoted_with_one_job_and_rolls_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMULATED_KEY", KEY)
    folder = tmp_path / "desk"
    triage.write(folder, "echo", "{}")
    place = environment.load(folder)
    triage.answer(place, 100)
    rows = Lake(place).labelled().select("input_text", "label").iter_rows()
    fixtures = [{"match": {"model": BASE}, "response": {"content": GUESS}}]
    fixtures += [{"match": {"userMessage": text}, "response": {"content": label}} for text, label in rows]
    fixtures += [{"match": {}, "response": {"content": GUESS}}]
    with emulator(tmp_path, fixtures) as vendor:
        (folder / "trimtab.yaml").write_text(FILE.format(url=vendor.url))
        registry.register_base(place, project.load(folder))
        control = Control(place)
        first = cycle_run(folder)
        job = until(lambda: control.last("hosted_job", HostedJob) or first.poll() is not None)
        kill(first)
        assert isinstance(job, HostedJob), (folder / "cycle.log").read_text()
        assert control.last("training_run", TrainingRun) is None, "killed too late to prove anything"

        second = cycle_run(folder)
        try:
            until(lambda: control.alias(MODEL, "challenger") or second.poll() is not None)
            control.set_engine(EngineState(model=MODEL, version=2, state="ready", at=utc_now()))
            until(lambda: _percent(control) == 50 or second.poll() is not None)
            answered_by_the_canary(place)
            assert second.wait() == 0, (folder / "cycle.log").read_text()
        finally:
            second.kill()
        posts = [one["path"] for one in vendor.heard() if one["method"] == "POST" and "/chat/" not in one["path"]]
        uploads = str([one["body"] for one in vendor.heard() if one["path"] == "/v1/files"])
    assert posts == ["/v1/files", "/v1/fine_tuning/jobs"]
    (end,) = control.facts("cycle_end", CycleEnd)
    assert (end.outcome, control.alias(MODEL, "champion")) == ("promoted", 2)
    decision, run = control.last("decision", Decision), control.last("training_run", TrainingRun)
    assert decision is not None
    assert decision.gates[0].numbers["accuracy_bare base"] < decision.gates[0].numbers["accuracy_candidate"]
    assert run is not None
    assert run.hosted is not None
    assert run.hosted.job == job.id
    assert registry.get(control, MODEL, 2).spec.base.name == f"vendor:{run.hosted.model}"
    shown = mlflow.MlflowClient(place.mlflow_uri).get_model_version(MODEL, "2").tags
    assert shown["trimtab.fine_tuning_job"] == job.id
    assert shown["trimtab.training_file"] == run.hosted.files["training"]
    assert shown["trimtab.training_file_sha256"] == run.hosted.sha256
    assert f"Job `{job.id}` on {BASE} made `{run.hosted.model}`" in (place.cards / f"{MODEL}-2.md").read_text()
    dataset = control.last("dataset", DatasetVersion)
    assert dataset is not None
    held_out = (Path(dataset.path) / "holdout.jsonl").read_text().splitlines()
    assert not any(Case.model_validate_json(line).input in uploads for line in held_out)
    apply.rollback(place, control, MODEL, actor="test", reason="the test says so")
    assert control.alias(MODEL, "champion") == 1
    assert control.audit_faults() == []


def _percent(control: Control) -> float:
    traffic = control.traffic(MODEL)
    return traffic.percent if traffic and traffic.version == 2 else 0.0
