"""guidelines.yaml: intended use and clauses, checked against the table of checks. Faults are noted, not raised."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import get_args

from pydantic import ValidationError

from trimtab.errors import ConfigError
from trimtab.project.guarding import ASKABLE, SPANS
from trimtab.project.reading import Document, Loc, Reading, parse, section_of, shown, suggestion
from trimtab.records.guards import GuardKind
from trimtab.records.guidelines import CHECKS, Attest, Clause, GuardActive, Guidelines, LogRetention
from trimtab.records.project import Project

GUIDELINES: Loc = ("guidelines",)
_KINDS = get_args(GuardKind)


def guidelines(reading: Reading, project: Project) -> Guidelines | None:
    """The guidelines, or None when the project names none or they are wrong."""
    name = project.guidelines
    document = None if name is None or reading.is_broken(GUIDELINES) else reading.yaml(GUIDELINES, name)
    if document is None:
        return None
    if not isinstance(document.data, dict):
        fix = "write system, owner, intended_use and clauses: see docs/compliance.md"
        reading.fault((), "is not a mapping", fix, document=document)
        return None
    before = _errors(reading)
    found = section_of(reading, document, Guidelines)
    if found is None:
        return None
    _people(reading, document, found)
    twice = [key for key, count in Counter(clause.id for clause in found.clauses).items() if count > 1]
    for place, clause in enumerate(found.clauses):
        loc: Loc = ("clauses", place)
        if clause.id in twice:
            message = f"{clause.id} stands in the list twice"
            reading.fault((*loc, "id"), message, "give each clause an id of its own", document=document)
        _check(reading, document, loc, clause, found, project)
    return found if _errors(reading) == before else None


def read_back(text: str) -> Guidelines | None:
    """Guidelines from their recorded text; None when this release does not read what another one wrote."""
    try:
        data = parse(text.removeprefix("\ufeff"), "guidelines.yaml").data
        return Guidelines.model_validate_json(json.dumps(data), strict=True)
    except (ConfigError, ValidationError):
        return None


def _errors(reading: Reading) -> int:
    return sum(fault.severity == "error" for fault in reading.faults)


def _people(reading: Reading, document: Document, found: Guidelines) -> None:
    for name, key in found.people.items():
        if not re.fullmatch(rf"{re.escape(name)}\+[0-9a-f]{{8}}\+[A-Za-z0-9+/]{{44}}", key):
            message, fix = f"{shown(key)} is not a key of {name}", "paste what `trimtab compliance key` printed"
            reading.fault(("people", name), message, fix, document=document)


def _check(reading: Reading, document: Document, loc: Loc, clause: Clause, found: Guidelines, project: Project) -> None:
    model = CHECKS.get(clause.check)
    if model is None:
        fix = f"{suggestion(clause.check, CHECKS)}the checks are {', '.join(CHECKS)}"
        reading.fault((*loc, "check"), f"unknown check {shown(clause.check)}", fix, document=document)
        return
    required = [name for name, info in model.model_fields.items() if info.is_required()]
    if required and not clause.parameters:
        message, fix = f"{clause.check} needs parameters", f"add `with: {{{required[0]}: …}}`"
        reading.fault((*loc, "check"), message, fix, document=document)
        return
    parameters = section_of(reading, document, model, (*loc, "with")) if clause.parameters else model()
    unknown = [name for name in parameters.by if name not in found.people] if isinstance(parameters, Attest) else []
    if unknown:
        message, fix = f"{shown(unknown[0])} has no key", "add the person under `people`"
        reading.fault((*loc, "with", "by"), message, fix, document=document)
    days = project.evidence.retention.metadata_days
    if isinstance(parameters, LogRetention) and days is not None and days < parameters.min_days:
        fix = f"write metadata_days: {parameters.min_days} or more; `trimtab retention` keeps rows that long anyway"
        message = f"trimtab.yaml keeps metadata for {days} days, fewer than this clause asks for"
        reading.fault((*loc, "check"), message, fix, document=document, severity="warning")
    if isinstance(parameters, GuardActive):
        _guard(reading, document, (*loc, "with"), parameters, project)


def _guard(reading: Reading, document: Document, loc: Loc, wanted: GuardActive, project: Project) -> None:
    """A clause must ask for what a guard can do, and trimtab.yaml may not set that guard to less without a warning."""
    declared = [guard for guard in project.guards.checks if wanted.guard in (guard.name, guard.kind)]
    kind = declared[0].kind if declared else wanted.guard
    if wanted.action == "redact" and kind in _KINDS and kind not in SPANS:
        message = f"{kind} judges a text as a whole and has nothing to take out"
        reading.fault((*loc, "action"), message, "write block or flag", document=document)
    if declared:
        acting = [guard for guard in declared if not {guard.action, *guard.at.values()} & {"shadow", "allow"}]
        if not any(wanted.action in (None, guard.action) for guard in acting):
            message = f"trimtab.yaml sets {wanted.guard} to something else than the clause asks for: it cannot pass"
            reading.fault((*loc, "guard"), message, "change one of the two", document=document, severity="warning")
    elif wanted.guard not in ASKABLE:
        message = f"trimtab.yaml declares no guard {shown(wanted.guard)}: it cannot pass"
        fix = f"declare it under guards.checks in trimtab.yaml, or ask for one of {', '.join(ASKABLE)}"
        reading.fault((*loc, "guard"), message, fix, document=document, severity="warning")
    elif wanted.action is None:
        fix = "add `action: block`, redact or flag, so that the clause puts it in force"
        message = f"nothing says what the guard {wanted.guard} is to do: it cannot pass"
        reading.fault((*loc, "guard"), message, fix, document=document, severity="warning")
