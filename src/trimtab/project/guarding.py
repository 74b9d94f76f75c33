"""The guards of trimtab.yaml and the guidelines as definitions, with the files they name read. Faults are noted."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import ceil, log, log1p
from typing import Any

from trimtab.project.reading import Loc, Reading, shown, suggestion
from trimtab.records.guards import Guard, GuardSection, GuardSet
from trimtab.records.guidelines import GuardActive, Guidelines
from trimtab.records.project import Project
from trimtab.records.registry import LabelSet

EXAMPLES = 60
"""Texts that topics need at least."""
SPANS = ("pii", "secrets", "profanity", "names")
"""Kinds that know where in a text it is, and so can redact."""
NAMES_MS = 1000.0
"""What names may take where the file does not say: a language model reads the text, in a thread of its own."""
ASKABLE = ("pii", "secrets", "injection", "profanity", "names", "format")
"""Kinds that a clause of the guidelines can put in force by itself: they need no setting of their own."""
_ONE_WAY = {"format": "output", "topics": "input"}
_OWN: dict[str, tuple[str, ...]] = {
    "find": ("pii", "secrets", "names"),
    "words": ("profanity",),
    "allow_words": ("profanity",),
    "model": ("injection",),
    "threshold": ("injection",),
    "examples": ("topics",),
    "refuse": ("topics",),
    "max_false_blocks": ("topics",),
    "json_schema": ("format",),
    "max_chars": ("length",),
}
"""Which kinds a parameter is for."""
FINDABLE: dict[str, tuple[str, ...]] = {
    "pii": (
        *("iban", "card", "us_ssn", "uk_nhs", "de_tax_id", "fr_nir", "es_dni", "it_fiscal", "ch_ahv", "cn_id"),
        *("br_cpf", "nl_bsn", "pl_pesel", "in_aadhaar", "email", "phone", "ip", "url"),
    ),
    "secrets": (
        *("private_key", "openai_key", "aws_key_id", "github_token", "gitlab_token", "slack_token", "google_key"),
        *("stripe_key", "huggingface_token", "databricks_token", "sendgrid_key", "npm_token", "pypi_token"),
        *("twilio_key", "age_key", "trimtab_key", "jwt", "azure_key", "url_password", "assigned", "bearer"),
    ),
    "names": ("person", "place", "group"),
}
"""What `find` may name, by kind of guard."""


def guards(
    reading: Reading, project: Project, labels: LabelSet | None, book: Guidelines | None = None
) -> GuardSet | None:
    """The set: the guards of trimtab.yaml, and those that clauses of the guidelines ask for and it does not declare.
    None when there is none. What is wrong is left out."""
    section = project.guards
    seen: set[str] = set()
    found: list[Guard] = []
    for index, guard in enumerate((*section.checks, *asked(project, book).values())):
        here: Loc = ("guards", "checks", index)
        name = guard.name or guard.kind
        if name in seen:
            reading.fault(here, f"a second guard is called {shown(name)}", "give one of them a name of its own")
        seen.add(name)
        before = len(reading.faults)
        _sensible(reading, here, guard)
        params = _PARAMS[guard.kind](reading, here, guard, labels)
        if len(reading.faults) == before:
            common = guard.model_dump(include={"kind", "action", "at", "on_error", "time_limit_ms"})
            if guard.kind == "names" and "time_limit_ms" not in guard.model_fields_set:
                common["time_limit_ms"] = NAMES_MS
            direction = _ONE_WAY.get(guard.kind, guard.direction)
            found.append(Guard.model_validate({**common, "name": name, "direction": direction, "params": params}))
    return GuardSet(checks=tuple(found), keep=section.keep, refusal=section.refusal) if found else None


def asked(project: Project, book: Guidelines | None) -> dict[str, GuardSection]:
    """By clause, the guards that clauses of the check guard.active ask for and trimtab.yaml does not declare."""
    declared = {word for guard in project.guards.checks for word in (guard.name, guard.kind)}
    found: dict[str, GuardSection] = {}
    for clause in book.clauses if book and project.task.kind != "scoring" else ():
        wanted = GuardActive.model_validate(clause.parameters) if clause.check == "guard.active" else None
        if wanted is None or wanted.action is None or wanted.guard in declared or wanted.guard not in ASKABLE:
            continue
        number = sum(guard.kind == wanted.guard for guard in found.values())
        found[clause.id] = GuardSection.model_validate(
            {
                "kind": wanted.guard,
                "name": f"{wanted.guard}-{number + 1}" if number else wanted.guard,
                "direction": _ONE_WAY.get(wanted.guard, wanted.direction),
                "action": wanted.action,
            }
        )
    return found


def _sensible(reading: Reading, here: Loc, guard: GuardSection) -> None:
    for name in sorted(guard.model_fields_set & _OWN.keys()):
        if guard.kind not in _OWN[name]:
            reading.fault(
                (*here, name), f"is no setting of {guard.kind}", f"remove it; it is for {', '.join(_OWN[name])}"
            )
    only = _ONE_WAY.get(guard.kind)
    if only and "direction" in guard.model_fields_set and guard.direction != only:
        reading.fault((*here, "direction"), f"{guard.kind} looks at {only} only", f"write direction: {only}")
    actions: list[tuple[Loc, str]] = [((*here, "action"), guard.action)]
    actions += [((*here, "at", place), action) for place, action in guard.at.items()]
    for loc, action in actions:
        if action == "redact" and guard.kind not in SPANS:
            fix = "write shadow, flag or block"
            reading.fault(loc, f"{guard.kind} judges a text as a whole and has nothing to take out", fix)
    for place in guard.at:
        if not place.startswith("/") and place not in ("champion", "canary", "fallback", "shadow"):
            fix = "write a path such as /v1/chat/completions, or champion, canary, fallback, shadow"
            reading.fault((*here, "at", place), f"{shown(place)} is neither a path nor a route", fix)
    for place, kind in enumerate(guard.find):
        known = FINDABLE.get(guard.kind, ())
        if known and kind not in known:
            fix = f"{suggestion(kind, known)}the kinds are {', '.join(known)}"
            reading.fault((*here, "find", place), f"{guard.kind} does not know {shown(kind)}", fix)


_Params = Callable[[Reading, Loc, GuardSection, LabelSet | None], dict[str, Any]]


def _find(reading: Reading, here: Loc, guard: GuardSection, labels: LabelSet | None) -> dict[str, Any]:
    return {"find": list(guard.find)} if guard.find else {}


def _words(reading: Reading, here: Loc, guard: GuardSection, labels: LabelSet | None) -> dict[str, Any]:
    given = {"words": guard.words, "allow_words": guard.allow_words}
    return {name: sorted(word.lower() for word in listed) for name, listed in given.items() if listed}


def _injection(reading: Reading, here: Loc, guard: GuardSection, labels: LabelSet | None) -> dict[str, Any]:
    return {"model": guard.model, "threshold": guard.threshold}


def _topics(reading: Reading, here: Loc, guard: GuardSection, labels: LabelSet | None) -> dict[str, Any]:
    if guard.examples is None:
        fix = "add `examples: FILE`, JSON Lines with an input each"
        reading.fault(here, "topics need examples of what belongs here", fix)
        return {}
    allowed = _texts(reading, (*here, "examples"), guard.examples)
    needed = max(EXAMPLES, ceil(log(0.05) / log1p(-guard.max_false_blocks)))  # so that one rank keeps the promise
    if allowed and len(set(allowed)) < needed:
        fix = f"add more; {needed} are enough to find a threshold for max_false_blocks: {guard.max_false_blocks:g}"
        reading.fault((*here, "examples"), f"has {len(set(allowed))} different texts, fewer than {needed}", fix)
    refused = _texts(reading, (*here, "refuse"), guard.refuse) if guard.refuse else []
    return {"examples": allowed, "refuse": refused, "max_false_blocks": guard.max_false_blocks}


def _texts(reading: Reading, loc: Loc, name: str) -> list[str]:
    text = reading.text(loc, name)
    found: list[str] = []
    for number, line in enumerate((text or "").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            value = row.get("input") or row["message"]
        except (ValueError, KeyError, AttributeError, RecursionError):
            value = None
        if not isinstance(value, str):
            reading.fault(loc, f"{name}, line {number}, has no text", 'write {"input": "…"} on each line')
            return []
        found.append(value)
    return found


def _format(reading: Reading, here: Loc, guard: GuardSection, labels: LabelSet | None) -> dict[str, Any]:
    if guard.json_schema is None:
        return {"schema": labels.json_schema(), "of_labels": True} if labels is not None else {}
    from trimtab.records.json_schema import unknown

    loc: Loc = (*here, "json_schema")
    text = reading.text(loc, guard.json_schema)
    try:
        schema = json.loads(text or "{}")
    except (ValueError, RecursionError):
        reading.fault(loc, f"{guard.json_schema} is not JSON", "write a JSON schema")
        return {}
    if odd := unknown(schema):
        message = f"{guard.json_schema} has keywords that are not checked: {', '.join(odd)}"
        reading.fault(loc, message, "leave them out, so that nobody relies on them")
    return {"schema": schema}


def _length(reading: Reading, here: Loc, guard: GuardSection, labels: LabelSet | None) -> dict[str, Any]:
    if guard.max_chars is None:
        reading.fault(here, "length needs a limit", "add `max_chars: 4000`")
    return {"max_chars": guard.max_chars}


_PARAMS: dict[str, _Params] = {
    **dict.fromkeys(("pii", "secrets", "names"), _find),
    "profanity": _words,
    "injection": _injection,
    "topics": _topics,
    "format": _format,
    "length": _length,
}
