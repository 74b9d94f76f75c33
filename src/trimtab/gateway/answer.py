"""Answer one question, from the request understood to the last byte sent.

The chain: choose the version (`routes`), open the row, ask the engine (`upstream`) as often as may help (`attempts`),
close the row, reply, and perhaps copy the request to another version (`shadow`). It is told what was asked
(`shapes.Asked`) and never looks at paths. The promises: the row is in the journal before the engine is
asked and complete before the last byte of the answer leaves; one request is one row however it ends; it names the
version that answered.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import msgspec

from trimtab import trace_context
from trimtab.gateway import attempts, guarding, limits, observing, routes, shapes, stream, upstream
from trimtab.gateway.attempts import Trial, Way
from trimtab.gateway.caller import caller_of, deadline_of, header
from trimtab.gateway.deadline import until
from trimtab.gateway.guarded_stream import GuardedStream
from trimtab.gateway.keys import KeysFile
from trimtab.gateway.ledger import Ledger
from trimtab.gateway.meter import Meter
from trimtab.gateway.pool import Pool
from trimtab.gateway.routes import Entity, Route, RoutesFile, Snapshot
from trimtab.gateway.server import Exchange
from trimtab.gateway.shadow import Shadows
from trimtab.gateway.shapes import Asked, Completion, Fault
from trimtab.gateway.upstream import EngineConnection, EngineGone
from trimtab.providers import retry_after
from trimtab.store.journal import Attempt, Closed, Journal, Opened

FAN_OUT = 8
"""Rows of one batch that are with the engine at once."""
CANCELLED_STATUS = 499
"""Status of a row whose client hung up (nginx's number for it: no answer was sent)."""

Outcome = Literal["ok", "error", "timeout", "cancelled", "aborted", "blocked"]

log = logging.getLogger("trimtab.gateway")


@dataclass
class Gateway:
    """What every request shares."""

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
    spans_exported: bool = field(default_factory=lambda: trace_context.exported("TRACES"))


@dataclass(slots=True)
class Row:
    """The row of the request in progress."""

    exchange: Exchange
    asked: Asked
    opened: Opened
    routed: Snapshot
    entity: Entity
    route: Route
    deadline: float
    """Seconds for the answer."""
    until: float
    """The same, by the event loop's clock."""
    engine_seconds: float = 0.0
    journal_seconds: float = 0.0
    attempts: int = 0
    trace: bytes = b""
    """Header lines for the engine: the trace that the request belongs to."""
    first_byte: float | None = None
    usage: stream.Usage = field(default_factory=stream.Usage)
    text: str | None = None
    relay: stream.Relay = field(default_factory=stream.Relay)
    sent: list[bytes] = field(default_factory=list)
    """What a streamed answer was so far."""
    closed: bool = False
    tried: list[Attempt] = field(default_factory=list)
    """Attempts that failed."""
    attempted: float = 0.0
    """When the last attempt began."""
    shadow_of: str | None = None
    admitted: limits.Admitted = limits.NOTHING
    guarded: guarding.Watch | None = None
    """What the version's guards found; None: it has none."""


def follow(gateway: Gateway) -> None:
    """Look at the routes file; connections to engines that left it are closed. And at the keys file."""
    if gateway.keys is not None:
        gateway.keys.refresh()
    if gateway.routes.refresh() and gateway.routes.snapshot is not None:
        gateway.pool.keep(gateway.routes.snapshot)


async def question(gateway: Gateway, exchange: Exchange, request_id: str, asked: Asked) -> None:
    """Answer what was asked. Raises Fault when no row could be opened; from there on every end is a row and a reply."""
    admitted = limits.admit(gateway.ledger, exchange, asked, gateway.routes.snapshot)
    try:
        row = _open(gateway, exchange, request_id, asked)
        if row.entity.guards is not None:
            await guarding.question(gateway.meter, row)
        _record(gateway, row)
    except BaseException:
        limits.release(gateway.ledger, admitted)
        raise
    row.admitted = admitted
    if row.guarded is not None and row.guarded.stopped:
        _refuse(gateway, row, row.guarded)
        return
    await _answered(gateway, row, _streamed if asked.stream else _whole)


async def _answered(gateway: Gateway, row: Row, attempt: Callable[[Gateway, Row, bool], Awaitable[None]]) -> None:
    try:
        with until(row.until):
            await _attempts(gateway, row, attempt)
    except asyncio.CancelledError:
        hung_up = row.exchange.hung_up and row.shadow_of is None
        _give_up(gateway, row, CANCELLED_STATUS if hung_up else 503, "cancelled" if hung_up else "aborted")
        raise
    except TimeoutError:
        fault = Fault(504, "engine_timeout", f"no complete answer within {row.deadline:g} s")
        fault.attempts = tuple(row.tried)
        _fail(gateway, row, fault, "timeout")
    except EngineGone as error:
        fault = Fault(502, "engine_unavailable", str(error))
        fault.attempts = tuple(row.tried)
        _fail(gateway, row, fault, "error")
    except Fault as fault:
        _fail(gateway, row, fault, "blocked" if fault.code == guarding.CODE else "error")
    except Exception:
        log.exception("the gateway failed", extra={"request_id": row.opened.request_id, "path": row.opened.path})
        _fail(gateway, row, Fault(500, "internal_error", "the gateway failed; its log says why"), "error")


async def _attempts(gateway: Gateway, row: Row, attempt: Callable[[Gateway, Row, bool], Awaitable[None]]) -> None:
    """Ask, again and elsewhere where that may help; afterwards the request may be copied to another version."""

    async def once(entity: Entity, route: Route, fresh: bool) -> None:
        moved, row.entity, row.route, row.attempted = entity is not row.entity, entity, route, time.perf_counter()
        if moved and (entity.guards is not None or row.guarded is not None):
            await guarding.again(gateway.meter, row)
        await attempt(gateway, row, fresh)

    def told() -> bool:
        return row.exchange.started or row.closed

    endpoint = row.routed.endpoint
    first: Way = (row.entity, row.route)
    trial = Trial(once, lambda: _moved(gateway, row), told, gateway.pool, endpoint, row.until, row.tried)
    await attempts.answer(trial, first, row.routed.fallback if row.route == "champion" else [])
    shadow = row.routed.shadow
    if shadow is not None and endpoint.shadow is not None and row.route != "shadow":
        gateway.shadows.offer(endpoint.shadow, lambda: _copy(gateway, row, shadow))


async def _whole(gateway: Gateway, row: Row, fresh: bool) -> None:
    """One attempt at a plain answer."""
    asked, entity, begun = row.asked, row.entity, time.perf_counter()
    row.attempts += 1
    try:
        requests = [shapes.engine_request(asked, entity, conversation) for conversation in asked.conversations]
        if len(requests) == 1:
            answers = [await _ask(gateway, row, requests[0], fresh)]
        else:
            answers = await _ask_all(gateway, row, requests, fresh)
    finally:
        row.engine_seconds += time.perf_counter() - begun
    row.text = asked.output_text(answers)
    if row.guarded is not None:
        answers = await guarding.answers(row, row.guarded, answers)
    row.usage = stream.total([one.usage for one in answers])
    body = asked.render(answers, row.opened.request_id, entity)
    _close(gateway, row, 200, guarding.outcome(row.guarded), body)
    if row.shadow_of is None:
        row.exchange.reply(200, body, _headers(row))


async def _streamed(gateway: Gateway, row: Row, fresh: bool) -> None:
    """One attempt at a streamed answer. Its end leaves after the row is closed."""
    exchange, entity, begun = row.exchange, row.entity, time.perf_counter()
    row.attempts += 1
    relay = row.relay = row.asked.tell(row.opened.request_id, entity)
    guard = GuardedStream(row.guarded) if row.guarded is not None and row.guarded.outputs else None
    connection = await gateway.pool.acquire(entity, fresh)
    try:
        await _send(connection, row, shapes.engine_request(row.asked, entity, row.asked.conversations[0]))
        while data := await connection.chunk():
            if guard is not None:
                data = await guard.feed(data)
            events = _relayed(relay, data)
            row.usage = relay.usage
            if not events:
                continue
            if not exchange.started:
                row.first_byte = time.perf_counter()
                row.engine_seconds += row.first_byte - begun
                exchange.start(_headers(row), b"text/event-stream; charset=utf-8")
            row.sent.append(events)
            await exchange.send(events)
            if guard is not None and guard.ended:
                break
    finally:
        gateway.pool.release(connection)
        if row.first_byte is None:
            row.engine_seconds += time.perf_counter() - begun
    if not relay.done or not exchange.started:
        raise EngineGone(f"the engine at {entity.address} ended its answer early")
    sent, last = b"".join(row.sent), relay.last()
    row.text, _ = relay.said(sent)
    if guard is not None:
        guard.tell(row)
    _close(gateway, row, 200, guarding.outcome(row.guarded), sent + last)
    exchange.end(last)


def _refuse(gateway: Gateway, row: Row, looked: guarding.Watch) -> None:
    """End a question that a guard stopped: with the version's refusal as an answer, or an error."""
    exchange, body = row.exchange, guarding.refusal(looked, row)
    if body is None:
        _fail(gateway, row, guarding.refused(looked), "error" if looked.fault else "blocked")
        return
    try:
        _close(gateway, row, 200, "blocked", body)
    except Fault as unrecorded:
        _fail(gateway, row, unrecorded, "error")
        return
    if row.asked.stream:
        exchange.start(_headers(row), b"text/event-stream; charset=utf-8")
        exchange.end(body)
    else:
        exchange.reply(200, body, _headers(row))


async def _ask(gateway: Gateway, row: Row, request: bytes, fresh: bool) -> Completion:
    connection = await gateway.pool.acquire(row.entity, fresh)
    try:
        await _send(connection, row, request)
        return shapes.completion(await connection.body(), row.asked.operation)
    finally:
        gateway.pool.release(connection)


async def _ask_all(gateway: Gateway, row: Row, requests: list[bytes], fresh: bool) -> list[Completion]:
    """Ask for every row of a batch, a few at a time; the first failure ends the rest."""
    answers: dict[int, Completion] = {}
    left = iter(enumerate(requests))

    async def work() -> None:
        for index, request in left:
            answers[index] = await _ask(gateway, row, request, fresh)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(FAN_OUT, len(requests))):
                group.create_task(work())
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [answers[index] for index in range(len(requests))]


async def _send(connection: EngineConnection, row: Row, request: bytes) -> None:
    """Send a request and wait for the answer's headers. Raises Fault when the engine does not answer 200."""
    left = row.until - asyncio.get_running_loop().time()
    connection.send(upstream.request(row.entity, f"/v1/{row.asked.operation}", request, left, row.trace))
    status = await connection.status(row.entity.first_byte_seconds)
    if status != 200:
        said = await connection.body()
        if key := row.entity.api_key.encode():
            said = said.replace(key, b"[key]")  # before it is shortened
        fault = shapes.engine_fault(status, said)
        fault.retry_after = retry_after.seconds_of(connection.retry_after())
        raise fault


def _relayed(relay: stream.Relay, data: bytes) -> bytes:
    try:
        return relay.feed(data)
    except (msgspec.DecodeError, stream.EngineFailed) as error:
        raise Fault(502, "engine_error", f"the engine failed in mid-answer: {error}") from error


async def _copy(gateway: Gateway, row: Row, entity: Entity) -> int:
    """Put a request that was answered to another version, for a row of its own; returns the tokens it took."""
    opened = msgspec.structs.replace(
        row.opened,
        request_id=secrets.token_hex(16),
        client_request_id=None,
        model=entity.model,
        version=entity.version,
        route="shadow",
        at_ms=time.time_ns() // 1_000_000,
    )
    exchange = row.exchange.aside()
    ends = asyncio.get_running_loop().time() + row.deadline
    copy = Row(exchange, replace(row.asked, stream=False), opened, row.routed, entity, "shadow", row.deadline, ends)
    copy.shadow_of = row.opened.request_id
    copy.guarded = guarding.watch(gateway.meter, entity, row.opened.path, "shadow")
    try:
        gateway.journal.opened(opened)
    except OSError:
        return 0
    await _answered(gateway, copy, _whole)
    return (copy.usage.prompt_tokens or 0) + (copy.usage.completion_tokens or 0)


# Choosing


def _open(gateway: Gateway, exchange: Exchange, request_id: str, asked: Asked) -> Row:
    """Choose the version and make the row. Raises Fault when nothing is served."""
    snapshot = gateway.routes.snapshot
    caller, requester = caller_of(exchange, asked)
    chosen = routes.choose(snapshot, caller) if snapshot is not None else None
    if snapshot is None or chosen is None:
        raise Fault(503, "no_champion", "no version is being served yet; try again when /readyz says so")
    if asked.model not in (None, "", snapshot.model, f"{snapshot.model}@champion"):
        message = f"the model {asked.model!r} does not exist here; use {snapshot.model!r} or leave it out"
        raise Fault(404, "model_not_found", message, "model")
    entity, route = chosen
    shapes.check(asked, entity)
    deadline = deadline_of(exchange, gateway.deadline or snapshot.endpoint.deadline)
    client_id = asked.client_request_id or header(exchange, b"x-client-request-id")
    parent = trace_context.parent_of(exchange.headers)
    opened = Opened(
        request_id=request_id,
        client_request_id=client_id,
        caller=caller,
        requester=requester,
        model=entity.model,
        version=entity.version,
        route=route,
        path=exchange.path,
        at_ms=time.time_ns() // 1_000_000,
        request=exchange.body,
        traceparent=parent,
    )
    row = Row(exchange, asked, opened, snapshot, entity, route, deadline, asyncio.get_running_loop().time() + deadline)
    row.trace = trace_context.onward(exchange.headers, parent, request_id, gateway.spans_exported)
    return row


def _record(gateway: Gateway, row: Row) -> None:
    """Open the row in the journal. Raises Fault when it takes nothing."""
    begun = time.perf_counter()
    try:
        _settle(gateway)
        gateway.journal.opened(row.opened)
    except OSError as error:
        raise no_journal(error) from error
    row.journal_seconds = time.perf_counter() - begun


def _moved(gateway: Gateway, row: Row) -> Way | None:
    """Where to ask again: the same version if it is still served, else whatever serves this caller now.

    None when that is no other engine than before. Nothing was told to the client yet, so the row still has one version.
    """
    follow(gateway)
    snapshot = gateway.routes.snapshot
    found = snapshot and routes.find(snapshot, row.entity)
    if not found and snapshot and row.route in ("champion", "canary"):
        found = routes.choose(snapshot, row.opened.caller)
    if not found or (found[0].address, found[0].version) == (row.entity.address, row.entity.version):
        return None
    return found


# Ending


def _fail(gateway: Gateway, row: Row, fault: Fault, outcome: Outcome) -> None:
    """End with an error: as an answer, or as the last event of a stream that is then left open-ended."""
    exchange = row.exchange
    body = fault.body(exchange.path)
    if exchange.started:
        event = row.relay.failure(fault.body(""))
        _give_up(gateway, row, fault.status, outcome, event)
        exchange.end(event, whole=False)
        return
    if not row.closed:
        try:
            _close(gateway, row, fault.status, outcome, body)
        except Fault as unrecorded:
            fault = unrecorded
    if row.shadow_of is None:
        later = b"retry-after: %d\r\n" % math.ceil(fault.retry_after) if fault.retry_after else b""
        exchange.reply(fault.status, fault.body(exchange.path), _headers(row) + later)


def _give_up(gateway: Gateway, row: Row, status: int, outcome: Outcome, last: bytes = b"") -> None:
    """Close the row of an answer that will not be whole, with what was sent of it."""
    if row.closed:
        return
    sent = b"".join(row.sent)
    if sent:
        row.text, pieces = row.relay.said(sent)
        if row.usage.completion_tokens is None:  # the engine counts at the end only; it sends one token an event
            row.usage = msgspec.structs.replace(row.usage, completion_tokens=pieces)
    with suppress(Fault):  # the client gets no good answer either way, and the row is owed
        _close(gateway, row, status, outcome, sent + last)


def _close(gateway: Gateway, row: Row, status: int, outcome: Outcome, response: bytes) -> None:
    """Close the row. Raises Fault 503 when the journal does not take it: then nothing may be answered as good."""
    row.closed = True
    now, at = time.perf_counter(), row.exchange.at
    first_byte = now if row.first_byte is None and outcome == "ok" else row.first_byte
    if row.tried and outcome == "ok":
        row.tried.append(Attempt(row.entity.upstream, 200, "ok", round((now - row.attempted) * 1000)))
    cost = limits.settle(gateway.ledger, row.admitted, row.usage, row.entity, outcome, bool(row.sent))
    as_opened = msgspec.structs.asdict(row.opened)
    frame = Closed(
        **as_opened | {"model": row.entity.model, "version": row.entity.version, "route": row.route},
        status_code=status,
        duration_ms=round((now - at) * 1000),
        ttfb_ms=None if first_byte is None else round((first_byte - at) * 1000),
        input_tokens=row.usage.prompt_tokens,
        output_tokens=row.usage.completion_tokens,
        outcome=outcome,
        input_text=None if row.shadow_of else row.asked.input_text(),  # a copy's is in the caller's row: counted once
        output_text=row.text,
        response=response,
        attempts=tuple(row.tried),
        shadow_of=row.shadow_of,
        cost_nano_usd=cost,
        cached_tokens=row.usage.cached_tokens,
        cache_write_tokens=row.usage.cache_write_tokens,
        reasoning_tokens=row.usage.reasoning_tokens,
        guards=() if row.guarded is None else row.guarded.events(),
        guards_sha256=None if row.guarded is None else row.guarded.guards.sha256,
    )
    begun = time.perf_counter()
    try:
        gateway.journal.closed(frame)
    except OSError as error:
        fault = no_journal(error)
        body = fault.body(row.opened.path)
        gateway.owed.append(msgspec.structs.replace(frame, status_code=503, outcome="error", response=body))
        observing.row_closed(gateway.meter, row, 503, "error", now)
        raise fault from error
    row.journal_seconds += time.perf_counter() - begun
    observing.row_closed(gateway.meter, row, status, outcome, now)


def _settle(gateway: Gateway) -> None:
    while gateway.owed:
        gateway.journal.closed(gateway.owed[0])
        del gateway.owed[0]


def no_journal(error: OSError) -> Fault:
    """What a client is told when the journal takes nothing."""
    message = f"the request cannot be recorded, so it is not answered: {error.strerror or error}"
    return Fault(503, "journal_unavailable", message)


def _headers(row: Row) -> bytes:
    total = time.perf_counter() - row.exchange.at
    overhead = (total - row.engine_seconds) * 1000
    version = f"{row.entity.model}/{row.entity.version}".encode("ascii", "replace")
    return b"x-request-id: %b\r\nx-trimtab-version: %b\r\nx-trimtab-route: %b\r\nx-trimtab-overhead-ms: %.3f\r\n%b" % (
        row.opened.request_id.encode(),
        version,
        row.route.encode(),
        overhead,
        observing.server_timing(row, total)
        + row.admitted.headers
        + (b"" if row.guarded is None else row.guarded.headers()),
    )
