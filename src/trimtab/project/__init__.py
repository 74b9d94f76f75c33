"""The project file: trimtab.yaml and the files it names, read, checked and hashed. It reads files and nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from trimtab.errors import ConfigError
from trimtab.project import companions, guarding, guidelines, retirement, rules
from trimtab.project.reading import Reading, open_project, project_of
from trimtab.records.guards import GuardSet
from trimtab.records.guidelines import Guidelines
from trimtab.records.project import Project
from trimtab.records.record import content_hash
from trimtab.records.registry import LabelSet, Prompt, Thresholds

Swaps = dict[str, dict[str, tuple[str, ...]]]
"""For each sensitive feature, its groups and the names that may be swapped between them."""


@dataclass(frozen=True)
class Loaded:
    """A project without faults.

    `hash`: SHA-256 over the bytes of trimtab.yaml and of every file it names (weights excepted: versions carry their
    hash). `prompt`: system text, and the few-shot examples as one-line answers. `files`: those files, relative to the
    project's folder.
    """

    project: Project
    hash: str
    labels: LabelSet | None
    prompt: Prompt
    swaps: Swaps | None
    guidelines: Guidelines | None = None
    guidelines_sha256: str = ""
    """Of the file's bytes; empty without one."""
    guidelines_text: str = ""
    """The file, to the byte."""
    files: tuple[str, ...] = ()
    guards: GuardSet | None = None
    """As trimtab.yaml and the guidelines say, the texts of example files among the parameters; None: no guard."""
    thresholds: Thresholds | None = None


def load(path: Path) -> Loaded:
    """The project at `path` (trimtab.yaml or its folder). Raises ConfigError for its first error, by line.

    Dates are not looked at: a project stays readable after its provider has retired the model (see `check`).
    """
    reading = open_project(Path(path))
    loaded = _read(reading)
    errors = [fault for fault in _sorted(reading) if fault.severity == "error"]
    if errors:
        raise _first_of(errors)
    assert loaded is not None  # noqa: S101 (a reading that yields no project has noted why)
    return loaded


def check(path: Path, today: date) -> list[ConfigError]:
    """Every fault of the project at once, by file and line; empty when there is none. Warnings are among them."""
    try:
        reading = open_project(Path(path))
    except ConfigError as fault:
        return [fault]
    loaded = _read(reading, today)
    assert loaded is not None or reading.faults  # noqa: S101 (a reading that yields no project has noted why)
    return _sorted(reading)


def model_name(path: Path) -> str:
    """The registered model's name, readable even when the rest of the file is faulty (a rollback must not wait for it).

    Raises ConfigError when the file cannot be read or the name is wrong.
    """
    reading = open_project(Path(path))
    project = project_of(reading)
    if project is None or reading.is_broken(("name",)):
        raise next((fault for fault in reading.faults if fault.field == "name"), reading.faults[0])
    return project.name


def schema() -> dict[str, Any]:
    """JSON Schema of trimtab.yaml, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Project.model_json_schema()


def _read(reading: Reading, today: date | None = None) -> Loaded | None:
    project = project_of(reading)
    if project is None:
        return None
    if today is not None:
        retirement.look(reading, project.model.base, today)
        retirement.look_at_fine_tuning(reading, project, today)
    labels = companions.labels(reading, project)
    prompt = companions.prompt(reading, project, labels)
    swaps = companions.swaps(reading, project)
    thresholds = companions.thresholds(reading, project)
    rules.look(reading, project, labels, prompt, thresholds, swaps)
    rule_book = guidelines.guidelines(reading, project)
    guards = guarding.guards(reading, project, labels, rule_book)
    return Loaded(
        project,
        content_hash(reading.digests),
        labels,
        prompt,
        swaps,
        rule_book,
        reading.digests.get("guidelines", ""),
        reading.texts.get("guidelines", ""),
        tuple(dict.fromkeys(reading.files)),
        guards,
        thresholds,
    )


def _sorted(reading: Reading) -> list[ConfigError]:
    """By file, the project's first, and line; what has no line comes last."""
    main = reading.main.file
    return sorted(reading.faults, key=lambda fault: (fault.file != main, fault.file, fault.line or math.inf))


def _first_of(errors: list[ConfigError]) -> ConfigError:
    first = errors[0]
    if len(errors) == 1:
        return first
    fix = f"{first.fix} ({len(errors) - 1} more: run `trimtab check`)"
    return ConfigError(str(first), fix, file=first.file, line=first.line, field=first.field, value=first.value)
