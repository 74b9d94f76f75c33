"""A database by its URL, SQLite or PostgreSQL: how it is opened, and how its transactions begin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError
from sqlalchemy.pool import NullPool

from trimtab.errors import DatabaseAway, Fixable

_READ = {"sqlite": "BEGIN"}
_WRITE = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "SELECT pg_advisory_xact_lock({lock})"}
"""How a transaction begins, by SQLAlchemy's dialect."""


def opened(url: str, variable: str, *pragmas: str, pooled: bool = True) -> sa.Engine:
    """An engine for a URL, with these pragmas where it is SQLite's. Nothing is connected yet.

    `variable` is where the URL stands. Raises Fixable for a URL that is none, and for a driver that is not installed.
    """
    pool = NullPool if url.startswith("sqlite") or not pooled else None
    try:
        engine = sa.create_engine(url, poolclass=pool)
    except (ArgumentError, NoSuchModuleError):
        fix = "write sqlite:///PATH or postgresql://USER@HOST/DATABASE"
        raise Fixable(f"{variable} is no URL of a database", fix) from None
    except ModuleNotFoundError as error:
        fix = f"pip install 'trimtab[postgres]', or name a database whose driver is here in {variable}"
        raise Fixable(f"{variable} needs the Python package {error.name}, which is not installed", fix) from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda connection, _: _sqlite_connect(connection, pragmas))
    return engine


@contextmanager
def transaction(engine: sa.Engine, what: str, lock: int | None = None) -> Iterator[sa.Connection]:
    """A transaction that waits for no writer and sees what was committed before it; with `lock`, one that writes.

    Writers of one `lock` (a number of ours, for PostgreSQL) queue behind each other. Raises DatabaseAway when the
    database, `what` it is to people, cannot be reached, written or locked.
    """
    first = (_READ if lock is None else _WRITE).get(engine.dialect.name)
    try:
        with engine.begin() as db:
            if first is not None:
                db.exec_driver_sql(first.format(lock=lock))
            yield db
    except OperationalError as error:
        where = engine.url.render_as_string(hide_password=True)
        raise DatabaseAway(
            f"the {what} {where} cannot be used: {error.orig}", "see that it is there, has room and is not locked"
        ) from error


def _sqlite_connect(connection, pragmas: tuple[str, ...]) -> None:
    connection.isolation_level = None  # SQLAlchemy begins none here: see `transaction`
    for pragma in (*pragmas, "synchronous=FULL", "secure_delete=ON", "busy_timeout=15000"):
        connection.execute(f"PRAGMA {pragma}")
