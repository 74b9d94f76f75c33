"""The jobs as values. Rung 1 of the ladder: the vendor's own dataclasses take them, and lose nothing.

Proves that fields and enumerations are those of databricks-sdk 0.156; not that a workspace accepts them.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from databricks.sdk.service.jobs import JobSettings

from trimtab.databricks import jobs
from trimtab.errors import Fixable
from trimtab.records.project import Project


def project(**target: object) -> Project:
    return Project.model_validate(
        {
            "name": "support-triage",
            "model": {"base": "echo", "prompt": "p.md"},
            "retrain": {"when": ("cron: 0 3 * * SUN",)},
            "target": {"databricks": {"catalog": "ml", "schema": "support", **target}},
        }
    )


@pytest.mark.parametrize("compute", ["serverless", "cluster"])
@pytest.mark.parametrize("when", ["table_update", "cron: 0 * * * *"])
def test_the_vendors_dataclasses_keep_every_field(compute: str, when: str) -> None:
    made = project(compute=compute, monitor={"when": when}, alerts={"emails": ("a@example.com",)})
    for job in jobs.jobs(made, 42).values():
        assert JobSettings.from_dict(job).as_dict() == job


def test_retraining_goes_through_the_gate() -> None:
    tasks = {task["task_key"]: task for task in jobs.retrain(project())["tasks"]}
    assert list(tasks) == ["curate", "train", "evaluate", "decide", "gate", "deploy"]
    assert tasks["deploy"]["depends_on"] == [{"task_key": "gate", "outcome": "true"}]
    wheel = tasks["train"]["python_wheel_task"]
    assert (wheel["package_name"], wheel["entry_point"]) == ("trimtab", "trimtab")
    assert wheel["parameters"][:4] == [
        "job",
        "train",
        "--project",
        "/Volumes/ml/support/trimtab/projects/support-triage",
    ]


def test_a_schedule_is_quartz_with_named_days() -> None:
    assert jobs.retrain(project())["schedule"]["quartz_cron_expression"] == "0 0 3 ? * SUN"
    assert jobs.quartz("*/5 2 1 jan *") == "0 */5 2 1 JAN ?"
    with pytest.raises(Fixable, match="no form"):
        jobs.quartz("0 3 1 * MON")


@pytest.mark.parametrize(
    ("package", "installed"),
    [
        ("trimtab==0.1.0", "trimtab[train,databricks]==0.1.0"),
        ("trimtab", "trimtab[train,databricks]"),
        (
            "/Volumes/ml/s/v/trimtab-0.1.0-py3-none-any.whl",
            "trimtab[train,databricks] @ file:///Volumes/ml/s/v/trimtab-0.1.0-py3-none-any.whl",
        ),
    ],
)
def test_a_task_installs_the_package_with_its_extra(package: str, installed: str) -> None:
    (environment,) = jobs.retrain(project(package=package))["environments"]
    assert environment["spec"]["dependencies"] == [installed]


def test_the_entry_point_returns_after_success_and_raises_the_error_itself_in_a_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Databricks counts every SystemExit of a wheel's task as a failure, and shows its number in place of words."""
    wheel = jobs.retrain(project())["tasks"][0]["python_wheel_task"]
    (entry,) = entry_points(group="console_scripts", name=wheel["entry_point"])
    assert entry.dist is not None
    assert entry.dist.name == wheel["package_name"]
    task = entry.load()
    monkeypatch.setattr(sys, "argv", ["trimtab", "--version"])
    assert task() is None
    monkeypatch.setattr(sys, "argv", ["trimtab", *wheel["parameters"][:3], str(tmp_path)])
    with pytest.raises(SystemExit) as left:
        task()
    assert left.value.code == 2
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "client.4")
    with pytest.raises(Fixable, match="cannot be read"):
        task()
