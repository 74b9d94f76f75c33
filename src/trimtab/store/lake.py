"""The lake: two Delta tables that anything which reads Delta can open. Read here; `drain` alone writes.

They lie on this disk, or in an object store that all machines share (`Settings.lake_url`). `AnyLake` is all that the
stages know of it: `databricks.lake_spark` answers the same questions from Spark, and one contract suite asks both.

`inference` has the columns of a Databricks inference table, same names, types and order, then Trimtab's. Rows are
numbered 0, 1, 2, … in `row` in the order the drain committed them; the numbers are never used twice.
`feedback` holds what people said about answers, one row each.

Where the project encrypts payloads (`subjects`), they are stored so and read here as texts; what was erased is null.

Every method works before the tables exist, and sees one committed version. Not to be used in a process forked from
one that used it: delta-rs refuses that.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from trimtab.errors import Corrupt, Fixable
from trimtab.records.monitor import BOUNDS, PRIME, SAMPLE, Numbers, Profile, Window
from trimtab.settings import Settings
from trimtab.store import envelope
from trimtab.store.envelope import is_sealed
from trimtab.store.subjects import Subjects, subject_of

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

PAYLOAD = ("request", "response", "input_text", "output_text")
"""Columns of `inference` that hold what people and models said."""

LIKE = {"request": "input_text", "response": "output_text"}
"""What a column repeats, and needs beside it to be read where payloads are encrypted."""

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


COUNTED = ("status_code", "outcome", "route", "model_version")
"""Columns whose values a profile counts."""
MEASURED = ("execution_duration_ms", "time_to_first_byte_ms", "input_tokens", "output_tokens", "input_chars")
"""Columns whose numbers a profile measures; `input_chars` is the length of `input_text`."""
PROFILED = ("row", "request_time", *COUNTED, "input_text", *(name for name in MEASURED if name in INFERENCE))
"""Columns that a profile is made of."""


class AnyLake(Protocol):
    """The narrow waist between the stages and bulk rows. Every method works before the tables exist."""

    def count(self) -> int:
        """How many inference rows there are: they are numbered 0 to count - 1."""
        ...

    def rows(self, numbers: Iterable[int], columns: list[str] | None = None) -> pl.DataFrame:
        """The inference rows with these numbers, in order of `row`."""
        ...

    def sample(
        self, first: int, last: int, columns: list[str] | None = None, n: int | None = None, seed: int = 0
    ) -> pl.DataFrame:
        """Inference rows with first <= row < last, in order of `row`; of these at most `n`, drawn evenly with `seed`.

        The draw depends on the arguments alone, not on how the table is laid out.
        """
        ...

    def profile(self, first: int, last: int) -> Profile | None:
        """The rows with first <= row < last in numbers; None when there is none."""
        ...

    def between(self, start: datetime, end: datetime, columns: list[str]) -> pl.DataFrame:
        """Inference rows asked from `start` until before `end`, in order of `row`."""
        ...

    def labelled(self, first: int = 0, last: int | None = None, until: datetime | None = None) -> pl.DataFrame:
        """Answered rows (outcome ok) with first <= row < last and what people said the right answer is.

        `label` is the JSON value of the latest human feedback named "label", or null. Feedback belongs to the row
        with its request id; when it names none, to the latest row with its client request id. What was said after
        `until` is not seen, so the same question has the same answer later on.
        """
        ...


class Lake:
    """The lake of one project, read by delta-rs and Polars. See AnyLake for what the methods promise."""

    def __init__(self, settings: Settings) -> None:
        self._inference, self._feedback = settings.lake_table("inference"), settings.lake_table("feedback")
        self._subjects = Subjects(settings)

    def count(self) -> int:
        """How many inference rows there are."""
        table = open_table(self._inference)
        return 0 if table is None else next_row(table)

    def rows(self, numbers: Iterable[int], columns: list[str] | None = None) -> pl.DataFrame:
        """The inference rows with these numbers."""
        wanted = sorted(set(numbers))
        window = self._window(wanted[0], wanted[-1] + 1) if wanted else self._window(0, 0)
        return self._collected(window.filter(pl.col("row").is_in(wanted)), columns)

    def sample(
        self, first: int, last: int, columns: list[str] | None = None, n: int | None = None, seed: int = 0
    ) -> pl.DataFrame:
        """Inference rows with first <= row < last, or `n` of them."""
        drawn = None if n is None else draw(first, last, self.count(), n, seed)
        return self._collected(self._window(first, last), columns) if drawn is None else self.rows(drawn, columns)

    def between(self, start: datetime, end: datetime, columns: list[str]) -> pl.DataFrame:
        """Inference rows asked from `start` until before `end`."""
        asked = pl.col("request_time").is_between(start, end, closed="left")
        return self._collected(_scan(self._inference, INFERENCE).filter(asked), columns)

    def count_before(self, moment: datetime) -> int:
        """How many inference rows were asked before a moment."""
        asked = _scan(self._inference, INFERENCE).select("request_time").filter(pl.col("request_time") < moment)
        return asked.select(pl.len()).collect().item()

    def stored(self, first: int, last: int) -> pl.DataFrame:
        """Inference rows with first <= row < last as they are stored, in order of `row`."""
        return self._window(first, last).sort("row").collect()

    def find(self, request_id: str) -> pl.DataFrame:
        """The row of a request, by our id or the client's (then its newest): one row, or none."""
        ours, theirs = pl.col("databricks_request_id") == request_id, pl.col("client_request_id") == request_id
        found = _scan(self._inference, INFERENCE).filter(ours | theirs).sort("row").tail(1)
        return self._plain(found.collect())

    def texts(self, request_ids: Sequence[str]) -> dict[str, str]:
        """What these requests asked, by request id; those that are erased or gone are left out."""
        if not request_ids:
            return {}
        wanted = pl.col("databricks_request_id").is_in(list(request_ids))
        rows = _scan(self._inference, INFERENCE).filter(wanted).select("databricks_request_id", "input_text").collect()
        return {name: text for name, text in self._plain(rows).iter_rows() if text is not None}

    def profile(self, first: int, last: int) -> Profile | None:
        """The rows with first <= row < last in numbers."""
        return profile_of(self._collected(self._window(first, last), list(PROFILED)), first, last)

    def labelled(self, first: int = 0, last: int | None = None, until: datetime | None = None) -> pl.DataFrame:
        """Answered rows with first <= row < last and their labels."""
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
        return self._plain(window.join(latest, on="row", how="left").sort("row").select(LABELLED).collect())

    def _plain(self, rows: pl.DataFrame) -> pl.DataFrame:
        return plain(rows, self._subjects)

    def thumbs(self) -> dict[str, bool]:
        """By request id, whether people liked the answer: the latest human feedback named "thumbs", {"value": "up"} or
        {"value": true}. Feedback that names only a client request id belongs to the latest row with it."""
        said = _scan(self._feedback, FEEDBACK).filter((pl.col("name") == "thumbs") & (pl.col("source") == "human"))
        latest = said.sort("at", "feedback_id").select("request_id", "client_request_id", "value").collect()
        if latest.is_empty():
            return {}
        rows = _scan(self._inference, INFERENCE).filter(pl.col("client_request_id").is_not_null()).sort("row")
        ids = rows.select("client_request_id", "databricks_request_id").collect().rows()
        by_client: dict[Any, Any] = dict(ids)
        found: dict[str, bool] = {}
        for request, client, value in latest.rows():
            liked = json.loads(value).get("value")
            identity = request or by_client.get(client)
            if identity and liked in (True, False, "up", "down"):
                found[identity] = liked in (True, "up")
        return found

    def _collected(self, frame: pl.LazyFrame, columns: list[str] | None) -> pl.DataFrame:
        wanted = list(INFERENCE) if columns is None else columns
        more = beside(wanted)
        return self._plain(frame.sort("row").select([*wanted, *more]).collect()).drop(more)

    def _window(self, first: int, last: int) -> pl.LazyFrame:
        return _scan(self._inference, INFERENCE).filter(pl.col("row").is_between(first, last, closed="left"))


def beside(wanted: Sequence[str]) -> list[str]:
    """The columns that `plain` needs beside those that are wanted."""
    needed = ["databricks_request_id", *(LIKE[name] for name in wanted if name in LIKE)]
    return [name for name in needed if name not in wanted]


def plain(rows: pl.DataFrame, subjects: Subjects) -> pl.DataFrame:
    """Rows with their payloads readable; they have the columns `beside` names. What was erased is null."""
    there = [name for name in PAYLOAD if name in rows.columns]
    stored = {name: rows[name].to_list() for name in there if rows[name].str.starts_with(envelope.MARK).any()}
    if not stored:
        return rows
    keys = subjects.named({envelope.key_of(cell) for cells in stored.values() for cell in cells if is_sealed(cell)})
    requests = rows["databricks_request_id"].to_list()
    texts: dict[str, list[str | None]] = {}
    for name in sorted(stored, key=LIKE.__contains__):  # what others repeat comes first
        like = LIKE.get(name, "")
        likes = texts.get(like) or (rows[like].to_list() if like in rows.columns else [None] * rows.height)
        texts[name] = [
            _opened(cell, keys, f"{request}/{name}", other)
            for cell, request, other in zip(stored[name], requests, likes, strict=True)
        ]
    return rows.with_columns(pl.Series(name, cells, pl.String) for name, cells in texts.items())


def _opened(cell: str | None, keys: dict[str, bytes | None], about: str, like: str | None) -> str | None:
    """A payload's text: null once its key is destroyed, and what is not encrypted as it is."""
    if cell is None or not is_sealed(cell):
        return cell
    key = keys[envelope.key_of(cell)]
    return None if key is None else envelope.opened(key, cell, about, like)


def subjects_of(rows: pl.DataFrame, field: str) -> list[str]:
    """Whose each row is; empty where it does not say."""
    told = rows.select("request_tags" if field == "caller" else field)
    return [subject_of(row, field) for row in told.iter_rows(named=True)]


def profile_of(frame: pl.DataFrame, first: int, last: int) -> Profile | None:
    """The rows of a window in numbers, from their columns PROFILED, readable; None when there is none."""
    if not frame.height:
        return None
    frame = frame.with_columns(input_chars=pl.col("input_text").str.len_chars())
    x = (pl.col("row") % PRIME * 48271 + 11) % PRIME
    priority = x * x % PRIME * (x * x % PRIME) % PRIME * x % PRIME
    asked = frame.filter((pl.col("outcome") == "ok") & (pl.col("input_text") != ""))
    return Profile(
        window=Window(first=first, last=last, start=frame["request_time"].min(), end=frame["request_time"].max()),  # pyright: ignore[reportArgumentType] (there are rows)
        numbers={name: _numbers(values) for name in MEASURED if (values := frame[name].drop_nulls()).len()},
        counts={name: counted(frame[name].value_counts().rows()) for name in COUNTED},
        sample=tuple(sorted(asked.sort(priority).head(SAMPLE)["row"])),
    )


def draw(first: int, last: int, count: int, n: int, seed: int) -> list[int] | None:
    """The numbers of `n` rows, drawn evenly from those with first <= row < last of `count`; None: there are no more."""
    there = range(max(0, first), min(last, count))
    return random.Random(seed).sample(there, n) if n < len(there) else None  # noqa: S311 (a sample, not a secret)


def counted(pairs: Iterable[tuple[Any, int]]) -> dict[str, int]:
    """Rows by value, as text and in its order; null is the empty text."""
    return dict(sorted(("" if value is None else str(value), n) for value, n in pairs))


def _numbers(values: pl.Series) -> Numbers:
    return Numbers(
        n=values.len(),
        total=int(values.sum()),
        least=values.min(),  # pyright: ignore[reportArgumentType] (not empty)
        greatest=values.max(),  # pyright: ignore[reportArgumentType]
        at_most=tuple(int((values <= bound).sum()) for bound in BOUNDS),
    )


def open_table(place: Path | str) -> DeltaTable | None:
    """The table as it is now, or None before its first commit.

    Raises Corrupt when its log cannot be read, Fixable when the object store cannot be reached.
    """
    try:
        return DeltaTable(place)
    except TableNotFoundError:
        return None
    except DeltaError as error:
        raise Corrupt(f"{place} is not a readable Delta table: {error}") from error
    except OSError as error:
        raise away(place, error) from error


def away(place: Path | str, error: OSError) -> Fixable:
    """The error for a lake that cannot be reached."""
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return Fixable(
        f"the lake {place} cannot be reached: {first}", "see that TRIMTAB_LAKE and the store's AZURE_* name it"
    )


def next_row(table: DeltaTable) -> int:
    """The number of the next inference row, from the statistics in the table's log."""
    files: Any = pl.DataFrame(table.get_add_actions(flatten=True))
    return int(files["max.row"].max()) + 1 if len(files) else 0


def _scan(path: str, schema: pl.Schema) -> pl.LazyFrame:
    """The table with every column of the schema: what a table of an earlier release lacks is null."""
    table = open_table(path)
    if table is None:
        return pl.LazyFrame(schema=schema)
    found = pl.scan_delta(table)
    known = found.collect_schema()
    return found.with_columns(pl.lit(None, kind).alias(name) for name, kind in schema.items() if name not in known)
