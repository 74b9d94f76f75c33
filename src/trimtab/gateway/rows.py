"""The row of one request: what is kept of it while it is answered, and how it ends.

The boundary: the journal, the books and the reply are here; whom to ask, and how often, is known elsewhere. The
promises: one request is one row however it ends; the row is complete before the last byte of the answer leaves; it
names the version that answered.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from trimtab import trace_context
from trimtab.gateway import guarding, limits, observing, stream
from trimtab.gateway.deadline import Deadlines
from trimtab.gateway.exchange import Exchange
from trimtab.gateway.keys import KeysFile
from trimtab.gateway.ledger import Ledger
from trimtab.gateway.meter import Meter
from trimtab.gateway.pool import Pool
from trimtab.gateway.routes import Entity, Route, RoutesFile, Snapshot
from trimtab.gateway.shadow import Shadows
from trimtab.gateway.shapes import Asked, Fault
from trimtab.gateway.upstream import EngineConnection
from trimtab.store.journal import Attempt, Closed, Journal, Opened

Outcome = Literal["ok", "error", "timeout", "cancelled", "aborted", "blocked"]

NOT_COUNTED = stream.Usage()
"""What an engine has used that said nothing of it yet."""
NEVER = float("inf")
"""No limit."""


@dataclass
class Gateway:
    """What every request on the running loop shares."""

    routes: RoutesFile
    pool: Pool
    journal: Journal
    journal_folder: Path
    shadows: Shadows
    deadline: float | None = None
    """Seconds from the request to the last byte of the engine's answer, all attempts included; None: as routed."""
    dashboard: str | None = None
    owed: list[Closed] = field(default_factory=list)
    """Rows whose end the journal did not take: settled before the next row is opened."""
    keys: KeysFile | None = None
    """Who may ask; None: anybody."""
    ledger: Ledger | None = None
    meter: Meter = field(default_factory=Meter)
    deadlines: Deadlines = field(default_factory=Deadlines)
    spans_exported: bool = field(default_factory=lambda: trace_context.exported("TRACES"))


class Row(msgspec.Struct, eq=False):
    """The row of the request in progress. Moments are perf_counter's, unless they say that they are the loop's."""

    gateway: Gateway
    exchange: Exchange
    asked: Asked
    opened: Opened
    routed: Snapshot
    entity: Entity
    route: Route
    deadline: float
    """Seconds for the answer."""
    until: float
    """The loop's time when they are over."""
    usage: stream.Usage
    admitted: limits.Admitted = limits.NOTHING
    trace: bytes = b""
    """Header lines for the engine: the trace that the request belongs to."""
    tried: list[Attempt] = []
    """Attempts that failed."""
    lost: limits.Lost = limits.NONE_LOST
    """What attempts that failed used all the same."""
    shadow_of: str | None = None
    attempts: int = 0
    began: float = 0.0
    """When the attempt in progress, or the last one, began."""
    connection: EngineConnection | None = None
    """The one that an attempt in progress is made on."""
    ended: Callable[[Row, Exception | None], None] | None = None
    """Who is told how the attempt in progress ended."""
    silent_until: float = NEVER
    """The loop's time at which an engine that has said nothing is given up."""
    late: Callable[[Row], None] | None = None
    """Who is told that the deadline has passed; None: the task's own timer tells."""
    task: asyncio.Task[None] | None = None
    """What waits for the row, when that takes waiting."""
    recorded: bool = False
    """Whether the row is open in the journal."""
    running: bool = False
    """Whether the task has begun: one that is cancelled before never runs at all."""
    engine_seconds: float = 0.0
    journal_seconds: float = 0.0
    first_byte: float | None = None
    text: str | None = None
    relay: stream.Relay | None = None
    sent: list[bytes] | None = None
    """What a streamed answer was so far."""
    closed: bool = False
    guarded: guarding.Watch | None = None
    """What the version's guards found; None: it has none."""

    @property
    def told(self) -> bool:
        """Whether the client was told anything yet."""
        return self.exchange.started or self.closed

    def look(self, now: float) -> None:
        """See whether it is late (`deadline.Watched`)."""
        if self.late is not None and self.until < now:
            self.late(self)
        elif self.silent_until < now and self.connection is not None and not self.connection.status:
            self.silent_until = NEVER
            self.connection.fall_silent()


def close(row: Row, status: int, outcome: Outcome, response: bytes) -> None:
    """Close the row. Raises Fault 503 when the journal does not take it: then nothing may be answered as good."""
    row.closed = True
    gateway, opened, entity, usage = row.gateway, row.opened, row.entity, row.usage
    now, at = time.perf_counter(), row.exchange.at
    first_byte = now if row.first_byte is None and outcome == "ok" else row.first_byte
    if row.tried and outcome == "ok":
        row.tried.append(Attempt(entity.upstream, 200, "ok", round((now - row.began) * 1000)))
    cost = limits.settle(gateway.ledger, row.admitted, usage, entity, outcome, bool(row.sent), row.lost)
    frame = Closed(
        opened.request_id,
        opened.client_request_id,
        opened.caller,
        opened.requester,
        entity.model,
        entity.version,
        row.route,
        opened.path,
        opened.at_ms,
        opened.request,
        status,
        round((now - at) * 1000),
        None if first_byte is None else round((first_byte - at) * 1000),
        usage.prompt_tokens,
        usage.completion_tokens,
        outcome,
        None if row.shadow_of else row.asked.input,  # a copy's is in the caller's row: counted once
        row.text,
        response,
        cost,
        usage.cached_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
        tuple(row.tried),
        row.shadow_of,
        opened.traceparent,
        () if row.guarded is None else row.guarded.events(),
        None if row.guarded is None else row.guarded.guards.sha256,
    )
    try:
        gateway.journal.closed(frame)
    except OSError as error:
        fault = no_journal(error)
        body = fault.body(opened.path)
        gateway.owed.append(msgspec.structs.replace(frame, status_code=503, outcome="error", response=body))
        observing.row_closed(gateway.meter, row, 503, "error", now)
        raise fault from error
    row.journal_seconds += time.perf_counter() - now
    observing.row_closed(gateway.meter, row, status, outcome, now)


def fail(row: Row, fault: Fault, outcome: Outcome) -> None:
    """End with an error: as an answer, or as the last event of a stream that is then left open-ended."""
    exchange = row.exchange
    if exchange.started and row.relay is not None:
        event = row.relay.failure(fault.body(""))
        give_up(row, fault.status, outcome, event)
        exchange.end(event, whole=False)
        return
    if not row.closed:
        try:
            close(row, fault.status, outcome, fault.body(exchange.path))
        except Fault as unrecorded:
            fault = unrecorded
    if row.shadow_of is None:
        later = b"retry-after: %d\r\n" % math.ceil(fault.retry_after) if fault.retry_after else b""
        exchange.reply(fault.status, fault.body(exchange.path), headers(row) + later)


def give_up(row: Row, status: int, outcome: Outcome, last: bytes = b"") -> None:
    """Close the row of an answer that will not be whole, with what was sent of it."""
    if row.closed:
        return
    sent = b"".join(row.sent or ())
    if sent and row.relay is not None:
        row.text, pieces = row.relay.said(sent)
        if row.usage.completion_tokens is None:  # the engine counts at the end only; it sends one token an event
            row.usage = msgspec.structs.replace(row.usage, completion_tokens=pieces)
    with suppress(Fault):  # the client gets no good answer either way, and the row is owed
        close(row, status, outcome, sent + last)


def settle_owed(gateway: Gateway) -> None:
    """Put rows into the journal that it did not take before. Raises OSError when it still does not."""
    while gateway.owed:
        gateway.journal.closed(gateway.owed[0])
        del gateway.owed[0]


def no_journal(error: OSError) -> Fault:
    """What a client is told when the journal takes nothing."""
    message = f"the request cannot be recorded, so it is not answered: {error.strerror or error}"
    return Fault(503, "journal_unavailable", message)


def headers(row: Row) -> bytes:
    """The headers that tell of the row: its id, the version, and where its time went: ours, and Server-Timing as W3C
    has it, whose durations are ms."""
    engine, journal, opened = row.engine_seconds * 1000, row.journal_seconds * 1000, row.opened
    added = (time.perf_counter() - row.exchange.at) * 1000 - engine
    return (
        b"x-request-id: %b\r\n%b%bx-trimtab-overhead-ms: %.3f\r\n"
        b"server-timing: gateway;dur=%.3f, engine;dur=%.3f, journal;dur=%.3f\r\n%b%b"
    ) % (
        opened.request_id.encode(),
        row.entity.shown[row.route],
        row.routed.disclosed(opened.path) if row.routed.disclosure else b"",
        added,
        max(0.0, added - journal),
        engine,
        journal,
        row.admitted.headers,
        b"" if row.guarded is None else row.guarded.headers(),
    )
