"""Request rows in a file of their own, readable: for DuckDB, pandas and whoever else cannot open an encrypted lake."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
from polars.io.plugins import register_io_source

from trimtab.errors import Fixable
from trimtab.records.erasure import RowsExported
from trimtab.settings import Settings
from trimtab.store.control import Control
from trimtab.store.lake import INFERENCE, Lake

_AT_ONCE = 5000
"""Rows in memory, at most."""
SUFFIXES = (".parquet", ".jsonl")


def write(
    settings: Settings,
    control: Control,
    model: str,
    file: Path,
    period: tuple[datetime | None, datetime | None],
    purpose: str,
    by: str,
    now: datetime,
) -> RowsExported:
    """Write the rows asked in a period (from, until before; None: no bound) to a new .parquet or .jsonl file.

    The audit log has it before the first row is written. What was erased is null. Raises Fixable without a purpose, for
    another kind of file, and where the file is there or cannot be written.
    """
    if file.suffix not in SUFFIXES:
        raise Fixable(f"{file.name} is neither .parquet nor .jsonl", f"write {file.stem}.parquet")
    if not purpose.strip():
        raise Fixable("taking requests out in the clear needs a purpose", "say what for, e.g. --purpose 'error review'")
    lake = Lake(settings)
    start, end = period[0] or datetime.min.replace(tzinfo=UTC), period[1] or datetime.max.replace(tzinfo=UTC)
    count = lake.between(start, end, ["row"]).height
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        raise Fixable(
            f"cannot write {file}: {error.strerror}", "name a new file in a folder you may write to"
        ) from None
    taken = RowsExported(at=now, by=by, purpose=purpose, rows=count, asked_from=period[0], asked_to=period[1])
    control.put("rows_exported", f"{model}/{now.isoformat()}", taken)

    def parts(*_: object) -> Iterator[pl.DataFrame]:
        asked = pl.col("request_time").is_between(start, end, closed="left")
        for first in range(0, lake.count(), _AT_ONCE):
            yield lake.sample(first, first + _AT_ONCE).filter(asked)

    rows = register_io_source(parts, schema=dict(INFERENCE))
    if file.suffix == ".parquet":
        rows.sink_parquet(file)
    else:
        rows.sink_ndjson(file)
    return taken
