"""The files that trimtab.yaml names: labels, prompt, few-shot examples, names to swap. Faults are noted, not raised."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import ValidationError

from trimtab.errors import ConfigError
from trimtab.project.reading import Document, Loc, Reading, shown, suggestion
from trimtab.records.project import PYFUNC, Project
from trimtab.records.registry import Example, LabelSet, Prompt, Thresholds

KIND: Loc = ("task", "kind")
LABELS: Loc = ("task", "labels")
PROMPT: Loc = ("model", "prompt")
EXAMPLES: Loc = ("model", "examples")
THRESHOLDS: Loc = ("model", "thresholds")
SWAPS: Loc = ("gates", "fairness", "swaps")


def labels(reading: Reading, project: Project) -> LabelSet | None:
    """The label set, or None when the file names none or it is wrong."""
    name = project.task.labels
    document = _yaml(reading, LABELS, name)
    if document is None:
        return None
    before = len(reading.faults)
    if not isinstance(document.data, dict) or not document.data:
        reading.fault((), "is not a mapping of fields", "write `field: [value, value]`", document=document)
        return None
    for key, values in document.data.items():
        _check_values(reading, document, key, values)
    if len(reading.faults) > before:
        reading.broken.append(LABELS)
        return None
    return LabelSet(fields={key: tuple(values) for key, values in document.data.items()})


def prompt(reading: Reading, project: Project, label_set: LabelSet | None) -> Prompt:
    """The system text and the examples; what is wrong is left out."""
    if project.model.prompt is None:
        if not project.model.base.startswith(PYFUNC):
            reading.fault(PROMPT, "missing", "add `prompt: …`, a file that says what the model is to do")
        return Prompt(system="")
    system = "" if reading.is_broken(PROMPT) else reading.text(PROMPT, project.model.prompt)
    if system is not None and not system.strip():
        reading.fault(PROMPT, f"{project.model.prompt} is empty", "write what the model is to do")
    return Prompt(system=(system or "").strip(), examples=_examples(reading, project, label_set))


def thresholds(reading: Reading, project: Project) -> Thresholds | None:
    """The thresholds by group, or None when the file names none or they are wrong."""
    name = project.model.thresholds
    text = None if name is None or reading.is_broken(THRESHOLDS) else reading.text(THRESHOLDS, name)
    if text is None:
        return None
    try:
        return Thresholds.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        fix = "write what `trimtab fairness mitigate --method thresholds` printed"
        reading.fault(THRESHOLDS, f"{shown(name)} holds no thresholds: {where}: {first['msg']}", fix)
        return None


def swaps(reading: Reading, project: Project) -> dict[str, dict[str, tuple[str, ...]]] | None:
    """Names by group by sensitive feature, or None when there is no fairness gate or the file is wrong."""
    gate = project.gates.fairness
    document = _yaml(reading, SWAPS, gate.swaps if gate else None)
    if gate is None or document is None:
        return None
    if not isinstance(document.data, dict):
        reading.fault((), "is not a mapping of sensitive features", _SWAPS_FIX, document=document)
        return None
    before = len(reading.faults)
    for feature, groups in document.data.items():
        _check_groups(reading, document, feature, groups)
    if len(reading.faults) > before:
        reading.broken.append(SWAPS)
        return None
    return {f: {g: tuple(names) for g, names in groups.items()} for f, groups in document.data.items()}


_SWAPS_FIX = "write at least two groups of names: `name_group: {a: [Full Name, …], b: [Full Name, …]}`"


def _yaml(reading: Reading, loc: Loc, name: str | None) -> Document | None:
    """The named file; what cannot be read marks its field as broken, so that no check complains of its absence."""
    if name is None or reading.is_broken(loc):
        return None
    document = reading.yaml(loc, name)
    if document is None:
        reading.broken.append(loc)
    return document


def _check_values(reading: Reading, document: Document, key: str, values: Any) -> None:
    if not isinstance(values, list) or len(values) < 2:
        reading.fault((key,), "needs a list of at least two values", f"write `{key}: [a, b]`", document=document)
        return
    for index, value in enumerate(values):
        if not isinstance(value, str) or not value:
            message, fix = f"{shown(value)} is not text", "put it in quotes"
            reading.fault((key, index), message, fix, document=document)
        elif value in values[:index]:
            message = f"{shown(value)} stands in the list twice"
            reading.fault((key, index), message, "remove one of them", document=document)


def _check_groups(reading: Reading, document: Document, feature: str, groups: Any) -> None:
    if not isinstance(groups, dict) or len(groups) < 2:
        reading.fault((feature,), "needs at least two groups of names", _SWAPS_FIX, document=document)
        return
    seen: dict[str, str] = {}
    for group, names in groups.items():
        if not isinstance(names, list) or not names:
            reading.fault((feature, group), "has no names", _SWAPS_FIX, document=document)
            continue
        for index, name in enumerate(names):
            loc: Loc = (feature, group, index)
            spelled = re.sub(r"[\s._-]+", " ", name).casefold().strip() if isinstance(name, str) else ""
            if not spelled:
                reading.fault(loc, f"{shown(name)} is not a name", "write a full name", document=document)
            elif spelled in seen:
                message = f"{shown(name)} stands in group {seen[spelled]} already"
                reading.fault(loc, message, "list each name once, in one group", document=document)
            seen.setdefault(spelled, group)


def _examples(reading: Reading, project: Project, label_set: LabelSet | None) -> tuple[Example, ...]:
    name = project.model.examples
    text = None if name is None or reading.is_broken(EXAMPLES) else reading.text(EXAMPLES, name)
    if name is None or text is None:
        return ()
    found: list[Example] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            answer = _example(reading, name, number, line, label_set)
            found += [answer] if answer else []
    return tuple(found)


def _example(reading: Reading, file: str, number: int, line: str, label_set: LabelSet | None) -> Example | None:
    def fault(field: str, message: str, fix: str, value: Any = "") -> None:
        reading.faults.append(ConfigError(message, fix, file=file, line=number, field=field, value=shown(value)))

    shape = 'write {"input": "…", "output": {"field": "value"}} on one line'
    try:
        row = json.loads(line)
        line.encode()
        json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        fault("", "is not one JSON object", shape)
        return None
    if not isinstance(row, dict) or set(row) != {"input", "output"} or not isinstance(row["input"], str):
        fault("", "needs exactly an input (text) and an output", shape)
        return None
    output = row["output"]
    if label_set is None:
        if isinstance(output, str):
            return Example(input=row["input"], output=output)
        if not (reading.is_broken(LABELS) or reading.is_broken(KIND)):
            fault("output", f"{shown(output)} is not text", "write the answer as text, or give the task labels", output)
        return None
    if not isinstance(output, dict):
        fault("output", f"{shown(output)} is not an object of labels", shape, output)
        return None
    problem = _mislabelled(output, label_set)
    if problem:
        fault(*problem)
        return None
    return Example(input=row["input"], output=label_set.dump(output))


def _mislabelled(output: dict[str, Any], label_set: LabelSet) -> tuple[str, str, str, Any] | None:
    """What is wrong with the labels of an example: field, message, fix, value."""
    for key, value in output.items():
        allowed = label_set.fields.get(key)
        if allowed is None:
            fix = f"{suggestion(key, label_set.fields)}the fields are {', '.join(label_set.fields)}"
            return f"output.{shown(key)}", f"{shown(key)} is not a field of the labels", fix, value
        if value not in allowed:
            fix = f"{suggestion(str(value), allowed)}use one of {', '.join(allowed)}, or add it to the labels"
            return f"output.{key}", f"{shown(value)} is not in the list of {key}", fix, value
    missing = [key for key in label_set.fields if key not in output]
    if missing:
        return "output", f"has no {', '.join(missing)}", "give every field a value", output
    return None
