"""Explain one answer: what gave it, who decided that it may, and what it learned that is most like the question."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from trimtab.errors import Fixable, TrimtabError
from trimtab.lifecycle.compliance import guards
from trimtab.monitor import embed
from trimtab.promotion.gather import cases
from trimtab.records.promotion import Decision
from trimtab.records.record import Record
from trimtab.records.registry import AliasMove, ModelVersion
from trimtab.records.training import DatasetVersion
from trimtab.registry import project_files
from trimtab.settings import Settings
from trimtab.store.control import Control
from trimtab.store.lake import Lake

NEAREST = 5


class Near(Record):
    """A training row, and its likeness to the question: the cosine of their text vectors, -1 to 1."""

    request_id: str
    likeness: float
    text: str
    label: dict[str, str]


class Explanation(Record):
    """Why an answer is what it is, as far as records tell."""

    request_id: str
    asked_at: datetime
    route: str
    question: str | None
    answer: str | None
    version: str
    spec_sha256: str
    base: str
    adapter_sha256: str | None
    prompt: str
    live_since: AliasMove | None
    decision: Decision | None
    outcome: str
    mitigations: tuple[str, ...]
    """What kept the version's answers from depending on a group, or on an order."""
    guards: tuple[str, ...]
    """What stood guard over this version."""
    guard_events: tuple[str, ...]
    """What they found in this request and its answer, and did; never the text itself."""
    guidelines_sha256: str
    """Of those in force when the request came; empty: none, or not recorded."""
    nearest: tuple[Near, ...]
    missing: tuple[str, ...]


def explain(settings: Settings, control: Control, request_id: str) -> Explanation:
    """Explain the answer to a request, by our id or the client's. Raises Fixable when no such request is on record."""
    rows = Lake(settings).find(request_id).to_dicts()
    if not rows:
        fix = "give the x-request-id of an answer; one that just came is in the lake within a second of `trimtab up`"
        raise Fixable(f"there is no request {request_id}", fix)
    row = rows[0]
    version = control.get("version", f"{row['model_name']}/{row['model_version']}", ModelVersion)
    if version is None:
        raise Fixable(
            f"version {row['model_version']} of {row['model_name']} is not registered here", "use its project"
        )
    move = _live_since(control, version, row["request_time"])
    decision = control.get("decision", move.decision, Decision) if move and move.decision else None
    nearest, missing = _nearest(settings, control, version, row["input_text"])
    if row["input_text"] is None and row["request"] is None:
        missing.append("The question and the answer were erased.")
    file = project_files.in_force(control, version.spec.model, row["request_time"])
    if file is None:
        missing.append("What trimtab.yaml and the guidelines said then was not recorded.")
    if decision is None:
        missing.append("No decision stands behind this version: it was registered, not promoted by a cycle.")
    return Explanation(
        request_id=row["databricks_request_id"],
        asked_at=row["request_time"],
        route=row["route"],
        question=row["input_text"],
        answer=row["output_text"],
        version=f"{version.spec.model}/{version.version}",
        spec_sha256=version.spec.hash,
        base=version.spec.base.name,
        adapter_sha256=version.spec.adapter_sha256,
        prompt=version.spec.prompt.system,
        live_since=move,
        decision=decision,
        outcome=row["outcome"],
        mitigations=tuple(f"{name}: {detail}" for name, detail in version.spec.mitigations.items()),
        guard_events=tuple(
            f"{one['name']} ({one['direction']}): {one['action']}, found {one['found']} {one['count']} times"
            for one in row["guard_events"] or ()
        ),
        guards=tuple(f"{guard.name} ({guard.direction}, {guard.action})" for guard in guards(version)),
        guidelines_sha256=file.guidelines_sha256 if file else "",
        nearest=nearest,
        missing=tuple(missing),
    )


def _live_since(control: Control, version: ModelVersion, asked: datetime) -> AliasMove | None:
    """The move that put the version before callers, as it stood when the request came."""
    moves = control.facts("alias_move", AliasMove, f"{version.spec.model}/")
    mine = [move for move in moves if move.after == version.version and move.at <= asked]
    return mine[-1] if mine else None


def _nearest(
    settings: Settings, control: Control, version: ModelVersion, question: str | None
) -> tuple[tuple[Near, ...], list[str]]:
    dataset = control.get("dataset", version.data_hash, DatasetVersion) if version.data_hash else None
    if dataset is None or not (Path(dataset.path) / "train.jsonl").exists():
        return (), ["This version learned from no rows of this project."]
    if not question:
        return (), []
    rows = cases(dataset, "train")
    try:
        table = embed.load(settings.blobs)
    except (TrimtabError, OSError) as error:
        return (), [f"Training rows cannot be compared with the question: {error}"]
    texts: Sequence[str] = [question, *(case.input for case in rows)]
    vectors: Any = embed.vectors(table, texts)
    likeness = vectors[1:] @ vectors[0]
    best = sorted(range(len(rows)), key=lambda place: -float(likeness[place]))[:NEAREST]
    near = [
        Near(
            request_id=rows[place].request_id,
            likeness=round(float(likeness[place]), 4),
            text=rows[place].input,
            label=rows[place].label,
        )
        for place in best
    ]
    return tuple(near), []
