"""The lake: two local Delta tables that anything which reads Delta can open. Read here; `drain` alone writes.

`inference` has the columns of a Databricks inference table, same names, types and order, then Trimtab's. Rows are
numbered 0, 1, 2, … in `row` in the order the drain committed them; the numbers are never used twice.
`feedback` holds what people said about answers, one row each.

Every method works before the tables exist, and sees one committed version. Not to be used in a process forked from
one that used it: delta-rs refuses that.
"""

from __future__ import annotations

import random
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from trimtab.errors import Corrupt
from trimtab.settings import Settings

_TIME = pl.Datetime("us", "UTC")

GUARD_EVENT = {
    **dict.fromkeys(("name", "direction", "action", "found"), pl.String),
    "count": pl.Int64,
}
"""What a guard did: its name, input or output, redact, block, flag, shadow or error, the kinds found, how many."""

INFERENCE = pl.Schema(
    {
        "databricks_request_id": pl.String,
        "request_date": pl.Date,
        "client_request_id": pl.String,
        "request_time": _TIME,
        "status_code": pl.Int32,
        "sampling_fraction": pl.Float64,
        "execution_duration_ms": pl.Int64,
        "request": pl.String,
        "response": pl.String,
        "logging_error_codes": pl.List(pl.String),
        "served_entity_id": pl.String,
        "requester": pl.String,
        "time_to_first_byte_ms": pl.Int64,
        "input_tokens": pl.Int64,
        "output_tokens": pl.Int64,
        "trace_id": pl.String,
        "request_tags": pl.Map(pl.String, pl.String),
        "model_name": pl.String,
        "model_version": pl.String,
        "row": pl.Int64,
        "outcome": pl.String,
        "route": pl.String,
        "input_text": pl.String,
        "output_text": pl.String,
        "cost_nano_usd": pl.Int64,
        "cached_tokens": pl.Int64,
        "cache_write_tokens": pl.Int64,
        "reasoning_tokens": pl.Int64,
        "guard_events": pl.List(pl.Struct(GUARD_EVENT)),
        "guards_sha256": pl.String,
    }
)
"""Columns of `inference`, in order. Money is in nano-USD (1e-9 USD); null where the model has no price. `guards_sha256`
is the set of guards that looked, null when none did."""

FEEDBACK = pl.Schema(
    {
        "feedback_id": pl.String,
        "at": _TIME,
        "request_id": pl.String,
        "client_request_id": pl.String,
        "name": pl.String,
        "value": pl.String,
        "source": pl.String,
    }
)
"""Columns of `feedback`, in order. `value` is JSON."""

LABELLED = (
    "row",
    "databricks_request_id",
    "client_request_id",
    "request_time",
    "model_version",
    "route",
    "input_text",
    "output_text",
    "execution_duration_ms",
    "label",
)
"""Columns of `Lake.labelled`, in order."""


class Lake:
    """The lake of one project."""

    def __init__(self, settings: Settings) -> None:
        self._inference, self._feedback = settings.lake / "inference", settings.lake / "feedback"

    def count(self) -> int:
        """How many inference rows there are: they are numbered 0 to count - 1."""
        table = open_table(self._inference)
        return 0 if table is None else next_row(table)

    def sample(
        self, first: int, last: int, columns: list[str] | None = None, n: int | None = None, seed: int = 0
    ) -> pl.DataFrame:
        """Inference rows with first <= row < last, in order of `row`; of these at most `n`, drawn evenly with `seed`.

        The draw depends on the arguments alone, not on how the table is laid out.
        """
        window = _scan(self._inference, INFERENCE).filter(pl.col("row").is_between(first, last, closed="left"))
        if n is not None:
            there = range(max(0, first), min(last, self.count()))
            if n < len(there):
                drawn = random.Random(seed).sample(there, n)  # noqa: S311 (a sample, not a secret)
                window = window.filter(pl.col("row").is_in(drawn))
        wanted = list(INFERENCE) if columns is None else columns
        return window.sort("row").select(wanted).collect()

    def labelled(self, first: int = 0, last: int | None = None, until: datetime | None = None) -> pl.DataFrame:
        """Answered rows (outcome ok) with first <= row < last and what people said the right answer is.

        `label` is the JSON value of the latest human feedback named "label", or null. Feedback belongs to the row
        with its request id; when it names none, to the latest row with its client request id. What was said after
        `until` is not seen, so the same question has the same answer later on.
        """
        said = _scan(self._feedback, FEEDBACK).filter((pl.col("name") == "label") & (pl.col("source") == "human"))
        if until is not None:
            said = said.filter(pl.col("at") <= until)
        labels = said.select("request_id", "client_request_id", "at", "feedback_id", label="value")
        answered = _scan(self._inference, INFERENCE).filter(pl.col("outcome") == "ok")

        direct = labels.join(answered.select("row", request_id="databricks_request_id"), on="request_id")
        newest = answered.group_by("client_request_id").agg(pl.col("row").max())
        by_client = labels.filter(pl.col("request_id").is_null()).join(newest, on="client_request_id")

        found = ["row", "at", "feedback_id", "label"]
        each = pl.concat([direct.select(found), by_client.select(found)])
        latest = each.sort("at", "feedback_id").group_by("row", maintain_order=True).agg(pl.col("label").last())
        window = answered.filter(pl.col("row") >= first)
        if last is not None:
            window = window.filter(pl.col("row") < last)
        return window.join(latest, on="row", how="left").sort("row").select(LABELLED).collect()


def open_table(path: Path) -> DeltaTable | None:
    """The table as it is now, or None before its first commit. Raises Corrupt when its log cannot be read."""
    try:
        return DeltaTable(path)
    except TableNotFoundError:
        return None
    except DeltaError as error:
        raise Corrupt(f"{path} is not a readable Delta table: {error}") from error


def next_row(table: DeltaTable) -> int:
    """The number of the next inference row, from the statistics in the table's log."""
    files: Any = pl.DataFrame(table.get_add_actions(flatten=True))
    return int(files["max.row"].max()) + 1 if len(files) else 0


def _scan(path: Path, schema: pl.Schema) -> pl.LazyFrame:
    """The table with every column of the schema: what a table of an earlier release lacks is null."""
    table = open_table(path)
    if table is None:
        return pl.LazyFrame(schema=schema)
    found = pl.scan_delta(table)
    known = found.collect_schema()
    return found.with_columns(pl.lit(None, kind).alias(name) for name, kind in schema.items() if name not in known)
