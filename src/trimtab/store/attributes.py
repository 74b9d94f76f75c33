"""Protected attributes, apart from everything: their own file, their own scope, and every read on record.

They exist to find unfairness (EU AI Act, Art. 10(5)) and for nothing else. No prompt and no training row may see them:
the rooms that make those may not import this module, which a contract in pyproject.toml checks. Reading needs an API
key with the scope `attributes` (admin does not include it) and a purpose, and is in the audit log before the first
value is given out. Subjects are keyed hashes; rows expire.
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
from trimtab.records.erasure import AttributeRead
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
    now: datetime,
) -> dict[str, dict[str, str]]:
    """Values by subject (a keyed hash) and attribute. Raises Fixable without a key of the scope, or a purpose."""
    key = _admitted(control, model, secret, now)
    if not purpose.strip():
        raise Fixable("reading protected attributes needs a purpose", "say what for, e.g. --purpose 'bias audit'")
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


def _admitted(control: Control, model: str, secret: str, now: datetime) -> str:
    """The id of the live key with the scope that a secret belongs to."""
    digest = hashlib.sha256(secret.encode()).hexdigest()
    for key in keys.known(control, model):
        live = [hash_ for hash_, until in key.hashes if until is None or until > now]
        fits = any(hmac.compare_digest(hash_, digest) for hash_ in live)
        if fits and key.state(now) == "live" and SCOPE in key.created.scopes:
            return key.id
    fix = f"create a key with `trimtab keys create NAME --scope {SCOPE}` and set TRIMTAB_ATTRIBUTES_KEY to its secret"
    raise Fixable(f"no live key with the scope {SCOPE} was given", fix)


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
        with db:
            yield db
    finally:
        db.close()
