"""The audit chain: each entry's hash covers the entry and the hash before it (RFC 6962's idea, in a line).

Pure functions; `control` stores the entries. A chain detects edits, deletions and reordering inside it. Whoever holds
the whole database can rebuild it, so keep the head hash elsewhere (`trimtab audit head`) and compare.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from trimtab.records.record import Record, canonical_json

GENESIS = "0" * 64


class Entry(Record):
    """One entry. `body` is the canonical JSON of the fact, byte for byte."""

    seq: int
    at: str
    kind: str
    key: str
    body: str
    previous: str
    hash: str


def entry_hash(seq: int, at: str, kind: str, key: str, body: str, previous: str) -> str:
    """SHA-256 over the previous hash and the canonical JSON of the entry's other fields."""
    text = canonical_json({"seq": seq, "at": at, "kind": kind, "key": key, "body": body})
    return hashlib.sha256(f"{previous}\n{text}".encode()).hexdigest()


def next_entry(last: tuple[int, str] | None, *, at: str, kind: str, key: str, body: str) -> Entry:
    """The entry that follows `last` (its seq and hash), or the first one."""
    seq, previous = (last[0] + 1, last[1]) if last else (1, GENESIS)
    digest = entry_hash(seq, at, kind, key, body, previous)
    return Entry(seq=seq, at=at, kind=kind, key=key, body=body, previous=previous, hash=digest)


def verify(entries: Iterable[Entry], facts: Mapping[tuple[str, str], str] | None = None) -> list[str]:
    """Faults in a chain, in words; empty when it is whole.

    With `facts` (bodies by kind and key), also that every fact stands in the chain unchanged and vice versa.
    """
    faults: list[str] = []
    previous, expected, seen = GENESIS, 1, set[tuple[str, str]]()
    for entry in entries:
        if entry.seq != expected:
            faults.append(f"entry {expected} is missing: found {entry.seq}")
        if entry.previous != previous:
            faults.append(f"entry {entry.seq} does not follow the entry before it")
        if entry.hash != entry_hash(entry.seq, entry.at, entry.kind, entry.key, entry.body, entry.previous):
            faults.append(f"entry {entry.seq} ({entry.kind} {entry.key}) was changed after it was written")
        if facts is not None and facts.get((entry.kind, entry.key)) != entry.body:
            faults.append(f"{entry.kind} {entry.key} differs from its audit entry {entry.seq}")
        seen.add((entry.kind, entry.key))
        previous, expected = entry.hash, entry.seq + 1
    if facts is not None:
        faults += [f"{kind} {key} has no audit entry" for kind, key in facts if (kind, key) not in seen]
    return faults
