"""`trimtab azure` writes templates without asking Azure, and a dry run of a cycle sends nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import place
from trimtab.cli import app

FILE = place.FILE.replace("when: [input_drift]", "when: [input_drift, 'cron: 0 3 * * SUN']") + (
    "alerts: [{on: ['latency_p99 > 2s'], notify: [log]}]\n"
)


@pytest.mark.parametrize(
    ("words", "kinds"),
    [
        (["azure", "alerts"], ["Microsoft.Insights/actionGroups", "Microsoft.Insights/scheduledQueryRules"]),
        (
            ["azure", "data-factory"],
            ["Microsoft.DataFactory/factories/pipelines", "Microsoft.DataFactory/factories/triggers"],
        ),
    ],
)
def test_a_template_is_printed_or_written_whole(tmp_path: Path, words: list[str], kinds: list[str]) -> None:
    place.make(tmp_path)
    (tmp_path / "trimtab.yaml").write_text(FILE)
    said = CliRunner().invoke(app, [*words, "--project", str(tmp_path)])
    assert said.exit_code == 0, said.output
    written = CliRunner().invoke(app, [*words, "--project", str(tmp_path), "--write", str(tmp_path / "t.json")])
    assert written.exit_code == 0, written.output
    template = json.loads((tmp_path / "t.json").read_text())
    assert [resource["type"] for resource in template["resources"]] == kinds
    assert json.loads(said.stdout) == template
