"""A key for each subject: what destroys it makes every copy of their payloads unreadable, backups included.

They lie in a database of their own, `.trimtab/subjects.db` or one that machines share (TRIMTAB_SUBJECTS_URL), so that a
backup of the lake holds no key. Each subject has 32 random bytes, wrapped (AES key wrap, RFC 3394) under the master
key; from them come, by HKDF, the key that encrypts payloads (`envelope`) and the one under which the audit log commits
to them (HMAC-SHA-256). Who a subject is, is kept as a keyed hash. The master key is `master_key`'s.

No key outlives the call that read it: what one machine destroys, no other reads afterwards.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap
from sqlalchemy.exc import DBAPIError

from trimtab.errors import Fixable
from trimtab.records.erasure import SubjectField
from trimtab.settings import Settings
from trimtab.store import sql
from trimtab.store.envelope import derived
from trimtab.store.master_key import master_key

FIELD: SubjectField = "caller"
"""What a subject is where the file says nothing."""
_AT_ONCE = 500
"""Values of one query, at most: SQLite has a limit."""
_LOCK = 7483012
"""The lock of writers on PostgreSQL: a number of our own."""
_WHAT = "store of subjects' keys"

_metadata = sa.MetaData()
_keys = sa.Table(
    "keys",
    _metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("subject", sa.LargeBinary, nullable=False),
    sa.Column("wrapped", sa.LargeBinary),
    sa.Column("made", sa.String(40)),
    sa.Column("destroyed", sa.String(40)),
    sa.Index("by_subject", "subject"),
)


class SubjectKey(NamedTuple):
    """A subject's key: the id that its ciphertexts name, and 32 bytes."""

    id: str
    secret: bytes


class StoredKey(NamedTuple):
    """A key as a backup holds it. `secret` is None once it is destroyed; moments are ISO 8601."""

    id: str
    subject: str
    secret: bytes | None
    made: str
    destroyed: str | None


class Subjects:
    """The keys of one project's subjects. Cheap to make; it holds the master key, and no other."""

    def __init__(self, settings: Settings) -> None:
        self._url, self._choices = settings.subjects_database, settings.home / "payloads.json"
        self._home = settings.home
        self._master: Callable[[], bytes] = functools.cache(lambda: master_key(settings, lambda: self.exist))

    @property
    def exist(self) -> bool:
        """Whether any key was ever made here. Raises DatabaseAway."""
        if not self._made_file():
            return False
        with self._reading() as db:
            return sa.inspect(db).has_table("keys") and db.scalar(sa.select(_keys.c.id).limit(1)) is not None

    def choose(self, *, encrypt: bool, field: SubjectField) -> None:
        """Keep what the file decides for those who write without reading it, on this machine: the drain."""
        wanted = {"encrypt": encrypt, "field": field}
        if wanted == self._chosen():
            return
        self._home.mkdir(parents=True, exist_ok=True)
        draft = self._choices.with_name(f".{self._choices.name}.{os.getpid()}")
        draft.write_text(json.dumps(wanted))
        draft.replace(self._choices)

    @property
    def encrypts(self) -> bool:
        """Whether payloads are to be written encrypted."""
        return self._chosen()["encrypt"]

    @property
    def field(self) -> SubjectField:
        """What tells whose a request is."""
        return self._chosen()["field"]

    def pseudonym(self, subject: str) -> str:
        """The subject as records name it: a keyed hash, in hex."""
        return self._hashed(subject).hex()

    def fingerprint(self, texts: str) -> str:
        """A keyed hash (hex) that tells one set of people's texts from another, and that no guess can be tried on."""
        return hmac.digest(derived(self._master(), b"fingerprint"), texts.encode("utf-8", "replace"), "sha256").hex()

    @property
    def master(self) -> bytes:
        """The master key, for a backup."""
        return self._master()

    def keys(self, subjects: Iterable[str], now: datetime) -> dict[str, SubjectKey]:
        """The keys of subjects, made where there are none: two transactions, however many.

        Machines that make one subject's key at the same time get the same one. Raises Fixable when the store was begun
        under another master key, and DatabaseAway.
        """
        of = {self._hashed(subject): subject for subject in set(subjects)}
        there = self._live(of)
        missing = of.keys() - there.keys()
        if missing:
            there |= self._made(missing, now)
        return {of[name]: key for name, key in there.items()}

    def named(self, ids: Collection[str]) -> dict[str, bytes | None]:
        """Keys by their ids, as ciphertexts name them; None for one that is destroyed.

        Raises Fixable when one was never here: a key store that is missing has erased nothing.
        """
        rows = self._rows(_keys.c.id, ids)
        if rows.keys() != set(ids):
            fix = f"restore {self._shown} (`trimtab subjects restore`), or read it where the keys are: docs/erasure.md"
            raise Fixable("the lake is encrypted by subject, and the keys are not here: nothing is erased", fix)
        return {row.id: self._unwrapped(row.wrapped) for row in rows.values()}

    def destroy(self, subject: str, now: datetime) -> bool:
        """Destroy the subject's keys; False when there was none. Nothing brings them back."""
        if not self.exist:
            return False
        mine = (_keys.c.subject == self._hashed(subject)) & _keys.c.wrapped.is_not(None)
        with self._writing() as db:
            gone = db.execute(sa.update(_keys).where(mine).values(wrapped=None, destroyed=now.isoformat()))
        self._forget()
        return gone.rowcount > 0

    def all(self) -> list[StoredKey]:
        """Every key there is or was, for a backup."""
        if not self.exist:
            return []
        with self._reading() as db:
            rows = db.execute(sa.select(_keys).order_by(_keys.c.made, _keys.c.id)).all()
        return [
            StoredKey(row.id, row.subject.hex(), self._unwrapped(row.wrapped), row.made, row.destroyed) for row in rows
        ]

    def add(self, keys: Iterable[StoredKey]) -> int:
        """Put back keys that are not here; returns how many. What was destroyed here stays destroyed."""
        with self._writing() as db:
            self._check_master(db)
            there = set(db.scalars(sa.select(_keys.c.id)))
            rows = [
                self._row(key.id, bytes.fromhex(key.subject), key.secret, key.made, key.destroyed)
                for key in keys
                if key.id not in there
            ]
            if rows:
                db.execute(sa.insert(_keys), rows)
        return len(rows)

    def _chosen(self) -> dict[str, Any]:
        try:
            return json.loads(self._choices.read_text())
        except FileNotFoundError:
            return {"encrypt": False, "field": FIELD}

    def _hashed(self, subject: str) -> bytes:
        return hmac.digest(derived(self._master(), b"index"), subject.encode("utf-8", "replace"), "sha256")

    def _live(self, names: Collection[bytes]) -> dict[bytes, SubjectKey]:
        """The keys that are not destroyed, by their subjects as hashed."""
        rows = self._rows(_keys.c.subject, names, _keys.c.wrapped.is_not(None))
        return {name: SubjectKey(row.id, self._unwrapped(row.wrapped)) for name, row in rows.items()}

    def _rows(self, column: sa.Column, values: Collection[Any], *more: sa.ColumnElement) -> dict[Any, sa.Row]:
        """Rows by the value of a column; of several the oldest."""
        if not values or not self._made_file():
            return {}
        with self._reading() as db:
            if not sa.inspect(db).has_table("keys"):
                return {}
            return _selected(db, column, values, *more)

    def _made(self, names: Collection[bytes], now: datetime) -> dict[bytes, SubjectKey]:
        """New keys; another machine's, where it was quicker."""
        with self._writing() as db:
            self._check_master(db)
            there = _selected(db, _keys.c.subject, names, _keys.c.wrapped.is_not(None))
            fresh = {
                name: SubjectKey(secrets.token_hex(8), secrets.token_bytes(32)) for name in names if name not in there
            }
            if fresh:
                rows = [self._row(key.id, name, key.secret, now.isoformat(), None) for name, key in fresh.items()]
                db.execute(sa.insert(_keys), rows)
        return fresh | {name: SubjectKey(row.id, self._unwrapped(row.wrapped)) for name, row in there.items()}

    def _row(self, id_: str, subject: bytes, secret: bytes | None, made: str, destroyed: str | None) -> dict[str, Any]:
        wrapped = None if secret is None else aes_key_wrap(derived(self._master(), b"wrap"), secret)
        return {"id": id_, "subject": subject, "wrapped": wrapped, "made": made, "destroyed": destroyed}

    def _check_master(self, db: sa.Connection) -> None:
        """Nothing is added under a second master key: half of the keys could not be read."""
        self._unwrapped(db.scalar(sa.select(_keys.c.wrapped).where(_keys.c.wrapped.is_not(None)).limit(1)))

    def _unwrapped(self, wrapped: bytes | None) -> Any:
        """The key's bytes; None for none."""
        if wrapped is None:
            return None
        try:
            return aes_key_unwrap(derived(self._master(), b"wrap"), wrapped)
        except InvalidUnwrap:
            fix = "give this machine the master key of the one that made them: docs/erasure.md"
            raise Fixable(f"the keys in {self._shown} do not belong to this master key", fix) from None

    @property
    def _shown(self) -> str:
        url = sa.engine.make_url(self._url)
        return url.database or "" if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)

    def _made_file(self) -> bool:
        """Whether the store's file is there; a server always is."""
        return not self._url.startswith("sqlite") or Path(self._shown).exists()

    def _reading(self) -> AbstractContextManager[sa.Connection]:
        return sql.transaction(_engine(self._url), _WHAT)

    def _writing(self) -> AbstractContextManager[sa.Connection]:
        """One transaction, writers of all machines behind each other, in a store that is there.

        What is overwritten is overwritten on the disk too.
        """
        if not self._made_file():
            path = Path(self._shown)
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        with sql.transaction(_engine(self._url), _WHAT, _LOCK) as db:
            _metadata.create_all(db)
        return sql.transaction(_engine(self._url), _WHAT, _LOCK)

    def _forget(self) -> None:
        """Have PostgreSQL drop the rows' older versions, with the wrapped keys in them; SQLite has overwritten them."""
        engine = _engine(self._url)
        if engine.dialect.name == "postgresql":
            with suppress(DBAPIError), engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
                db.exec_driver_sql("VACUUM keys")  # what keeps it from that, keeps it for the server's own vacuum


@functools.cache
def _engine(url: str) -> sa.Engine:
    """The engine of a store. It keeps no connection: a forked process would share it."""
    engine = sql.opened(url, "TRIMTAB_SUBJECTS_URL", pooled=False)
    if engine.dialect.name not in ("sqlite", "postgresql"):
        fix = "write sqlite:///PATH or postgresql://USER@HOST/DATABASE"
        raise Fixable("TRIMTAB_SUBJECTS_URL is neither SQLite nor PostgreSQL", fix)
    return engine


def _selected(
    db: sa.Connection, column: sa.Column, values: Collection[Any], *more: sa.ColumnElement
) -> dict[Any, sa.Row]:
    found: dict[Any, sa.Row] = {}
    wanted = list(values)
    for first in range(0, len(wanted), _AT_ONCE):
        query = sa.select(_keys).where(column.in_(wanted[first : first + _AT_ONCE]), *more)
        rows = db.execute(query.order_by(_keys.c.made.desc(), _keys.c.id)).all()
        found |= {row._mapping[column]: row for row in rows}
    return found


def keyed_hash(key: SubjectKey, data: bytes) -> str:
    """A keyed hash of a payload (hex): it commits to it, and says nothing once the key is destroyed."""
    return hmac.digest(derived(key.secret, b"commit"), data, "sha256").hex()


def digest(parts: list[str | None]) -> bytes:
    """Texts as one unambiguous string of bytes; None is not the empty text."""
    joined = hashlib.sha256()
    for part in parts:
        data = b"" if part is None else part.encode("utf-8", "surrogatepass")
        joined.update((b"-" if part is None else b"+") + len(data).to_bytes(8, "big") + data)
    return joined.digest()


def subject_of(row: dict[str, Any], field: str) -> str:
    """Whose a row is; empty when it does not say."""
    found = dict(row["request_tags"] or ()).get("caller") if field == "caller" else row[field]
    return found or ""
