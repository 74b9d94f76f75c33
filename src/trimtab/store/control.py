"""Control facts in SQL: append-only facts, aliases moved by compare-and-set, engine states, and the audit log.

One implementation for SQLite and Postgres. Facts are found by (kind, key); the same key is never written twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TypeVar

import sqlalchemy as sa

from trimtab.errors import Conflict
from trimtab.records.gateway import EngineState
from trimtab.records.record import Record, canonical_json, utc_now
from trimtab.records.registry import AliasMove, Traffic
from trimtab.settings import Settings
from trimtab.store import audit, sql
from trimtab.store.verify_audit import Tree

R = TypeVar("R", bound=Record)

_LOCK = 7483011
"""The lock of writers on PostgreSQL: a number of our own."""
_metadata = sa.MetaData()
_facts = sa.Table(
    "facts",
    _metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("key", sa.String(255), nullable=False),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.UniqueConstraint("kind", "key"),
)
_aliases = sa.Table(
    "aliases",
    _metadata,
    sa.Column("model", sa.String(64), primary_key=True),
    sa.Column("alias", sa.String(64), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
)
_engines = sa.Table(
    "engines",
    _metadata,
    sa.Column("model", sa.String(64), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("body", sa.Text, nullable=False),
)
_audit = sa.Table(
    "audit",
    _metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("key", sa.String(255), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("leaf", sa.String(64), nullable=False),  # to sign without reading every body; never trusted to verify
)
_tree = sa.Table(  # one row: how the log's tree goes on, so that an entry costs the same however long the log is
    "tree",
    _metadata,
    sa.Column("size", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("full", sa.Text, nullable=False),
)
_checkpoints = sa.Table(
    "checkpoints",
    _metadata,
    sa.Column("size", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("note", sa.Text, nullable=False),
)

AUDITED = frozenset(
    {"decision", "alias_move", "traffic", "approval", "cycle", "cycle_end", "key"}
    | {"project_file", "guidelines", "audit", "look", "mitigation", "compliance", "waiver", "attestation", "drill"}
    | {"seal", "erase_request", "hold", "tombstone", "retention"}
    | {"attribute_read", "attribute_refused", "rows_exported", "keys_moved"}
)
"""Kinds of fact that enter the audit log in the transaction that writes them."""


class Control:
    """An open control database. Thread-safe; every method is one transaction.

    Every one, opening too, raises DatabaseAway when the database cannot be reached, written or locked.
    """

    def __init__(self, settings: Settings) -> None:
        url = settings.database_url
        if url.startswith("sqlite"):
            settings.home.mkdir(parents=True, exist_ok=True)
        self._engine = sql.opened(url, "TRIMTAB_DATABASE_URL", "journal_mode=WAL")
        self._signing_key = settings.home / "audit.key"
        with self._reading() as db:
            whole = _metadata.tables.keys() <= set(sa.inspect(db).get_table_names())
        if not whole:
            with self._writing() as db:
                _metadata.create_all(db)

    def _reading(self) -> AbstractContextManager[sa.Connection]:
        """A transaction that waits for no writer: it sees what was committed before it."""
        return sql.transaction(self._engine, "control database")

    def _writing(self) -> AbstractContextManager[sa.Connection]:
        """A transaction that queues behind other writers: two at once would give two audit entries one number."""
        return sql.transaction(self._engine, "control database", _LOCK)

    def _put(self, db: sa.Connection, kind: str, key: str, record: Record) -> bool:
        found = db.scalar(sa.select(_facts.c.seq).where(_facts.c.kind == kind, _facts.c.key == key))
        if found is not None:
            return False
        at, body = utc_now().isoformat(), canonical_json(record)
        db.execute(sa.insert(_facts).values(kind=kind, key=key, at=at, body=body))
        if kind in AUDITED:
            self._log(db, at, kind, key, body)
        return True

    def _log(self, db: sa.Connection, at: str, kind: str, key: str, body: str) -> None:
        tree = _grown(db)
        entry = audit.Entry(seq=tree.size + 1, at=at, kind=kind, key=key, body=body)
        db.execute(sa.insert(_audit).values(**entry.model_dump(), leaf=entry.leaf.hex()))
        tree.add(entry.leaf)
        db.execute(sa.delete(_tree))
        db.execute(sa.insert(_tree).values(size=tree.size, full=" ".join(full.hex() for full in tree.full)))
        note = self.signer.checkpoint(tree.size, tree.root())
        db.execute(sa.insert(_checkpoints).values(size=entry.seq, note=note))

    def put(self, kind: str, key: str, record: Record) -> bool:
        """Write a fact; False when one with this key is already there (it is left as it is)."""
        with self._writing() as db:
            return self._put(db, kind, key, record)

    def forget(self, kind: str) -> None:
        """Delete every fact of a kind that only saves work, such as answers to evaluations: an erasure asks for it.

        Raises ValueError for a kind that stands in the audit log.
        """
        if kind in AUDITED:
            raise ValueError(f"facts of the kind {kind} are kept for good")
        with self._writing() as db:
            db.execute(sa.delete(_facts).where(_facts.c.kind == kind))
        if self._engine.dialect.name == "sqlite":  # what was deleted must leave the write-ahead log too
            raw = self._engine.raw_connection()
            try:
                raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
            finally:
                raw.close()

    def get(self, kind: str, key: str, type_: type[R]) -> R | None:
        """The fact with this key, or None."""
        with self._reading() as db:
            body = db.scalar(sa.select(_facts.c.body).where(_facts.c.kind == kind, _facts.c.key == key))
        return None if body is None else type_.model_validate_json(body)

    def facts(self, kind: str, type_: type[R], prefix: str = "", limit: int | None = None) -> list[R]:
        """Facts of a kind whose key starts with `prefix`, oldest first; with `limit`, the newest that many."""
        query = sa.select(_facts.c.body).where(_facts.c.kind == kind).order_by(_facts.c.seq.desc())
        if prefix:
            query = query.where(_facts.c.key.startswith(prefix, autoescape=True))
        if limit is not None:
            query = query.limit(limit)
        with self._reading() as db:
            bodies = db.scalars(query).all()
        return [type_.model_validate_json(body) for body in reversed(bodies)]

    def last(self, kind: str, type_: type[R], prefix: str = "") -> R | None:
        """The newest fact of a kind whose key starts with `prefix`."""
        found = self.facts(kind, type_, prefix, limit=1)
        return found[0] if found else None

    def alias(self, model: str, alias: str) -> int | None:
        """The version an alias names now."""
        with self._reading() as db:
            return _alias(db, model, alias)

    def move(self, moves: Iterable[AliasMove], traffic: Traffic | None = None) -> None:
        """Move aliases and set the canary's share in one transaction, with their audit entries.

        Raises Conflict when an alias is not at its `before` any more; then nothing is written.
        """
        with self._writing() as db:
            for move in moves:
                _compare_and_set(db, move)
                self._put(db, "alias_move", f"{move.model}/{move.alias}/{_next(db)}", move)
            if traffic is not None:
                self._put(db, "traffic", f"{traffic.model}/{_next(db)}", traffic)

    def put_traffic(self, traffic: Traffic) -> None:
        """Set the canary's share."""
        self.move([], traffic)

    def traffic(self, model: str) -> Traffic | None:
        """The canary's share as last set."""
        return self.last("traffic", Traffic, f"{model}/")

    def alias_at(self, model: str, alias: str, at: datetime) -> AliasMove | None:
        """The move that made `alias` what it was at a moment, or None before its first move."""
        moves = [m for m in self.facts("alias_move", AliasMove, f"{model}/{alias}/") if m.at <= at]
        return moves[-1] if moves else None

    def set_engine(self, state: EngineState) -> None:
        """Record what the supervisor knows of an engine (rewritten: a state, not a fact)."""
        with self._writing() as db:
            where = (_engines.c.model == state.model) & (_engines.c.version == state.version)
            db.execute(sa.delete(_engines).where(where))
            db.execute(
                sa.insert(_engines).values(model=state.model, version=state.version, body=state.model_dump_json())
            )

    def engines(self, model: str) -> dict[int, EngineState]:
        """Engine states by version."""
        with self._reading() as db:
            rows = db.execute(sa.select(_engines.c.version, _engines.c.body).where(_engines.c.model == model)).all()
        return {version: EngineState.model_validate_json(body) for version, body in rows}

    def audit_entries(self) -> list[audit.Entry]:
        """The whole audit log, oldest first."""
        query = sa.select(_audit.c.seq, _audit.c.at, _audit.c.kind, _audit.c.key, _audit.c.body).order_by(_audit.c.seq)
        with self._reading() as db:
            rows = db.execute(query).all()
        return [audit.Entry(**dict(row._mapping)) for row in rows]

    def checkpoints(self) -> dict[int, str]:
        """The signed notes of the audit log, by its size then; oldest first."""
        with self._reading() as db:
            rows = db.execute(sa.select(_checkpoints).order_by(_checkpoints.c.size)).all()
        return {row.size: row.note for row in rows}

    def newest_checkpoint(self) -> tuple[int, str] | None:
        """Size and signed note of the audit log as it is now; None while it is empty."""
        with self._reading() as db:
            row = db.execute(sa.select(_checkpoints).order_by(_checkpoints.c.size.desc()).limit(1)).first()
        return None if row is None else (row.size, row.note)

    @property
    def signer(self) -> audit.Signer:
        """What signs this project's checkpoints."""
        return audit.Signer(self._signing_key)

    def audit_faults(self) -> list[str]:
        """What is wrong with the audit log, its checkpoints and the facts in it; empty when all is whole."""
        notes = list(self.checkpoints().values())
        return audit.verify(self.audit_entries(), notes, self.signer.verifier_key, self.audited_facts())

    def audited_facts(self) -> dict[tuple[str, str], str]:
        """Bodies of the facts that must stand in the audit log, by (kind, key)."""
        query = sa.select(_facts.c.kind, _facts.c.key, _facts.c.body).where(_facts.c.kind.in_(AUDITED))
        with self._reading() as db:
            return {(kind, key): body for kind, key, body in db.execute(query).all()}


def _grown(db: sa.Connection) -> Tree:
    """The log's tree as it is now: from its row, or from the leaves where an earlier release wrote none."""
    size = db.scalar(sa.select(sa.func.max(_audit.c.seq))) or 0
    row = db.execute(sa.select(_tree).where(_tree.c.size == size)).first()
    if row is not None:
        return Tree(size, [bytes.fromhex(full) for full in row.full.split()])
    tree = Tree()
    for leaf in db.scalars(sa.select(_audit.c.leaf).order_by(_audit.c.seq)):
        tree.add(bytes.fromhex(leaf))
    return tree


def _alias(db: sa.Connection, model: str, alias: str) -> int | None:
    return db.scalar(sa.select(_aliases.c.version).where(_aliases.c.model == model, _aliases.c.alias == alias))


def _next(db: sa.Connection) -> int:
    return (db.scalar(sa.select(sa.func.max(_facts.c.seq))) or 0) + 1


def _compare_and_set(db: sa.Connection, move: AliasMove) -> None:
    current = _alias(db, move.model, move.alias)
    if current != move.before:
        raise Conflict(
            f"{move.model}@{move.alias} is {_name(current)}, not {_name(move.before)}: it was moved meanwhile"
        )
    where = (_aliases.c.model == move.model) & (_aliases.c.alias == move.alias)
    db.execute(sa.delete(_aliases).where(where))
    if move.after is not None:
        db.execute(sa.insert(_aliases).values(model=move.model, alias=move.alias, version=move.after))


def _name(version: int | None) -> str:
    return "unset" if version is None else f"version {version}"


def dump(record: Record) -> str:
    """Pretty JSON of a record, for people."""
    return json.dumps(record.model_dump(mode="json"), indent=2, ensure_ascii=False)
