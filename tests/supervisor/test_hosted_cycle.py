"""A provider's fine-tune through the whole loop: kill -9 in the middle, gates, canary, promotion, rollback."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from pathlib import Path

import httpx
import mlflow
import pytest

from emulator import KEY, emulator
from lifecycle import triage
from running import Desk, desk, kill, until
from trimtab import registry
from trimtab import settings as environment
from trimtab.records.training import Case, DatasetVersion, HostedJob, TrainingRun
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


def cycle_run(served: Desk) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "trimtab", "cycle", "run", "--project", str(served.settings.root)]
    with (served.settings.root / "cycle.log").open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def test_a_cycle_killed_while_the_provider_trains_ends_promoted_with_one_job_and_rolls_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMULATED_KEY", KEY)
    folder = tmp_path / "desk"
    place = environment.load(folder)
    triage.answer(place, 100)
    rows = Lake(place).labelled().select("input_text", "label").iter_rows()
    fixtures = [{"match": {"model": BASE}, "response": {"content": GUESS}}]
    fixtures += [{"match": {"userMessage": text}, "response": {"content": label}} for text, label in rows]
    fixtures += [{"match": {}, "response": {"content": GUESS}}]
    with emulator(tmp_path, fixtures) as vendor, desk(folder, FILE.format(url=vendor.url)) as served:
        first = cycle_run(served)
        job = until(lambda: first.poll() is not None or served.control.last("hosted_job", HostedJob))
        kill(first)
        assert served.control.last("training_run", TrainingRun) is None, "killed too late to prove anything"

        second = cycle_run(served)
        try:
            with httpx.Client(base_url=served.url) as callers:
                for number in itertools.count():
                    if second.poll() is not None:
                        break
                    asked = served.control.alias("desk", "challenger") is not None  # before a canary nobody need ask
                    if asked:
                        headers = {"x-trimtab-caller": f"c{number}"}
                        callers.post("/predict", json={"input": "where is my money"}, headers=headers)
                    time.sleep(0.1 if asked else 0.5)
        finally:
            second.kill()
        assert second.wait() == 0, (folder / "cycle.log").read_text()
        assert served.control.alias("desk", "champion") == 2

        posts = [one["path"] for one in vendor.heard() if one["method"] == "POST" and "/chat/" not in one["path"]]
        assert posts == ["/v1/files", "/v1/fine_tuning/jobs"]
        run = served.control.last("training_run", TrainingRun)
        assert run is not None
        assert run.hosted is not None
        assert run.hosted.job == job.id
        version = registry.get(served.control, "desk", 2)
        assert version.spec.base.name == f"vendor:{run.hosted.model}"
        (shown,) = mlflow.MlflowClient(place.mlflow_uri).search_model_versions("name = 'desk' and version_number = 2")
        assert shown.tags["trimtab.fine_tuning_job"] == job.id
        assert shown.tags["trimtab.training_file"] == run.hosted.files["training"]
        assert shown.tags["trimtab.training_file_sha256"] == run.hosted.sha256
        card = (place.cards / "desk-2.md").read_text()
        assert f"Job `{job.id}` on {BASE} made `{run.hosted.model}`" in card
        assert served.ask("where is my money", "someone").headers["x-trimtab-version"] == "desk/2"

        back = [sys.executable, "-m", "trimtab", "rollback", "--yes", "--project", str(folder)]
        subprocess.run(back, check=True, capture_output=True)
        until(lambda: served.ask("where is my money", "someone").headers["x-trimtab-version"] == "desk/1")
        assert served.control.audit_faults() == []
        held_out = (Path(str(served.control.last("dataset", DatasetVersion).path)) / "holdout.jsonl").read_text()
        secret = [Case.model_validate_json(line).input for line in held_out.splitlines()]
        uploads = [str(one["body"]) for one in vendor.heard() if one["path"] == "/v1/files"]
        assert not any(text in upload for text in secret for upload in uploads)
