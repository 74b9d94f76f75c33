"""`trimtab job` as in a workspace: rows in a catalog, read by Spark. Rung 6 of the ladder: Sail stands for it.

Proves that the wheel's entry points run on tables of three-level names over Spark Connect, the protocol of serverless
compute; not that a workspace runs them.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from contract.lakes import Vacuuming
from contract.payloads import AT, GEN2, call
from monitor.example_texts import PERIOD1, RECALL, shuffled
from trimtab import settings as trimtab_settings
from trimtab.cli import app
from trimtab.databricks import lake_spark, runtime
from trimtab.errors import Fixable
from trimtab.lifecycle import cycle as cycles
from trimtab.records.erasure import Tombstone
from trimtab.records.monitor import DriftReport, Profile
from trimtab.records.record import utc_now
from trimtab.records.registry import AliasMove, Decoding, LabelSet, ModelVersion, Prompt, VersionSpec, Weights
from trimtab.store.audit import Signer
from trimtab.store.control import Control

FILE = """\
name: desk
model: {{base: echo, prompt: prompt.md}}
task: {{kind: classification, labels: labels.yaml}}
monitor: {{input_drift: {{window: 50}}}}
alerts: [{{on: [input_drift]}}]
retrain: {{when: [input_drift], brakes: {{min_labelled: 20}}}}
target: {{databricks: {{catalog: ml, schema: {schema}}}}}
"""


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    folder = tmp_path / "desk"
    folder.mkdir()
    (folder / "trimtab.yaml").write_text(FILE.format(schema=f"desk_{abs(hash(tmp_path))}"))
    (folder / "labels.yaml").write_text("intent: [refund, login]\n")
    (folder / "prompt.md").write_text("Sort the message.\n")
    return folder


def promote(control: Control) -> None:
    spec = VersionSpec(
        model="desk",
        base=Weights(name="echo", sha256="", format="echo"),
        prompt=Prompt(system="Sort the message."),
        decoding=Decoding(),
        labels=LabelSet(fields={"intent": ("refund", "login")}),
    )
    version = ModelVersion(spec=spec, version=1, run_id="r", config_hash="c", created_at=AT)
    control.put("version", "desk/1", version)
    move = AliasMove(
        model="desk", alias="champion", before=None, after=1, at=utc_now(), actor="test", reason="the first version"
    )
    control.move([move])


def job(name: str, folder: Path) -> dict[str, str]:
    """Runs a job as a scheduler does; its task values."""
    done = CliRunner().invoke(app, ["job", name, "--project", str(folder)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads((folder / ".trimtab" / "run" / "task-values" / f"{name}.json").read_text())


def test_the_jobs_bring_in_what_the_endpoint_was_asked_find_the_drift_and_open_a_cycle(
    sail: Any, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARK_REMOTE", "the session that is there")
    control = Control(trimtab_settings.load(desk))
    promote(control)
    schema = (desk / "trimtab.yaml").read_text().split("schema: ")[1].split("}")[0]
    sail.sql(f"CREATE DATABASE ml.{schema} LOCATION '{tmp_path / 'tables'}'").collect()
    assert job("profile", desk) == {"arrived": "0", "rows": "0", "windows": "0"}

    sail.sql(f"CREATE TABLE ml.{schema}.desk_payload ({GEN2}) USING DELTA").collect()
    asked = [*shuffled(PERIOD1, 3)[:50], *shuffled(RECALL, 3)[:50]]
    names = [column.strip().split()[0] for column in GEN2.split(",")]
    calls = [
        call(
            str(n), {"inputs": [text]}, {"predictions": ['{"intent":"login"}']}, request_time=AT + timedelta(seconds=n)
        )
        for n, text in enumerate(asked)
    ]
    rows = sail.createDataFrame([tuple(row.get(name) for name in names) for row in calls], GEN2)
    rows.write.mode("append").saveAsTable(f"ml.{schema}.desk_payload")
    values = job("profile", desk)
    assert values == {
        "arrived": "100",
        "rows": "100",
        "windows": "1",
        "failed": "0.0000",
        "duration_p95_ms": "40",
    }
    assert len(control.facts("profile", Profile, "desk/")) == 2

    said = f"""INSERT INTO ml.{schema}.desk_feedback
        SELECT concat('f', row), request_time, databricks_request_id, NULL, 'label', '{{"intent":"refund"}}', 'human'
        FROM ml.{schema}.desk_inference WHERE row < 25"""  # noqa: S608 (names of this test)
    sail.sql(said).collect()
    values = job("drift", desk)
    (report,) = control.facts("drift_report", DriftReport)
    assert (report.verdict, report.n_reference, report.n_current) == ("breach", 50, 50)
    assert (values["drifted"], values["alerts"]) == ("true", "1")
    (cycle,) = cycles.unfinished(control, "desk")
    assert cycle.trigger.startswith("desk/input_drift/1/")
    assert job("drift", desk) == {"alerts": "0", "drifted": "true", "reason": "a cycle is open"}
    assert not (desk / ".trimtab" / "lake").exists(), "nothing was read or written here"


def test_the_erase_job_counts_first_then_empties_the_tables_and_says_what_it_does_not_reach(
    sail: Any, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARK_REMOTE", "the session that is there")
    tables = tmp_path / "tables"
    monkeypatch.setattr(lake_spark, "session", lambda: Vacuuming(sail, lambda name: tables / name.split(".")[-1]))
    control = Control(trimtab_settings.load(desk))
    promote(control)
    schema = (desk / "trimtab.yaml").read_text().split("schema: ")[1].split("}")[0]
    sail.sql(f"CREATE DATABASE ml.{schema} LOCATION '{tables}'").collect()
    sail.sql(f"CREATE TABLE ml.{schema}.desk_payload ({GEN2}) USING DELTA").collect()
    names = [column.strip().split()[0] for column in GEN2.split(",")]
    people = ("alice", "bob", "alice")
    calls = [
        call(str(n), {"inputs": [f"I am {who}"], "user": who}, {"predictions": ["x"]}) for n, who in enumerate(people)
    ]
    rows = sail.createDataFrame([tuple(row.get(name) for name in names) for row in calls], GEN2)
    rows.write.mode("append").saveAsTable(f"ml.{schema}.desk_payload")

    def erase(*words: str) -> tuple[dict[str, str], str]:
        done = CliRunner().invoke(app, ["job", "erase", "--project", str(desk), *words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return json.loads((desk / ".trimtab" / "run" / "task-values" / "erase.json").read_text()), done.output

    def texts() -> list[str | None]:
        return [row["input_text"] for row in sail.read.table(f"ml.{schema}.desk_inference").orderBy("row").collect()]

    values, said = erase("--request", "0", "--subject", "", "--confirm", "")
    assert (values["rows"], values["erased"]) == ("2", "false"), "whose the request was, and all of theirs"
    assert "nothing was changed" in said
    assert texts() == ["I am alice", "I am bob", "I am alice"]
    with pytest.raises(Fixable, match="is not the project's name"):
        CliRunner().invoke(
            app,
            ["job", "erase", "--project", str(desk), "--subject", "alice", "--confirm", "no"],
            catch_exceptions=False,
        )
    hold = ["hold", "alice", "--project", str(desk)]
    assert CliRunner().invoke(app, hold).exit_code == 0
    with pytest.raises(Fixable, match="legal hold"):
        CliRunner().invoke(
            app,
            ["job", "erase", "--project", str(desk), "--subject", "alice", "--confirm", "desk"],
            catch_exceptions=False,
        )
    assert CliRunner().invoke(app, [*hold, "--lift"]).exit_code == 0
    values, said = erase("--subject", "alice", "--confirm", "desk")
    assert values["erased"] == "true"
    assert texts() == [None, "I am bob", None]
    (stone,) = control.facts("tombstone", Tombstone)
    assert (stone.rows, stone.by) == (2, "job")
    assert f"VACUUM ml.{schema}.desk_payload" in said
    assert job("profile", desk)["arrived"] == "0", "the endpoint's table still has them, and they do not come back"
    assert texts() == [None, "I am bob", None]


def test_in_a_workspace_the_job_tells_its_values_and_finds_its_database_in_the_scope(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, str] = {}
    signer_file = desk.parent / "audit.key"
    ours, copy = Signer(signer_file).verifier_key, runtime.local_copy(desk)
    monkeypatch.setattr(runtime, "local_copy", lambda folder: copy)

    class Dbutils:
        class jobs:
            class taskValues:
                set = staticmethod(told.__setitem__)

        class secrets:
            @staticmethod
            def get(scope: str, key: str) -> str:
                secrets = {"database-url": f"sqlite:///{desk}/shared.db", "audit-key": signer_file.read_text()}
                if scope != "trimtab" or key not in secrets:
                    raise ValueError(f"Secret does not exist with scope: {scope} and key: {key}")
                return secrets[key]

    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "client.4")
    monkeypatch.setattr(runtime, "_dbutils", lambda: Dbutils)
    monkeypatch.setattr(runtime, "on_spark", lambda project: False)
    done = CliRunner().invoke(app, ["job", "curate", "--project", str(desk)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert told == {"cycle": ""}, "the brakes hold a cycle back that nobody asked for"
    assert (desk / "shared.db").exists()
    assert Signer(copy / ".trimtab" / "audit.key").verifier_key == ours, "every job signs with the project's key"
    assert not (desk / ".trimtab").exists(), "a job works on a copy of the volume's files"
