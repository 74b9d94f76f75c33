"""Azure beside the workspace: alert rules and the schedule, as templates to deploy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from trimtab.cli import show
from trimtab.cli.opening import Folder, opened

File = Annotated[Path | None, typer.Option("--write", help="Write it there.", show_default="standard output")]


def alerts(
    project: Folder = Path(),
    email: Annotated[list[str] | None, typer.Option(help="Who is told, besides the webhooks of trimtab.yaml.")] = None,
    write: File = None,
) -> None:
    """Write the thresholds of trimtab.yaml as alert rules of Azure Monitor: an ARM template, with an action group.

    The rules ask the telemetry that `trimtab up` sends to Application Insights, with the same windows, numbers and test
    as the alerts here. Nothing is deployed.
    """
    _, loaded = opened(project)
    from trimtab.databricks import alert_rules

    _out(alert_rules.arm_template(loaded.project, email or ()), write)


def data_factory(project: Folder = Path(), write: File = None) -> None:
    """Write the schedules of retrain.when for Azure Data Factory: a pipeline that runs the job, and its triggers.

    An ARM template, for those who schedule there instead of in Databricks. The triggers are created stopped; nothing is
    deployed.
    """
    _, loaded = opened(project)
    from trimtab.databricks import data_factory as factory
    from trimtab.records.record import utc_now

    _out(factory.arm_template(loaded.project, start=f"{utc_now():%Y-%m-%dT00:00:00Z}"), write)


def _out(template: dict[str, Any], file: Path | None) -> None:
    text = json.dumps(template, indent=2, ensure_ascii=False)
    if file is None:
        typer.echo(text)
        show.then("the same with --write FILE.json")
        return
    file.write_text(f"{text}\n", "utf-8")
    show.say(f"wrote {file}: {len(template['resources'])} resources")
    show.then(f"`az deployment group create --resource-group … --template-file {file}`")
