"""Seals: the audit log commits to what was answered, row by row, without holding a word of it.

A row's leaf is a hash of its metadata and of a keyed hash (HMAC under its subject's key) of its payload as it is
stored, which in an encrypted lake is the ciphertext. A row whose payload was erased keeps its leaf: its metadata and
the keyed hash, which nothing can be compared with any more, stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from trimtab.errors import Corrupt
from trimtab.records.erasure import ErasureRequest, Macs, RetentionRun, Seal
from trimtab.records.record import canonical_json
from trimtab.settings import Settings
from trimtab.store.control import Control
from trimtab.store.lake import PAYLOAD, Lake, subjects_of
from trimtab.store.subjects import SubjectKey, Subjects, digest, keyed_hash, subject_of
from trimtab.store.verify_audit import leaf_hash, root

ROWS = 4096
"""Rows of one seal, at most."""
METADATA = (
    "row",
    "databricks_request_id",
    "request_time",
    "status_code",
    "outcome",
    "model_name",
    "model_version",
    "route",
    "execution_duration_ms",
    "input_tokens",
    "output_tokens",
)
"""Columns that a leaf holds as they are: none of them says who asked or what."""


def seal(settings: Settings, control: Control, model: str, now: datetime) -> int:
    """Seal every row that is not sealed yet; returns how many were."""
    lake, subjects, sealed = Lake(settings), Subjects(settings), 0
    field = subjects.field
    while (first := sealed_to(control, model)) < (end := lake.count()):
        last = min(end, first + ROWS)
        rows = lake.stored(first, last)
        keys = subjects.keys(subjects_of(rows, field), now)
        key = f"{model}/{first:012}"
        control.put("seal_macs", key, Macs(macs=tuple(_mac(row, keys, field) for row in rows.iter_rows(named=True))))
        kept = control.get("seal_macs", key, Macs)  # fewer, or of payloads since erased, where a writer was killed here
        if kept is None:
            raise Corrupt(f"the keyed hashes of the rows from {first} on vanished")
        leaves = [leaf(row, mac) for row, mac in zip(rows.iter_rows(named=True), kept.macs, strict=False)]
        last = first + len(leaves)
        control.put("seal", key, Seal(first=first, last=last, root=root(leaves).hex(), field=field, at=now))
        sealed += last - first
    return sealed


def sealed_to(control: Control, model: str) -> int:
    """The first row that is not sealed."""
    newest = control.last("seal", Seal, f"{model}/")
    return newest.last if newest else 0


def faults(settings: Settings, control: Control, model: str, rows: int) -> list[str]:
    """What is wrong with the newest `rows` sealed rows (0: all), in words.

    Metadata is held against the root in the log; a payload that is there, against its keyed hash. A seal that retention
    reached into, as the log says, has nothing to be held against any more.
    """
    lake, subjects, found = Lake(settings), Subjects(settings), list[str]()
    end, emptied = sealed_to(control, model), 0
    deleted_to = max((run.metadata_last for run in control.facts("retention", RetentionRun)), default=-1)
    for sealed in reversed(control.facts("seal", Seal, f"{model}/")):
        if rows and sealed.last <= end - rows:
            break
        known = control.get("seal_macs", f"{model}/{sealed.first:012}", Macs)
        there = lake.stored(sealed.first, sealed.last)
        missing = set(range(sealed.first, sealed.last)) - set(there["row"])
        if missing and max(missing) <= deleted_to:
            continue
        if known is None or missing:
            found.append(f"rows {sealed.first} to {sealed.last - 1} are sealed, and {len(there)} of them are there")
            continue
        pairs = list(zip(there.iter_rows(named=True), known.macs, strict=True))
        if root([leaf(row, mac) for row, mac in pairs]).hex() != sealed.root:
            found.append(f"rows {sealed.first} to {sealed.last - 1} are not those that were sealed")
            continue
        emptied += sum(erased(row) for row, _ in pairs)
        keys = subjects.keys((subject_of(row, sealed.field) for row, _ in pairs if not erased(row)), sealed.at)
        changed = [row["row"] for row, mac in pairs if not erased(row) and _mac(row, keys, sealed.field) != mac]
        found += [f"the payload of row {row} is not the one that was sealed" for row in changed]
    told = sum(request.rows for request in control.facts("erase_request", ErasureRequest))
    told += sum(run.content_rows for run in control.facts("retention", RetentionRun))
    if emptied > told:
        found.append(f"{emptied} rows have no payload any more, and the log explains {told}")
    return found


def leaf(row: dict[str, Any], mac: str) -> bytes:
    """A row's hash in its seal's tree."""
    values = {name: row[name].isoformat() if name == "request_time" else row[name] for name in METADATA}
    return leaf_hash(canonical_json({"payload": mac, **values}).encode())


def erased(row: dict[str, Any]) -> bool:
    """Whether nothing of a row's payload is left."""
    return all(row[name] is None for name in PAYLOAD)


def _mac(row: dict[str, Any], keys: Mapping[str, SubjectKey], field: str) -> str:
    return keyed_hash(keys[subject_of(row, field)], digest([row[name] for name in PAYLOAD]))
