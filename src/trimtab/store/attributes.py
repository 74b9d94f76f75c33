"""Protected attributes, apart from everything: their own file, their own scope, and every read on record.

They exist to find unfairness (EU AI Act, Art. 10(5)) and for nothing else. No prompt and no training row may see them:
the rooms that make those may not import this module, which a contract in pyproject.toml checks. Reading needs an API
key with the scope `attributes` (admin does not include it) and a purpose, and is in the audit log before the first
value is given out; so is a refusal. Subjects are keyed hashes; rows expire.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from trimtab.errors import Fixable
from trimtab.records.erasure import AttributeRead, AttributeRefused, Refusal
from trimtab.settings import Settings
from trimtab.store import keys
from trimtab.store.control import Control
from trimtab.store.lake import Lake
from trimtab.store.subjects import Subjects, subject_of

SCOPE = "attributes"
KEPT = timedelta(days=90)
"""How long a value is kept unless it is said otherwise."""

_TABLE = """CREATE TABLE IF NOT EXISTS attributes (
  subject TEXT NOT NULL, attribute TEXT NOT NULL, value TEXT NOT NULL, expires TEXT NOT NULL,
  PRIMARY KEY (subject, attribute))"""
_REFUSED = """CREATE TABLE IF NOT EXISTS refused (
  hour TEXT NOT NULL, key TEXT NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL,
  PRIMARY KEY (hour, key, reason))"""


def write(settings: Settings, values: Iterable[tuple[str, str, str]], now: datetime, kept: timedelta = KEPT) -> int:
    """Keep (subject, attribute, value) rows, replacing older ones; returns how many. They expire after `kept`."""
    subjects, until = Subjects(settings), (now + kept).isoformat()
    rows = [(subjects.pseudonym(subject), attribute, value, until) for subject, attribute, value in values]
    with _open(settings) as db:
        db.execute("DELETE FROM attributes WHERE expires <= ?", (now.isoformat(),))
        db.executemany("INSERT OR REPLACE INTO attributes VALUES (?, ?, ?, ?)", rows)
    return len(rows)


def read(
    settings: Settings,
    control: Control,
    model: str,
    secret: str,
    attributes: tuple[str, ...],
    purpose: str,
    by: str,
    now: datetime,
) -> dict[str, dict[str, str]]:
    """Values by subject (a keyed hash) and attribute. Raises Fixable without a key of the scope, or a purpose.

    The log has the read, and `by` whom a refused one was tried: see `_refuse`.
    """
    key, refusal = _judged(control, model, secret, purpose, now)
    if refusal is not None:
        _refuse(settings, control, model, key, refusal, attributes, by, now)
        raise Fixable(*_SAID[refusal])
    assert key is not None  # noqa: S101 (who is not refused has one)
    found: dict[str, dict[str, str]] = {}
    with _open(settings) as db:
        for subject, attribute, value in db.execute(
            "SELECT subject, attribute, value FROM attributes WHERE expires > ? ORDER BY 1, 2", (now.isoformat(),)
        ):
            if attribute in attributes:
                found.setdefault(subject, {})[attribute] = value
    seen = AttributeRead(at=now, key=key, purpose=purpose, attributes=attributes, subjects=len(found))
    control.put("attribute_read", f"{model}/{key}/{now.isoformat()}", seen)
    return found


def by_request(settings: Settings, found: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Values that were read, by the requests of their subjects: what an audit by groups joins to labelled rows.

    Requests of subjects of whom nothing was read, or who were erased, are left out.
    """
    lake, subjects = Lake(settings), Subjects(settings)
    columns = ["databricks_request_id", "request_tags", "requester", "client_request_id"]
    rows = lake.sample(0, lake.count(), columns)
    names = {row["databricks_request_id"]: subject_of(row, subjects.field) for row in rows.iter_rows(named=True)}
    known = {request: subjects.pseudonym(name) for request, name in names.items() if name}
    return {request: found[subject] for request, subject in known.items() if subject in found}


def count(settings: Settings, subject: str) -> int:
    """How many values are kept of a subject (a keyed hash)."""
    if not _path(settings).exists():
        return 0
    with _open(settings) as db:
        return db.execute("SELECT count(*) FROM attributes WHERE subject = ?", (subject,)).fetchone()[0]


def erase(settings: Settings, subject: str) -> int:
    """Delete what is kept of a subject (a keyed hash); returns how many values."""
    if not _path(settings).exists():
        return 0
    with _open(settings) as db:
        return db.execute("DELETE FROM attributes WHERE subject = ?", (subject,)).rowcount


_KEY = f"create a key with `trimtab keys create NAME --scope {SCOPE}` and set TRIMTAB_ATTRIBUTES_KEY to its secret"
_SAID: dict[Refusal, tuple[str, str]] = {
    "unknown key": (f"no key with the scope {SCOPE} was given", _KEY),
    "no scope": (f"the key that was given has not the scope {SCOPE}", _KEY),
    "key has ended": ("the key that was given was revoked or rotated, or has expired", _KEY),
    "no purpose": ("reading protected attributes needs a purpose", "say what for, e.g. --purpose 'bias audit'"),
}


def _judged(
    control: Control, model: str, secret: str, purpose: str, now: datetime
) -> tuple[str | None, Refusal | None]:
    """The id of the key that a secret belongs or belonged to, and why it may not read; None: it may."""
    digest = hashlib.sha256(secret.encode()).hexdigest()
    mine = [
        (key, until)
        for key in keys.known(control, model)
        for hash_, until in key.hashes
        if hmac.compare_digest(hash_, digest)
    ]
    if not mine:
        return None, "unknown key"
    key, until = mine[0]
    if key.state(now) != "live" or (until is not None and until <= now):
        return key.id, "key has ended"
    if SCOPE not in key.created.scopes:
        return key.id, "no scope"
    return key.id, None if purpose.strip() else "no purpose"


def _refuse(
    settings: Settings,
    control: Control,
    model: str,
    key: str | None,
    reason: Refusal,
    attributes: tuple[str, ...],
    by: str,
    now: datetime,
) -> None:
    """Put a refusal in the audit log: the first of a key for a reason in an hour, the tenth, the hundredth and so on.

    So the log says at once that it happened and how often, within a factor of ten, and cannot be flooded.
    """
    hour = f"{now:%Y-%m-%dT%H}"
    with _open(settings) as db:
        db.execute("DELETE FROM refused WHERE hour <> ?", (hour,))
        (count,) = db.execute(
            "INSERT INTO refused VALUES (?, ?, ?, 1) ON CONFLICT DO UPDATE SET count = count + 1 RETURNING count",
            (hour, key or "", reason),
        ).fetchone()
        kept = {name for (name,) in db.execute("SELECT DISTINCT attribute FROM attributes")}
        if str(count).strip("0") == "1":
            asked = tuple(name for name in attributes if name in kept)
            seen = AttributeRefused(at=now, by=by, key=key, reason=reason, attributes=asked, count=count)
            control.put("attribute_refused", f"{model}/{key or 'unknown'}/{reason}/{hour}/{count}", seen)


def _path(settings: Settings) -> Path:
    return Path(os.environ.get("TRIMTAB_ATTRIBUTES_FILE") or settings.home / "attributes.db")


@contextmanager
def _open(settings: Settings) -> Iterator[sqlite3.Connection]:
    path = _path(settings)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    db = sqlite3.connect(path, timeout=15)
    try:
        db.execute("PRAGMA secure_delete = ON")
        db.execute(_TABLE)
        db.execute(_REFUSED)
        with db:
            yield db
    finally:
        db.close()
