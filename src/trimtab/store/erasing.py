"""Rewrite the lake: erase what a person said and who they were, shred what is too old, and leave no older file behind.

What is rewritten is gone from the table's files and, by a vacuum without grace, from its history. A row keeps its
number and what `seals` holds of it. Readers that are in the middle of an older version of the table fail and look
again. Every function holds the drain's lock while it writes.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import polars as pl
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError

from trimtab.errors import Fixable
from trimtab.settings import Settings
from trimtab.store import journal
from trimtab.store.drain import WRITER, only_one
from trimtab.store.journal import Erased, FeedbackFrame, Frame
from trimtab.store.lake import FEEDBACK, INFERENCE, PAYLOAD, open_table
from trimtab.store.seals import erased
from trimtab.store.subjects import subject_of

IDENTITY = ("client_request_id", "requester", "trace_id")
"""Columns that say, or lead to, who asked."""
AT_ONCE = 5000
"""Rows of one rewrite."""


class Tables(Protocol):
    """What an erasure asks of a lake's two tables, wherever they are. `Here` and the Spark lake answer it alike.

    Each method promises what the function of its name in this module does.
    """

    def rows_of(self, field: str, subjects: Collection[str]) -> pl.DataFrame:
        """The inference rows of some subjects that still hold anything of them, as they are stored."""
        ...

    def row_of(self, request: str) -> pl.DataFrame:
        """The inference row of a request, as it is stored: one row, or none."""
        ...

    def erase_rows(self, rows: pl.DataFrame) -> None:
        """Erase the payload of these rows and who asked; their metadata stays, and no older file does."""
        ...

    def feedback_about(self, request_ids: Collection[str], client_request_ids: Collection[str]) -> list[str]:
        """Ids of the feedback on these requests."""
        ...

    def delete_feedback(self, feedback_ids: Sequence[str]) -> None:
        """Delete pieces of feedback, and leave no older file with them."""
        ...


@dataclass(frozen=True)
class Here:
    """The tables of this project's own lake."""

    settings: Settings

    def rows_of(self, field: str, subjects: Collection[str]) -> pl.DataFrame:
        """The inference rows of some subjects that still hold anything of them, as they are stored."""
        return rows_of(self.settings, field, subjects)

    def row_of(self, request: str) -> pl.DataFrame:
        """The inference row of a request, as it is stored: one row, or none."""
        return row_of(self.settings, request)

    def erase_rows(self, rows: pl.DataFrame) -> None:
        """Erase the payload of these rows and who asked; their metadata stays, and no older file does."""
        erase_rows(self.settings, rows)

    def feedback_about(self, request_ids: Collection[str], client_request_ids: Collection[str]) -> list[str]:
        """Ids of the feedback on these requests."""
        return feedback_about(self.settings, request_ids, client_request_ids)

    def delete_feedback(self, feedback_ids: Sequence[str]) -> None:
        """Delete pieces of feedback, and leave no older file with them."""
        delete_feedback(self.settings, feedback_ids)


def rows_of(settings: Settings, field: str, subjects: Collection[str]) -> pl.DataFrame:
    """The inference rows of some subjects that still hold anything of them, as they are stored."""
    table = open_table(settings.lake_table("inference"))
    if table is None:
        return pl.DataFrame(schema=INFERENCE)
    columns = {"row", "request_tags", "requester", "client_request_id"}
    heads = pl.scan_delta(table).select(sorted(columns)).collect()
    mine = [row["row"] for row in heads.iter_rows(named=True) if subject_of(row, field) in subjects]
    found = pl.scan_delta(table).filter(pl.col("row").is_in(mine)).sort("row").collect()
    return found.select(list(INFERENCE))


def row_of(settings: Settings, request: str) -> pl.DataFrame:
    """The inference row of a request, by our id or else by its client's own, as it is stored: one row, or none."""
    table = open_table(settings.lake_table("inference"))
    if table is None:
        return pl.DataFrame(schema=INFERENCE)
    ids = pl.col("databricks_request_id"), pl.col("client_request_id")
    found = pl.scan_delta(table).filter((ids[0] == request) | (ids[1] == request)).sort("row").collect()
    ours = found.filter(ids[0] == request)
    return (ours if len(ours) else found).select(list(INFERENCE)).tail(1)


def older(settings: Settings, before: datetime) -> pl.DataFrame:
    """Inference rows asked before a moment, as they are stored, but never the newest row: its number must stay."""
    table = open_table(settings.lake_table("inference"))
    if table is None:
        return pl.DataFrame(schema=INFERENCE)
    rows = pl.scan_delta(table)
    last = rows.select(pl.col("row").max()).collect().item()
    old = rows.filter((pl.col("request_time") < before) & (pl.col("row") != last)).sort("row").collect()
    return old.select(list(INFERENCE))


def erase_rows(settings: Settings, rows: pl.DataFrame, *, identity: bool = True) -> None:
    """Erase the payload of these rows and, with `identity`, who asked. Their metadata stays under their numbers."""
    gone = [*PAYLOAD, *(IDENTITY if identity else ())]
    stubs = rows.with_columns(pl.lit(None, INFERENCE[name]).alias(name) for name in gone)
    if identity:
        tags = [{"path": dict(tags or ()).get("path", "")} for tags in rows["request_tags"]]
        stubs = stubs.with_columns(pl.Series("request_tags", tags, INFERENCE["request_tags"]))
    with only_one(settings.lake / "drain.lock"):
        path = settings.lake_table("inference")
        for start in range(0, len(stubs), AT_ONCE):
            part = stubs.slice(start, AT_ONCE)
            _replace(path, part, among(part["row"].to_list()))
        _forget(path)


def delete_rows(settings: Settings, rows: pl.DataFrame) -> None:
    """Delete rows as a whole, metadata too."""
    numbers, path = rows["row"].to_list(), settings.lake_table("inference")
    if not numbers:
        return
    with only_one(settings.lake / "drain.lock"):
        for start in range(0, len(numbers), AT_ONCE):
            _delete(path, among(numbers[start : start + AT_ONCE]))
        _forget(path)


def feedback_about(settings: Settings, request_ids: Collection[str], client_request_ids: Collection[str]) -> list[str]:
    """Ids of the feedback on these requests."""
    table = open_table(settings.lake_table("feedback"))
    if table is None:
        return []
    ours = pl.col("request_id").is_in(list(request_ids))
    theirs = pl.col("request_id").is_null() & pl.col("client_request_id").is_in(list(client_request_ids))
    return pl.scan_delta(table).filter(ours | theirs).collect().select(list(FEEDBACK))["feedback_id"].to_list()


def delete_feedback(settings: Settings, feedback_ids: Sequence[str]) -> None:
    """Delete pieces of feedback. The table is written anew: a predicate would name them in its log."""
    path = settings.lake_table("feedback")
    if not feedback_ids:
        return
    with only_one(settings.lake / "drain.lock"):
        kept = pl.scan_delta(DeltaTable(path)).filter(~pl.col("feedback_id").is_in(list(feedback_ids))).collect()
        _replace(path, kept.select(list(FEEDBACK)), None)
        _forget(path)


def erase_journal(settings: Settings, request_ids: Collection[str], client_request_ids: Collection[str]) -> int:
    """Overwrite what journals still hold of requests that are in the lake; returns the number of frames."""
    if not settings.journal.exists():  # no gateway was ever here, as in a workspace's job
        return 0
    with only_one(settings.lake / "drain.lock"):
        return erase_frames(settings.journal, set(request_ids), set(client_request_ids))


def erase_frames(folder: Path, request_ids: Set[str], client_request_ids: Set[str]) -> int:
    """Overwrite, in place, every frame about these requests; returns how many. Only for rows that the lake holds.

    A writer that lives is not disturbed: it only ever appends. Its segment would otherwise keep them until it rotates.
    """
    count = 0
    for path in journal.segments(folder):
        start = 0
        try:
            with path.open("r+b") as file:
                for end, frame in journal.frames(path):
                    if _is_about(frame, request_ids, client_request_ids):
                        file.seek(start)
                        file.write(journal.erased_frame(end - start))
                        count += 1
                    start = end
                file.flush()
                os.fsync(file.fileno())
        except FileNotFoundError:
            continue  # the drain was done with it
    return count


def _is_about(frame: Frame, request_ids: Set[str], client_request_ids: Set[str]) -> bool:
    match frame:
        case Erased():
            return False
        case FeedbackFrame(request_id=None):
            return frame.client_request_id in client_request_ids
        case _:
            return frame.request_id in request_ids


def said(rows: pl.DataFrame) -> int:
    """How many of the rows still hold something of what was said."""
    return sum(not erased(row) for row in rows.select(PAYLOAD).iter_rows(named=True))


def _replace(path: str, rows: pl.DataFrame, predicate: str | None) -> None:
    try:
        how = {"mode": "overwrite", "schema_mode": "merge", "writer_properties": WRITER}
        write_deltalake(DeltaTable(path), rows, predicate=predicate, **how)
    except (DeltaError, OSError) as error:
        raise _unwritable(path, error) from error


def _delete(path: str, predicate: str) -> None:
    try:
        DeltaTable(path).delete(predicate, writer_properties=WRITER)
    except (DeltaError, OSError) as error:
        raise _unwritable(path, error) from error


def _forget(path: str) -> None:
    """Remove every file that the newest version does not need, at once, and bring the rest to the disk."""
    try:
        DeltaTable(path).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True)
    except (DeltaError, OSError) as error:
        raise _unwritable(path, error) from error
    os.sync()


def among(rows: Sequence[int]) -> str:
    """The rows by number, which says nothing of anybody: predicates stay in the table's log."""
    return f"row IN ({', '.join(map(str, rows))})"


def _unwritable(path: str, error: Exception) -> Fixable:
    return Fixable(f"{path} cannot be rewritten: {error}", "free disk space or mend its permissions, then run it again")
