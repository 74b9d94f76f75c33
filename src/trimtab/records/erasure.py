"""Erasure and retention: seals over what was answered, requests to forget somebody, holds, and what was done."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from trimtab.records.record import Record

SubjectField = Literal["caller", "requester", "client_request_id"]
"""What tells whose a request is: caller (`user`, x-trimtab-caller or the key), the key or address, the client's id."""


class Seal(Record):
    """Rows first <= row < last of the inference table, committed to in the audit log.

    `root` is the RFC 9162 root (hex) over a leaf a row: its metadata and a keyed hash of its payload as it is stored.
    The keyed hashes are in the fact of kind `seal_macs` with the same key, outside the log.
    """

    first: int
    last: int
    root: str
    field: SubjectField = Field(default="caller", description="what told whose key a row's payload is hashed under")
    at: datetime


class Macs(Record):
    """The keyed hashes (HMAC-SHA-256 under each subject's key, hex) of the payloads of one seal's rows."""

    macs: tuple[str, ...]


class ErasureRequest(Record):
    """Somebody asked to be forgotten, or it began. `subject` is a keyed hash: the log does not say who."""

    subject: str
    at: datetime
    by: str
    rows: int = Field(default=0, description="rows about to be emptied, where it began")


class Hold(Record):
    """A legal hold: while it stands, the subject is not erased and retention leaves the rows alone."""

    subject: str
    action: Literal["set", "lifted"]
    reason: str
    at: datetime
    by: str


class Tombstone(Record):
    """What an erasure did. The audit log's next checkpoint signs it."""

    subject: str
    at: datetime
    by: str
    rows: int = Field(description="rows whose content and identity were erased; their metadata stays until retention")
    feedback: int
    journal_frames: int
    dataset_rows: dict[str, int] = Field(description="rows removed from datasets, by dataset hash")
    versions: tuple[int, ...] = Field(description="versions that were trained on the subject's rows")
    attributes: int = 0
    key_destroyed: bool


class RetentionRun(Record):
    """What one application of the schedule reaches, written before it does, so that what is gone is explained."""

    at: datetime
    by: str
    content_before: datetime | None = None
    content_rows: int = 0
    metadata_before: datetime | None = None
    metadata_rows: int = 0
    metadata_last: int = Field(default=-1, description="largest number of a deleted row; -1: none was")
    feedback: int = 0
    held: int = Field(default=0, description="rows left alone by legal holds")


class RowsExported(Record):
    """Somebody took request rows out of the lake, readable: who, which, what for. Written before the first row is."""

    at: datetime
    by: str
    purpose: str
    rows: int
    asked_from: datetime | None = Field(default=None, description="of these moments on; None: from the first row")
    asked_to: datetime | None = Field(default=None, description="until before it; None: to the last row")


class KeysMoved(Record):
    """The subjects' keys and the master key went into a backup, or came back out of one."""

    at: datetime
    by: str
    action: Literal["backed up", "restored"]
    keys: int = Field(description="keys in the backup that are not destroyed, or that came back")
    kept_destroyed: int = Field(default=0, description="keys of the backup whose subjects were erased since")


Refusal = Literal["unknown key", "no scope", "key has ended", "no purpose"]


class AttributeRefused(Record):
    """A read of protected attributes was refused. Of a secret that belongs to no key nothing is kept."""

    at: datetime
    by: str = Field(description="who ran the command, as the machine names them")
    key: str | None = Field(description="the key whose secret was given; None: of no key of this project")
    reason: Refusal
    attributes: tuple[str, ...] = Field(description="those asked for that are kept here")
    count: int = Field(description="refusals of this key for this reason in this hour (UTC), up to this one")


class AttributeRead(Record):
    """Somebody read protected attributes: who, which, of how many subjects, for what."""

    at: datetime
    key: str
    purpose: str
    attributes: tuple[str, ...]
    subjects: int
