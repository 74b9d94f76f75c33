"""The drain: moves what the journals hold into the lake, each row exactly once, and deletes what was moved.

How a kill at any point is survived: rows and the journal offset behind them enter Delta in one commit (an application
transaction, one app id for each segment), so the next drain goes on where the last commit ended. Feedback is committed
before inference rows. The offset in `inference` therefore says that both tables hold everything before it, and the
offset in `feedback` says which of the frames behind it are not to be added again.

How several machines share a lake (`Settings.lake_url`): each drains its own journal. Inference rows are committed with
an application transaction that all drains have in common, the number of the next row; of two drains that number from
the same row, the second one's commit is refused, and it numbers anew.

How a power cut is survived, on this disk (an object store answers when it has the bytes): delta-rs syncs nothing. A
journal is synced before its rows are committed, every commit is synced before the next one, and a segment is deleted
only when its writer has let go of it, both tables hold all of it and their last commits are synced.

How a table of an earlier release goes on: columns that it lacks are added, at its end, by the first commit with them.

Where the project encrypts payloads, they are encrypted on the way (`subjects`): the journal alone holds them in the
clear, until its segment is deleted.

How the tables stay small to read: delta-rs writes a checkpoint every 100 commits; after every hundredth the small
files are merged into files of up to 32 MiB, and files that no version of the last seven days needs are removed.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
import polars as pl
from deltalake import ColumnProperties, CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from trimtab.errors import Corrupt, Fixable
from trimtab.records.record import utc_now
from trimtab.settings import Settings
from trimtab.store import journal
from trimtab.store.envelope import MARK, sealed
from trimtab.store.journal import Closed, FeedbackFrame
from trimtab.store.lake import FEEDBACK, GUARD_EVENT, INFERENCE, LIKE, PAYLOAD, next_row, open_table, subjects_of
from trimtab.store.subjects import Subjects

WRITER = WriterProperties(
    compression="ZSTD",
    compression_level=1,
    column_properties={name: ColumnProperties(dictionary_enabled=False) for name in PAYLOAD},
)
"""How files of the lake are written. ZSTD takes away what base64 adds to a ciphertext, which Snappy cannot; no two
payloads are the same, so that a dictionary of them would be time for nothing."""
BATCH_ROWS = 10_000
"""Inference rows, or pieces of feedback, of one commit, at most."""
MAINTAIN_EVERY = 100
"""Commits between two mergers of small files, and between two checkpoints."""
_BATCH_BYTES = 32 * 2**20  # of journal, so that memory is bounded whatever the size of a request
_MERGED_BYTES = 32 * 2**20
_ROWS = "trimtab/rows"
"""Application id of the transaction that numbers rows; its version is the number of the next row."""
_TRIES = 50
"""Commits tried when other drains were quicker, before that is an error."""
_TAG = {"key": pl.String, "value": pl.String}
_STATISTICS = {"inference": "row,request_time", "feedback": "at"}


def drain(settings: Settings) -> int:
    """Move everything in the journal into the lake; returns the number of new inference rows.

    Waits while another drain of this project runs. Rows left open by dead gateways are closed as aborted first.
    Raises Corrupt, after everything sound was moved, when a segment is damaged (it is kept, and so is every other),
    and Fixable when the lake cannot be written (the journal keeps the rows).
    """
    if not settings.journal.exists():
        return 0
    settings.lake.mkdir(parents=True, exist_ok=True)
    with only_one(settings.lake / "drain.lock"):
        finished = _finished(settings.journal)  # before recovery: whatever is in here, recovery sees too
        fault: Corrupt | None = None
        try:
            journal.recover(settings.journal)
        except Corrupt as error:
            fault = error
        run = _Run(settings)
        moved = run.move(journal.segments(settings.journal))
        fault = fault or run.fault
        if fault is not None:
            raise Corrupt(f"{fault}; move that file out of {settings.journal} to go on without the rest of it")
        run.delete(finished)
        return moved


@dataclass
class _Batch:
    """Frames read and not yet committed, and the offset read up to in each segment."""

    closed: list[Closed] = field(default_factory=list)
    feedback: list[FeedbackFrame] = field(default_factory=list)
    ends: dict[str, int] = field(default_factory=dict)
    bytes: int = 0

    def is_full(self) -> bool:
        return max(len(self.closed), len(self.feedback)) >= BATCH_ROWS or self.bytes >= _BATCH_BYTES


class _Run:
    """One drain's pass over the journal."""

    def __init__(self, settings: Settings) -> None:
        self._local, self._subjects = settings.lake_url is None, Subjects(settings)
        self._places = {name: settings.lake_table(name) for name in _STATISTICS}
        self._tables = {name: open_table(place) for name, place in self._places.items()}
        self._read_to: dict[Path, int] = {}
        self.fault: Corrupt | None = None

    def move(self, segments: list[Path]) -> int:
        """Commit every closed row and every piece of feedback that the lake lacks; returns the number of rows."""
        moved, batch = 0, _Batch()
        for segment in segments:
            feedback_from = self._offset("feedback", segment)
            previous = self._read_to[segment] = self._offset("inference", segment)
            try:
                for end, frame in _synced_frames(segment, previous):
                    batch.bytes, previous = batch.bytes + end - previous, end
                    self._read_to[segment] = batch.ends[segment.name] = end
                    if isinstance(frame, Closed):
                        batch.closed.append(frame)
                    elif isinstance(frame, FeedbackFrame) and end > feedback_from:
                        batch.feedback.append(frame)
                    if batch.is_full():
                        moved += self._commit(batch)
                        batch = _Batch()
            except Corrupt as error:
                self.fault = self.fault or error
        return moved + self._commit(batch)

    def delete(self, finished: set[Path]) -> None:
        """Delete segments that were moved as a whole, for each writer from its oldest to the first one that stays."""
        staying: set[str] = set()
        synced = False
        for segment, read_to in self._read_to.items():
            writer = journal.writer_of(segment)
            fd = None if writer in staying else journal.take(segment)
            if fd is None:
                staying.add(writer)
                continue
            size = os.fstat(fd).st_size
            if size == 0 or (segment in finished and size <= read_to):
                if not synced:  # a drain that was killed may have committed without
                    self._sync("feedback")
                    self._sync("inference")
                    synced = True
                segment.unlink()
                journal.sync_folder(segment.parent)  # in this order on the disk too
            else:
                staying.add(writer)
            os.close(fd)

    def _commit(self, batch: _Batch) -> int:
        done = [Transaction(_app_id(segment), end) for segment, end in batch.ends.items()]

        def numbered(table: DeltaTable) -> tuple[pl.DataFrame, list[Transaction]]:
            first = next_row(table)
            rows = _encrypted(_inference_rows(batch.closed, first), self._subjects)
            return rows, [*done, Transaction(_ROWS, first + len(batch.closed))]

        if batch.feedback:
            said = _feedback_rows(batch.feedback)
            self._append("feedback", FEEDBACK, lambda _: (said, done))
        if batch.closed:
            self._append("inference", INFERENCE, numbered)
        return len(batch.closed)

    def _offset(self, name: str, segment: Path) -> int:
        table = self._tables[name]
        return 0 if table is None else table.transaction_version(_app_id(segment.name)) or 0

    def _append(
        self, name: str, schema: pl.Schema, make: Callable[[DeltaTable], tuple[pl.DataFrame, list[Transaction]]]
    ) -> None:
        """Commit the rows and transactions made for the table as it is; made anew when another drain was quicker."""
        place = self._places[name]
        try:
            table = self._tables[name] = self._tables[name] or _create(place, name, schema)
            self._sync(name)
            for tried in range(1, _TRIES + 1):
                rows, done = make(table)
                properties = CommitProperties(app_transactions=done)
                try:
                    how = {"mode": "append", "schema_mode": "merge", "writer_properties": WRITER}
                    write_deltalake(table, rows, commit_properties=properties, **how)
                    break
                except CommitFailedError:
                    if tried == _TRIES:
                        raise
                    table = DeltaTable(place)
            self._tables[name] = table
            self._sync(name)
            if table.version() % MAINTAIN_EVERY == 0:
                self._maintain(name, table)
        except (DeltaError, OSError) as error:
            raise Fixable(
                f"{place} cannot be written: {error}",
                "free disk space or mend its permissions; the journal keeps the rows until then",
            ) from error

    def _maintain(self, name: str, table: DeltaTable) -> None:
        try:
            table.optimize.compact(target_size=_MERGED_BYTES, writer_properties=WRITER)
        except CommitFailedError:
            return  # another machine's drain merges the same files
        self._sync(name)
        table.vacuum(dry_run=False)

    def _sync(self, name: str) -> None:
        """Bring a table's last commit to the disk: data files, checkpoint, log entry, names."""
        table = self._tables[name]
        if table is None or not self._local:
            return
        path = Path(self._places[name])
        log, version = path / "_delta_log", f"{table.version():020}"
        entry = log / f"{version}.json"
        actions = [json.loads(line) for line in entry.read_text().splitlines()]
        added = [path / unquote(action["add"]["path"]) for action in actions if "add" in action]
        for file in [*added, entry, *log.glob(f"{version}.checkpoint*"), *log.glob("_last_checkpoint")]:
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        for folder in (path, log):
            journal.sync_folder(folder)


def _create(place: str, name: str, schema: pl.Schema) -> DeltaTable:
    configuration = {
        "delta.checkpointInterval": str(MAINTAIN_EVERY),
        "delta.dataSkippingStatsColumns": _STATISTICS[name],
    }
    try:
        table = DeltaTable.create(place, schema, mode="ignore", configuration=configuration)
    except DeltaError:  # another machine's drain may have created it this moment
        found = open_table(place)
        if found is None:
            raise
        return found
    if "://" not in place:
        for folder in (Path(place).parent, Path(place).parent.parent):
            journal.sync_folder(folder)
    return table


def _app_id(segment_name: str) -> str:
    return f"journal/{segment_name}"


def _finished(folder: Path) -> set[Path]:
    """Segments that their writers have let go of. An empty one may have a writer that has not locked it yet."""
    finished: set[Path] = set()
    for segment in journal.segments(folder):
        fd = journal.take(segment)
        if fd is not None:
            if os.fstat(fd).st_size:
                finished.add(segment)
            os.close(fd)
    return finished


def _synced_frames(segment: Path, offset: int) -> Iterator[tuple[int, journal.Frame]]:
    """Frames behind an offset, the segment synced after it was read: the lake must not outlive the journal."""
    for end, frame in journal.frames(segment, offset):
        if offset >= 0:
            with segment.open("rb") as file:
                os.fdatasync(file.fileno())
            offset = -1
        yield end, frame


def _inference_rows(closed: list[Closed], first: int) -> pl.DataFrame:
    times = pl.Series([frame.at_ms for frame in closed], dtype=pl.Int64).cast(pl.Datetime("ms", "UTC"))
    columns = {
        "databricks_request_id": [frame.request_id for frame in closed],
        "request_date": times.dt.date(),
        "client_request_id": [frame.client_request_id for frame in closed],
        "request_time": times.cast(pl.Datetime("us", "UTC")),
        "status_code": [frame.status_code for frame in closed],
        "sampling_fraction": [1.0] * len(closed),
        "execution_duration_ms": [frame.duration_ms for frame in closed],
        "request": [_text(frame.request) for frame in closed],
        "response": [_text(frame.response) for frame in closed],
        "logging_error_codes": pl.Series([[]], dtype=pl.List(pl.String)).new_from_index(0, len(closed)),
        "served_entity_id": [f"{frame.model}-{frame.version}" for frame in closed],
        "requester": [frame.requester for frame in closed],
        "time_to_first_byte_ms": [frame.ttfb_ms for frame in closed],
        "input_tokens": [frame.input_tokens for frame in closed],
        "output_tokens": [frame.output_tokens for frame in closed],
        "trace_id": [_trace_id(frame) for frame in closed],
        "request_tags": _lists([_tags(frame) for frame in closed], _TAG).cast(INFERENCE["request_tags"]),
        "model_name": [frame.model for frame in closed],
        "model_version": [str(frame.version) for frame in closed],
        "row": range(first, first + len(closed)),
        "outcome": [frame.outcome for frame in closed],
        "route": [frame.route for frame in closed],
        "input_text": [frame.input_text for frame in closed],
        "output_text": [frame.output_text for frame in closed],
        "cost_nano_usd": [frame.cost_nano_usd for frame in closed],
        "cached_tokens": [frame.cached_tokens for frame in closed],
        "cache_write_tokens": [frame.cache_write_tokens for frame in closed],
        "reasoning_tokens": [frame.reasoning_tokens for frame in closed],
        "guard_events": _lists([_guards(frame) for frame in closed], GUARD_EVENT),
        "guards_sha256": [frame.guards_sha256 for frame in closed],
    }
    return pl.DataFrame(columns, schema=INFERENCE)


def _encrypted(rows: pl.DataFrame, subjects: Subjects) -> pl.DataFrame:
    """The rows with their payloads under their subjects' keys, where the project wants that.

    A row with a text that looks like an encrypted one is encrypted in any case: nobody could read it as it is.
    """
    if subjects.encrypts:
        return _sealed(rows, subjects)
    odd = pl.any_horizontal(pl.col(name).str.starts_with(MARK).fill_null(False) for name in PAYLOAD)
    if not rows.select(odd.any()).item():
        return rows
    return pl.concat([rows.filter(~odd), _sealed(rows.filter(odd), subjects)]).sort("row")


def _sealed(rows: pl.DataFrame, subjects: Subjects) -> pl.DataFrame:
    whose = subjects_of(rows, subjects.field)
    keys = subjects.keys(whose, utc_now())
    owners = [keys[subject] for subject in whose]
    requests, texts = rows["databricks_request_id"].to_list(), {name: rows[name].to_list() for name in PAYLOAD}
    nothing = [None] * rows.height
    for name in PAYLOAD:
        cells = zip(owners, requests, texts[name], texts.get(LIKE.get(name, ""), nothing), strict=True)
        stored = [
            None if text is None else sealed(key, text, f"{request}/{name}", like) for key, request, text, like in cells
        ]
        rows = rows.with_columns(pl.Series(name, stored, pl.String))
    return rows


def _feedback_rows(feedback: list[FeedbackFrame]) -> pl.DataFrame:
    times = pl.Series([frame.at_ms for frame in feedback], dtype=pl.Int64).cast(pl.Datetime("ms", "UTC"))
    columns = {
        "feedback_id": [frame.feedback_id for frame in feedback],
        "at": times.cast(pl.Datetime("us", "UTC")),
        "request_id": [frame.request_id for frame in feedback],
        "client_request_id": [frame.client_request_id for frame in feedback],
        "name": [frame.name for frame in feedback],
        "value": [json.dumps(frame.value, ensure_ascii=False, separators=(",", ":")) for frame in feedback],
        "source": [frame.source for frame in feedback],
    }
    return pl.DataFrame(columns, schema=FEEDBACK)


def _trace_id(frame: Closed) -> str | None:
    """The caller's trace. Without one the request is a trace of its own, with its id."""
    return frame.traceparent[3:35] if frame.traceparent else None


def _lists(each: list[list[dict[str, Any]]], fields: Mapping[str, Any]) -> pl.Series:
    """A list of structs for each row, made of one flat table: of nested values Polars takes twenty times as long."""
    owners = [number for number, items in enumerate(each) for _ in items]
    columns = {name: [item[name] for items in each for item in items] for name in fields}
    flat = pl.DataFrame({"row": owners, **columns}, schema={"row": pl.Int64, **fields})
    lists = flat.group_by("row", maintain_order=True).agg(found=pl.struct(*fields))
    rows = pl.DataFrame({"row": range(len(each))}, schema={"row": pl.Int64})
    return rows.join(lists, on="row", how="left", maintain_order="left")["found"].fill_null([])


def _guards(frame: Closed) -> list[dict[str, Any]]:
    return [msgspec.structs.asdict(event) for event in frame.guards]


def _tags(frame: Closed) -> list[dict[str, str]]:
    """What has no column of its own: `attempts` is a JSON list of {upstream, status, reason, ms}."""
    tags = {"path": frame.path, "caller": frame.caller}
    if frame.traceparent:
        tags["traceparent"] = frame.traceparent
    if frame.attempts:
        tags["attempts"] = json.dumps([msgspec.structs.asdict(attempt) for attempt in frame.attempts])
    if frame.shadow_of:
        tags["shadow_of"] = frame.shadow_of
    return [{"key": name, "value": value} for name, value in tags.items()]


def _text(body: bytes) -> str:
    """A body as text; bytes that are not UTF-8 are kept as \\xNN."""
    return body.decode("utf-8", "backslashreplace")


@contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Wait for, and hold, the right to write the lake."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
