"""Forget somebody, and what is too old: the order in which every copy goes, what stands in the way, and the record.

What is erased: the rows' payload and identity, feedback on them, their frames in journals, their rows in datasets, the
subject's protected attributes and key. What stays: the rows' metadata until retention, the seals, and a tombstone.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from trimtab.errors import Fixable
from trimtab.lifecycle.rows import Rows, on_spark
from trimtab.project import Loaded
from trimtab.records.erasure import ErasureRequest, Hold, RetentionRun, Tombstone
from trimtab.records.guidelines import LogRetention
from trimtab.records.project import Project
from trimtab.records.registry import ModelVersion
from trimtab.records.training import TWIN, Case
from trimtab.settings import Settings
from trimtab.store import attributes, erasing, key_places, seals
from trimtab.store.control import Control
from trimtab.store.drain import drain
from trimtab.store.subjects import Subjects, subject_of


@dataclass(frozen=True)
class Plan:
    """What an erasure would reach. `held`: why it may not be done; empty: it may.

    `subject` is empty for a request that says nothing of whose it was: then its row alone is erased, and no key is
    destroyed. `name` is what tombstones know it by, before it is hashed.
    """

    subject: str
    name: str
    pseudonym: str
    rows: pl.DataFrame
    feedback: list[str]
    datasets: dict[str, int]
    versions: tuple[int, ...]
    attributes: int
    held: str
    tables: erasing.Tables

    @property
    def request_ids(self) -> set[str]:
        return set(self.rows["databricks_request_id"])

    @property
    def client_request_ids(self) -> set[str]:
        return {name for name in self.rows["client_request_id"] if name}


def plan(settings: Settings, loaded: Loaded, control: Control, subject: str, where: Rows) -> Plan:
    """What erasing a subject would reach, changing nothing but bringing in what arrived."""
    choose(settings, loaded.project)
    where.arrive()
    rows = where.tables.rows_of(loaded.project.evidence.subject, {subject})
    return _planned(settings, loaded, control, where.tables, rows, subject, subject)


def plan_request(settings: Settings, loaded: Loaded, control: Control, request: str, where: Rows) -> Plan:
    """The same for the subject of a request, found by its id or its client's; where it has no subject, for it alone.

    Raises Fixable when there is no such request.
    """
    choose(settings, loaded.project)
    where.arrive()
    row = where.tables.row_of(request)
    if not len(row):
        raise Fixable(f"there is no request {request}", "give the x-request-id of an answer, or your client_request_id")
    subject = subject_of(row.row(0, named=True), loaded.project.evidence.subject)
    if subject:
        return plan(settings, loaded, control, subject, where)
    return _planned(settings, loaded, control, where.tables, row, "", f"request {row['databricks_request_id'][0]}")


def _planned(
    settings: Settings,
    loaded: Loaded,
    control: Control,
    tables: erasing.Tables,
    rows: pl.DataFrame,
    subject: str,
    name: str,
) -> Plan:
    ids = set(rows["databricks_request_id"])
    clients = {name for name in rows["client_request_id"] if name}
    found = _in_datasets(settings, ids)
    trained = {Path(file).parent.name for file in found if Path(file).name == "train.jsonl"}
    per_dataset: Counter[str] = Counter()
    for name_of, count in {Path(*Path(file).parts[-2:]): count for file, count in found.items()}.items():
        per_dataset[name_of.parent.name] += count  # a copy that is shared is the same rows
    versions = control.facts("version", ModelVersion, f"{loaded.project.name}/")
    pseudonym = Subjects(settings).pseudonym(name)
    return Plan(
        subject=subject,
        name=name,
        pseudonym=pseudonym,
        rows=rows,
        feedback=tables.feedback_about(ids, clients),
        datasets=dict(per_dataset),
        versions=tuple(version.version for version in versions if version.data_hash in trained),
        attributes=attributes.count(settings, pseudonym),
        held=holds(control).get(pseudonym, ""),
        tables=tables,
    )


def erase(settings: Settings, loaded: Loaded, control: Control, planned: Plan, by: str, now: datetime) -> Tombstone:
    """Do what was planned. A crash is cured by doing it again. Raises Fixable under a legal hold."""
    if planned.held:
        raise Fixable(f"a legal hold stands: {planned.held}", "lift it with `trimtab hold SUBJECT --lift`")
    seals.seal(settings, control, loaded.project.name, now)  # the log commits to what was there before it goes
    begun = ErasureRequest(subject=planned.pseudonym, at=now, by=by, rows=len(planned.rows))
    name = f"{loaded.project.name}/{planned.pseudonym[:16]}/{now.isoformat()}"
    control.put("erase_request", f"{name}/begun", begun)  # so that an emptied row is explained, also after a crash
    ids, clients = planned.request_ids, planned.client_request_ids
    planned.tables.delete_feedback(planned.feedback)
    _clean_datasets(settings, ids)
    control.forget("answers")  # what versions said to rows in evaluations: kept to save work, and asked again
    frames = erasing.erase_journal(settings, ids, clients)
    gone = attributes.erase(settings, planned.pseudonym)
    planned.tables.erase_rows(planned.rows)  # after all that is found by the rows, or a crash would leave it behind
    destroyed = planned.subject != "" and Subjects(settings).destroy(planned.subject, now)
    stone = Tombstone(
        subject=planned.pseudonym,
        at=now,
        by=by,
        rows=len(planned.rows),
        feedback=len(planned.feedback),
        journal_frames=frames,
        dataset_rows=planned.datasets,
        versions=planned.versions,
        attributes=gone,
        key_destroyed=destroyed,
    )
    control.put("tombstone", name, stone)
    return stone


def ask(settings: Settings, loaded: Loaded, control: Control, subject: str, by: str, now: datetime) -> ErasureRequest:
    """Record that somebody asked to be forgotten: it stays open until it is done (check erasure.backlog)."""
    request = ErasureRequest(subject=Subjects(settings).pseudonym(subject), at=now, by=by)
    control.put("erase_request", f"{loaded.project.name}/{request.subject[:16]}/{now.isoformat()}", request)
    return request


def hold(
    settings: Settings,
    loaded: Loaded,
    control: Control,
    subject: str,
    *,
    lift: bool,
    reason: str,
    by: str,
    now: datetime,
) -> Hold:
    """Set or lift a legal hold on a subject."""
    name = Subjects(settings).pseudonym(subject)
    if lift and name not in holds(control):
        raise Fixable(f"there is no hold on {subject}", "nothing needs to be lifted")
    set_ = Hold(subject=name, action="lifted" if lift else "set", reason=reason, at=now, by=by)
    control.put("hold", f"{loaded.project.name}/{name[:16]}/{now.isoformat()}/{set_.action}", set_)
    return set_


def holds(control: Control) -> dict[str, str]:
    """Subjects (as keyed hashes) under a legal hold, and why."""
    standing: dict[str, str] = {}
    for event in control.facts("hold", Hold):
        if event.action == "set":
            standing[event.subject] = event.reason
        else:
            standing.pop(event.subject, None)
    return standing


@dataclass(frozen=True)
class Old:
    """What the schedule reaches now: rows whose content goes, rows that go as a whole, rows that a hold keeps."""

    content: pl.DataFrame
    metadata: pl.DataFrame
    held: int
    content_before: datetime | None
    metadata_before: datetime | None


def due(settings: Settings, loaded: Loaded, control: Control, now: datetime) -> Old:
    """What `evidence.retention` reaches now, changing nothing but bringing the journal into the lake.

    No row is deleted before its time under the guidelines.
    """
    choose(settings, loaded.project)
    drain(settings)
    field = loaded.project.evidence.subject
    standing, subjects = holds(control), Subjects(settings)
    limits = [None if days is None else now - timedelta(days=days) for days in kept_days(loaded)]
    held, found = 0, list[pl.DataFrame]()
    for before, metadata in zip(limits, (False, True), strict=True):
        rows = erasing.older(settings, before or datetime.min.replace(tzinfo=now.tzinfo))
        said = [not seals.erased(row) for row in rows.iter_rows(named=True)]
        rows = rows if metadata else rows.filter(pl.Series(said, dtype=pl.Boolean))
        free = [subjects.pseudonym(subject_of(row, field)) not in standing for row in rows.iter_rows(named=True)]
        held = max(held, len(free) - sum(free))
        found.append(rows.filter(pl.Series(free, dtype=pl.Boolean)))
    return Old(found[0], found[1], held, limits[0], limits[1])


def kept_days(loaded: Loaded) -> tuple[int | None, int | None]:
    """Days that content and metadata are kept; None: for good. Metadata no shorter than a clause on it asks for."""
    section, book = loaded.project.evidence.retention, loaded.guidelines
    clauses = [clause for clause in book.clauses if clause.check == "log.retention"] if book else []
    least = max((LogRetention.model_validate(clause.parameters).min_days for clause in clauses), default=0)
    days = section.metadata_days
    return section.content_days, None if days is None else max(days, least)


def retain(settings: Settings, loaded: Loaded, control: Control, old: Old, by: str, now: datetime) -> RetentionRun:
    """Apply the schedule: erase old content, delete old rows, with their feedback and journal frames."""
    seals.seal(settings, control, loaded.project.name, now)
    ids = set(old.metadata["databricks_request_id"])
    clients = {name for name in old.metadata["client_request_id"] if name}
    feedback = erasing.feedback_about(settings, ids, clients)
    run = RetentionRun(
        at=now,
        by=by,
        content_before=old.content_before,
        content_rows=len(old.content),
        metadata_before=old.metadata_before,
        metadata_rows=len(old.metadata),
        metadata_last=max(old.metadata["row"], default=-1),
        feedback=len(feedback),
        held=old.held,
    )
    control.put("retention", f"{loaded.project.name}/{now.isoformat()}", run)
    if len(old.content):
        emptied = set(old.content["databricks_request_id"])
        _clean_datasets(settings, emptied)
        erasing.erase_journal(settings, emptied, set())
        erasing.erase_rows(settings, old.content, identity=False)
    erasing.delete_feedback(settings, feedback)
    erasing.delete_rows(settings, old.metadata)
    return run


def choose(settings: Settings, project: Project) -> None:
    """Tell those who write the lake of this machine without reading the file what it decides.

    Raises Fixable where rows would be encrypted under keys that the machines which share them cannot reach. In a
    workspace nothing is: rows are the endpoint's there, and as it writes them.
    """
    section = project.evidence
    encrypt = section.erasure == "subject_keys" and not on_spark(project)
    if encrypt:
        key_places.refuse_keys_apart(settings)
    Subjects(settings).choose(encrypt=encrypt, field=section.subject)


def _in_datasets(settings: Settings, request_ids: set[str]) -> dict[str, int]:
    """Files of datasets with rows of these requests, here and in a volume that is shared, and how many."""
    found: dict[str, int] = {}
    shared = (settings.files_url or "").partition("file://")[2]
    folders = [settings.datasets, *([Path(shared) / "datasets"] if shared else [])]
    for file in sorted(file for folder in folders for file in folder.glob("*/*.jsonl")):
        count = sum(_is_of(line, request_ids) for line in file.read_text().splitlines())
        if count:
            found[str(file)] = count
    return found


def _clean_datasets(settings: Settings, request_ids: set[str]) -> None:
    """Remove these requests' rows, and their twins, from every dataset."""
    for file in _in_datasets(settings, request_ids):
        path = Path(file)
        kept = [line for line in path.read_text().splitlines() if not _is_of(line, request_ids)]
        draft = path.with_name(f".{path.name}")
        with draft.open("w") as out:
            out.write("".join(f"{line}\n" for line in kept))
            out.flush()
            os.fsync(out.fileno())
        draft.replace(path)


def _is_of(line: str, request_ids: set[str]) -> bool:
    return Case.model_validate_json(line).request_id.removesuffix(TWIN) in request_ids
