"""What `project.load` promises: the file as written, a hash over all of it, and a ConfigError for everything else."""

from __future__ import annotations

import io
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from trimtab import project
from trimtab.errors import ConfigError
from trimtab.records.project import Project

FILES = {
    "prompt.md": "Sort the message.\n",
    "labels.yaml": "intent: [billing, refund]\nurgency: [low, high]\n",
    "examples.jsonl": '{"input": "Money back!", "output": {"urgency": "high", "intent": "refund"}}\n',
    "names.yaml": "name_group:\n  a: [Ann Lee, Bob Roy]\n  b: [Cem Kaya]\n",
    "trimtab.yaml": (
        "name: triage\n"
        "model: {base: echo, prompt: prompt.md, examples: examples.jsonl}\n"
        "task: {labels: labels.yaml}\n"
        "gates: {fairness: {swaps: names.yaml, field: urgency}}\n"
    ),
}
BEFORE_ALL_RETIREMENTS = date(2026, 1, 1)
quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_load_reads_the_file_and_all_it_names(folder: Path) -> None:
    loaded = project.load(folder)
    assert loaded == project.load(folder / "trimtab.yaml")
    assert loaded.labels is not None
    assert loaded.labels.fields == {"intent": ("billing", "refund"), "urgency": ("low", "high")}
    assert loaded.prompt.system == "Sort the message."
    assert loaded.prompt.examples[0].output == '{"intent":"refund","urgency":"high"}'  # in the order of the labels
    assert loaded.swaps == {"name_group": {"a": ("Ann Lee", "Bob Roy"), "b": ("Cem Kaya",)}}


@pytest.mark.parametrize("name", FILES)
def test_the_hash_changes_with_every_file_that_is_named(name: str, folder: Path) -> None:
    before = project.load(folder).hash
    (folder / "unnamed.md").write_text("not part of it")
    assert project.load(folder).hash == before
    (folder / name).write_text(FILES[name] + "\n")
    assert project.load(folder).hash != before


def test_a_chat_has_free_text_examples_and_no_labels(folder: Path) -> None:
    (folder / "examples.jsonl").write_text('{"input": "Hello", "output": "Hello to you."}\n')
    (folder / "trimtab.yaml").write_text(
        "name: chat\nmodel: {base: echo, prompt: prompt.md, examples: examples.jsonl}\ntask: {kind: chat}\n"
    )
    loaded = project.load(folder)
    assert (loaded.labels, loaded.prompt.examples[0].output) == (None, "Hello to you.")


def test_the_name_is_readable_in_a_file_that_is_otherwise_faulty(folder: Path) -> None:
    (folder / "trimtab.yaml").write_text("name: triage\nmodel: nonsense\nrolout: 3\n")
    assert project.model_name(folder) == "triage"
    (folder / "trimtab.yaml").write_text("name: No Name\nmodel: nonsense\n")
    with pytest.raises(ConfigError) as refused:
        project.model_name(folder)
    assert refused.value.where == "trimtab.yaml:1 name"


def test_the_shipped_schema_is_the_models() -> None:
    shipped = Path(project.__file__).parent.parent / "trimtab.schema.json"
    assert json.loads(shipped.read_text()) == project.schema(), (
        "run: python -m trimtab schema > src/trimtab/trimtab.schema.json"
    )


# ── laws ──────────────────────────────────────────────────────────────────────────────────────────────────────────

rates = st.floats(0.001, 0.2)
monitors = st.fixed_dictionaries(
    {},
    optional={
        "input_drift": st.fixed_dictionaries({}, optional={"window": st.integers(50, 100_000), "alpha": rates}),
        "quality": st.fixed_dictionaries(
            {"min": st.floats(0, 1)}, optional={"field": st.sampled_from(["*", "intent"])}
        ),
    },
)
gates = st.fixed_dictionaries(
    {},
    optional={
        "quality": st.sampled_from(["non_inferior", "better", None]),
        "latency_p95": st.sampled_from(["1.2x", "3x", None]),
        "fairness": st.fixed_dictionaries(
            {"swaps": st.just("names.yaml"), "field": st.just("urgency")},
            optional={"favourable": st.sampled_from([[], ["high"]]), "pairs": st.integers(30, 10**6)},
        ),
    },
)
shares = st.lists(st.integers(1, 99), unique=True, max_size=4).map(
    lambda steps: [f"{s}%" for s in [*sorted(steps), 100]]
)


@st.composite
def projects(draw: st.DrawFn) -> Project:
    """Any project without faults that uses the files of this module."""
    monitor = draw(monitors)
    when = draw(st.lists(st.sampled_from([*monitor, "cron: 0 3 * * SUN", "cron: */5 1-3 1 jan mon-fri"]), unique=True))
    on = draw(st.lists(st.sampled_from(list(monitor)), min_size=1, unique=True)) if monitor else []
    return Project.model_validate(
        {
            "name": draw(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True)),
            "model": {"base": draw(st.sampled_from(["echo", "smollm2-135m-instruct"])), "prompt": "prompt.md"},
            "task": {"labels": "labels.yaml"},
            "monitor": monitor,
            "alerts": [{"on": on, "notify": ["log", "webhook:https://example.com/x"]}] if on else [],
            "retrain": {"when": when, "lora": {"learning_rate": draw(rates), "seed": draw(st.integers())}},
            "gates": draw(gates),
            "rollout": {"canary": draw(shares), "alpha": draw(rates)},
        }
    )


@quick
@given(written=projects())
def test_what_is_written_is_what_is_loaded(written: Project, folder: Path) -> None:
    text = io.StringIO()
    YAML().dump(written.model_dump(mode="json"), text)
    (folder / "trimtab.yaml").write_text(text.getvalue())
    assert project.check(folder, BEFORE_ALL_RETIREMENTS) == []
    assert project.load(folder).project == written


keys = st.sampled_from(
    ["name", "model", "base", "prompt", "monitor", "quality", "on", "when", "canary", "labels", "gates"]
)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["echo", "10%"])
)
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(keys | st.text(max_size=4), v, max_size=3)
)


def only_config_errors(folder: Path) -> None:
    """`check` never raises, each fault can be read and found, and `load` refuses exactly what has an error."""
    faults = project.check(folder, BEFORE_ALL_RETIREMENTS)
    for fault in faults:
        lines = (folder / fault.file).read_bytes().count(b"\n") + 1
        assert str(fault)
        assert fault.fix
        assert fault.line is None or 1 <= fault.line <= lines + 1
    try:
        project.load(folder)
    except ConfigError:
        assert any(fault.severity == "error" for fault in faults)
    else:
        assert faults == []


def replaced(node: Any, path: list[int], value: Any) -> Any:
    """The node with the value at one place, found by walking down `path` (each step modulo the number of children)."""
    if not path or not isinstance(node, dict | list) or not node:
        return value
    places = list(node) if isinstance(node, dict) else list(range(len(node)))
    place = places[path[0] % len(places)]
    copy = dict(node) if isinstance(node, dict) else list(node)
    copy[place] = replaced(copy[place], path[1:], value)
    return copy


@quick
@given(written=projects(), path=st.lists(st.integers(0, 99), min_size=1, max_size=4), value=values)
def test_a_project_with_anything_in_one_place_causes_nothing_but_config_errors(
    written: Project, path: list[int], value: Any, folder: Path
) -> None:
    (folder / "trimtab.yaml").write_text(json.dumps(replaced(written.model_dump(mode="json"), path, value)))
    only_config_errors(folder)


@quick
@given(
    name=st.sampled_from(sorted(FILES)), text=st.text() | values.map(json.dumps) | st.text("a: -[]{},#&*!|>'\"%@`?\n<0")
)
def test_any_text_in_any_file_causes_nothing_but_config_errors(name: str, text: str, folder: Path) -> None:
    for other, content in FILES.items():
        (folder / other).write_text(content)
    (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    only_config_errors(folder)


def test_guards_become_definitions_with_a_hash_of_their_own(folder: Path) -> None:
    text = FILES["trimtab.yaml"]
    assert project.load(folder).guards is None
    written = "guards: {checks: [{kind: pii, action: redact, find: [email]}, {kind: format}], keep: raw}\n"
    (folder / "trimtab.yaml").write_text(text + written)
    guards = project.load(folder).guards
    assert guards is not None
    assert [(g.name, g.direction, g.action) for g in guards.checks] == [
        ("pii", "both", "redact"),
        ("format", "output", "shadow"),
    ]
    assert guards.checks[1].params["schema"]["required"] == ["intent", "urgency"]
    (folder / "trimtab.yaml").write_text(text + written.replace("email", "card"))
    other = project.load(folder).guards
    assert other is not None
    assert other.hash != guards.hash
