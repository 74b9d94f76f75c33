"""`trimtab check` finds every kind of fault at its line, once, with a fix; and all faults of a file at once."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from trimtab import project
from trimtab.errors import ConfigError

TODAY = date(2026, 8, 15)

SECTIONS = {
    "name": "name: triage",
    "model": "model: {base: echo, prompt: prompt.md, examples: examples.jsonl}",
    "task": "task: {kind: classification, labels: labels.yaml}",
    "monitor": "monitor:\n  input_drift: {}\n  quality: {min: 0.8}",
    "alerts": "alerts: [{on: [input_drift, quality]}]",
    "retrain": "retrain: {when: [input_drift, quality, 'cron: 0 3 * * SUN']}",
    "gates": "gates:\n  fairness: {swaps: names.yaml, field: urgency, favourable: [high]}",
    "rollout": "rollout: {canary: [10%, 100%]}",
}
FILES = {
    "prompt.md": "Sort the message.",
    "labels.yaml": "intent: [billing, refund]\nurgency: [low, high]\n",
    "examples.jsonl": '{"input": "Money back!", "output": {"intent": "refund", "urgency": "high"}}\n',
    "names.yaml": "name_group:\n  a: [Ann Lee, Bob Roy]\n  b: [Cem Kaya, Dina Aziz]\n",
}

FAULTS = {case.pop("kind"): case for case in YAML(typ="safe").load(Path(__file__).with_name("faults.yaml"))}


def written(folder: Path, changes: dict[str, str]) -> Path:
    """A project with these sections and files changed."""
    for name, text in (FILES | {k: v for k, v in changes.items() if "." in k}).items():
        (folder / name).write_text(text)
    sections = SECTIONS | {k: v for k, v in changes.items() if "." not in k}
    (folder / "trimtab.yaml").write_text("\n".join(text for text in sections.values() if text) + "\n")
    return folder


def marked_line(folder: Path, file: str) -> int | None:
    lines = (folder / file).read_text().splitlines()
    return next((number for number, line in enumerate(lines, start=1) if "#!" in line), None)


def test_the_project_all_cases_start_from_has_no_fault(tmp_path: Path) -> None:
    assert project.check(written(tmp_path, {}), TODAY) == []


@pytest.mark.parametrize("kind", FAULTS)
def test_each_kind_of_fault_is_found_once_at_its_line_with_a_fix(kind: str, tmp_path: Path) -> None:
    case = FAULTS[kind]
    (fault,) = project.check(written(tmp_path, case["written"]), TODAY)
    assert (fault.field, fault.severity) == (case["field"], "error")
    assert case["message"] in str(fault)
    assert case["fix"] in fault.fix
    in_json = fault.file == "examples.jsonl"  # which has no comments to mark the line with
    assert fault.line == (2 if in_json else marked_line(tmp_path, fault.file))


def test_guards_are_refused_over_a_model_that_takes_rows(tmp_path: Path) -> None:
    changes = {
        "model": "model: {base: 'pyfunc:models:/iris@champion'}",
        "task": "task: {kind: scoring}",
        **dict.fromkeys(("monitor", "alerts", "retrain", "gates"), ""),
        "guards": "guards: {checks: [{kind: pii}]}",
    }
    (fault,) = [fault for fault in project.check(written(tmp_path, changes), TODAY) if fault.severity == "error"]
    assert (fault.field, fault.line) == ("guards", 5)
    assert "takes rows" in str(fault)
    assert "remove guards" in fault.fix


def test_load_refuses_what_check_finds_and_says_how_much_there_is(tmp_path: Path) -> None:
    written(tmp_path, {"name": "name: A B", "rollout": "rolout: {}"})
    with pytest.raises(ConfigError, match="A B") as refused:
        project.load(tmp_path)
    assert refused.value.where == "trimtab.yaml:1 name"
    assert "1 more: run `trimtab check`" in refused.value.fix


def test_all_faults_are_reported_at_once_and_none_that_only_follows_from_another(tmp_path: Path) -> None:
    changes = {
        "model": "model: {base: smollm, prompt: gone.md, examples: examples.jsonl}",
        "monitor": "monitor:\n  input_drift: on\n  qualty: {min: 0.8}",  # both alerts and triggers lean on these
        "retrain": "retrain: {when: [input_drift, 'cron: daily']}",
        "alerts": "alerts: [{on: [input_drift]}]",
        "gates": "gates:\n  fairness: {swaps: names.yaml, field: colour, pairs: few}",
        "rollout": "rollout: {canary: [100%, 100%]}",
        "examples.jsonl": "{}\n",
        "names.yaml": "name_group: {}\n",
    }
    faults = project.check(written(tmp_path, changes), TODAY)
    assert [(fault.file, fault.line, fault.field) for fault in faults] == [
        ("trimtab.yaml", 2, "model.prompt"),
        ("trimtab.yaml", 2, "model.base"),
        ("trimtab.yaml", 5, "monitor.input_drift"),
        ("trimtab.yaml", 6, "monitor.qualty"),
        ("trimtab.yaml", 8, "retrain.when[1]"),
        ("trimtab.yaml", 10, "gates.fairness.pairs"),
        ("trimtab.yaml", 10, "gates.fairness.field"),
        ("trimtab.yaml", 11, "rollout.canary"),
        ("examples.jsonl", 1, ""),
        ("names.yaml", 1, "name_group"),
    ]


@pytest.mark.parametrize(
    ("base", "today", "severity", "words"),
    [
        ("azure:gpt-4o", "2026-10-01", "error", "was retired on 2026-10-01"),
        ("azure:gpt-4o-2024-11-20", "2026-10-01", "error", "was retired on 2026-10-01"),
        ("azure:gpt-4o", "2026-09-30", "warning", "retires on 2026-10-01"),
        ("azure:gpt-4o", "2026-08-02", "warning", "retires on 2026-10-01"),
        ("azure:gpt-4o", "2026-08-01", None, ""),
        ("azure:gpt-5.4", "2027-01-31", "warning", "retires on 2027-03"),
        ("azure:gpt-3.5-turbo", "2026-08-01", "error", "was retired before 2026-07-07"),
        ("openai:gpt-4o", "2026-12-01", "warning", "OpenAI's own date may differ"),
        ("azure:gpt-9", "2036-01-01", None, ""),
    ],
)
def test_a_retired_model_is_an_error_and_one_with_sixty_days_left_a_warning(
    base: str, today: str, severity: str | None, words: str, tmp_path: Path
) -> None:
    azure = "providers: {azure: {base_url: 'https://here.openai.azure.com/openai/v1', key_env: AZURE_KEY}}"
    written(tmp_path, {"model": f"model: {{base: '{base}', prompt: prompt.md}}", "providers": azure})
    retirement = project.check(tmp_path, date.fromisoformat(today))
    assert [fault.severity for fault in retirement] == ([severity] if severity else [])
    assert all(words in str(fault) and "2026-07-07" in str(fault) and "gpt-5.1" in fault.fix for fault in retirement)


def test_a_fault_never_shows_the_path_of_a_webhook(tmp_path: Path) -> None:
    alerts = "alerts: [{on: [quality], notify: ['webhok:https://user:pw@hooks.example.com/services/T0/SECRET']}]"
    (fault,) = project.check(written(tmp_path, {"alerts": alerts}), TODAY)
    assert "hooks.example.com" in str(fault)
    assert not any(secret in str(vars(fault)) + str(fault) for secret in ("SECRET", "pw@"))


@pytest.mark.parametrize("evidence", ["", "evidence: {erasure: subject_keys}"])
def test_encryption_by_subject_is_said_to_end_at_the_workspace(evidence: str, tmp_path: Path) -> None:
    changes = {"evidence": evidence, "target": "target: {databricks: {catalog: ml, schema: support}}"}
    (warning,) = project.check(written(tmp_path, changes), TODAY)
    assert (warning.severity, warning.field) == ("warning", "evidence.erasure")
    assert "inference table of a workspace holds requests as they are" in str(warning)
    assert project.check(written(tmp_path, changes | {"evidence": "evidence: {erasure: rewrite}"}), TODAY) == []


ROWS = {
    "model": "model: {base: 'pyfunc:models:/iris@champion'}",
    "task": "task: {kind: scoring}",
    **dict.fromkeys(("monitor", "alerts", "retrain", "gates"), ""),
}


def test_a_model_of_rows_needs_no_prompt_and_the_check_says_whom_to_trust(tmp_path: Path) -> None:
    (warning,) = project.check(written(tmp_path, ROWS), TODAY)
    assert (warning.severity, warning.field) == ("warning", "model.base")
    assert "trust" in warning.fix
    assert project.load(tmp_path).prompt.system == ""


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"model": "model: {base: 'pyfunc:models:/iris/3', prompt: prompt.md}"}, "model.prompt"),
        ({"task": SECTIONS["task"]}, "task.kind"),
        ({"monitor": "monitor: {input_drift: {}}"}, "monitor.input_drift"),
        ({"endpoint": "endpoint: {fallback: [echo]}"}, "endpoint.fallback[0]"),
        ({"endpoint": "endpoint: {auth: keys, budget: 1 USD/day}"}, "endpoint.budget"),
        ({"model": "model: {base: echo, prompt: prompt.md}"}, "task.kind"),
        ({"model": "model: {base: 'models:/iris@champion'}"}, "model.base"),
    ],
)
def test_what_is_about_texts_does_not_go_with_a_model_of_rows(
    changed: dict[str, str], field: str, tmp_path: Path
) -> None:
    errors = [fault for fault in project.check(written(tmp_path, ROWS | changed), TODAY) if fault.severity == "error"]
    assert field in [fault.field for fault in errors]


MODEL = "model: {base: echo, prompt: prompt.md, decoding: {temperature: %s}, average: {axis: %s}}"


@pytest.mark.parametrize(
    ("model", "kind", "fields"),
    [
        (MODEL % (0, "religion"), "classification", []),
        (MODEL % (0.7, "religion"), "classification", ["model.average"]),
        (MODEL % (0, "zodiac"), "classification", ["model.average.axis"]),
        (MODEL % (0, "religion"), "chat", ["model.average"]),
    ],
)
def test_an_average_is_for_labels_without_chance(model: str, kind: str, fields: list[str], tmp_path: Path) -> None:
    rows = {**SECTIONS, "model": model}
    if kind == "chat":
        nothing = dict.fromkeys(("monitor", "alerts", "retrain", "gates"), "")
        rows |= {"task": "task: {kind: chat}", **nothing}
    found = [fault.field for fault in project.check(written(tmp_path, rows), TODAY) if fault.severity == "error"]
    assert found == fields


ROTATE = "model: {base: %s, prompt: prompt.md, decoding: {temperature: %s}, rotate: [%s]}"


@pytest.mark.parametrize(
    ("model", "prompt", "fields"),
    [
        (ROTATE % ("echo", 0, "intent"), "Sort it. intent: billing, refund", []),
        (ROTATE % ("echo", 0, "intent"), "Sort it.", ["model.rotate[0]"]),
        (ROTATE % ("echo", 0, "intent, urgency"), "Sort it. intent: refund or billing", ["model.rotate[1]"]),
        (ROTATE % ("echo", 0, "mood"), "Sort it. intent: billing, refund", ["model.rotate[0]"]),
        (ROTATE % ("echo", 0.5, "intent"), "Sort it. intent: billing, refund", ["model.rotate"]),
        (ROTATE % ("'openai:gpt-5-mini'", 0, "intent"), "Sort it.", []),  # it is sent the schema, which lists them
    ],
)
def test_a_rotation_needs_labels_that_stand_in_an_order(
    model: str, prompt: str, fields: list[str], tmp_path: Path
) -> None:
    found = project.check(written(tmp_path, {"model": model, "prompt.md": prompt}), TODAY)
    errors = [fault for fault in found if fault.severity == "error"]
    assert [fault.field for fault in errors] == fields
    if fields == ["model.rotate[0]"] and "mood" not in model:
        assert "write them into prompt.md, e.g. `intent: billing, refund`" in errors[0].fix


THRESHOLDS = json.dumps({
    "attribute": "dialect", "constraint": "equalized_odds", "field": "urgency", "favourable": "high", "other": "low",
    "groups": {"a": {"steps": [[0.5, 1.0]]}, "b": {"start": 0.1, "steps": [[-0.5, 0.9]]}}, "scores_of": "", "key": "k",
})  # fmt: skip
DECIDED = "model: {base: %s, prompt: prompt.md, thresholds: thresholds.json, %s}"
SMALL = "smollm2-135m-instruct"


@pytest.mark.parametrize(
    ("model", "file", "said"),
    [
        (DECIDED % ("'openai:gpt-5-mini'", ""), THRESHOLDS, "warning: needs an engine that tells log-probabilities"),
        (DECIDED % ("echo", ""), THRESHOLDS, "error: needs an engine that tells log-probabilities, and echo has none"),
        (DECIDED % (SMALL, ""), THRESHOLDS, ""),
        (DECIDED % (SMALL, "average: {axis: age}"), THRESHOLDS, "error: does not go with model.average"),
        (DECIDED % (SMALL, "decoding: {temperature: 1}"), THRESHOLDS, "error: needs answers without"),
        (DECIDED % (SMALL, ""), THRESHOLDS.replace("urgency", "mood"), "error: mood is not a field"),
        (DECIDED % (SMALL, ""), THRESHOLDS.replace("high", "now"), "error: decides between"),
        (DECIDED % (SMALL, ""), "{}", "error: thresholds.json holds no thresholds: attribute"),
    ],
)
def test_thresholds_need_a_score_of_a_field_with_two_values(model: str, file: str, said: str, tmp_path: Path) -> None:
    found = project.check(written(tmp_path, {"model": model, "thresholds.json": file}), TODAY)
    told = [f"{fault.severity}: {fault}" for fault in found if fault.field == "model.thresholds"]
    assert len(told) == len(found) == bool(said)
    assert not said or said in told[0], told
