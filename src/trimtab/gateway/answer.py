"""Answer one question, from the request understood to the last byte sent.

The chain: choose the version (`routes`), open the row, ask the engine (`asking`) as often as may help (`attempts`),
close the row and reply (`rows`), and perhaps copy the request to another version (`shadow`). It is told what was asked
(`shapes.Asked`) and never looks at paths. The promise: the row is in the journal before the engine is asked.

The first attempt takes no task when a kept connection is free and nothing speaks against the engine: then callbacks
lead from the request to the reply. What waits (for a connection, a place, another attempt, a batch) is a task.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from functools import partial
from hashlib import blake2b

import msgspec

from trimtab import trace_context
from trimtab.gateway import asking, attempts, guarding, limits, observing, routes, rows, shapes
from trimtab.gateway.attempts import Trial, Way
from trimtab.gateway.deadline import until
from trimtab.gateway.exchange import Exchange
from trimtab.gateway.guarded_stream import GuardedStream
from trimtab.gateway.routes import Entity, Route
from trimtab.gateway.rows import Gateway, Row
from trimtab.gateway.shadow import Spent
from trimtab.gateway.shapes import Asked, Fault
from trimtab.gateway.upstream import EngineConnection, EngineGone
from trimtab.providers import prices
from trimtab.store.journal import Opened

CANCELLED_STATUS = 499
"""Status of a row whose client hung up (nginx's number for it: no answer was sent)."""

GROUP = b"x-trimtab-group"
"""The header in which a calling application declares the group of a question; it is kept nowhere."""

log = logging.getLogger("trimtab.gateway")


def follow(gateway: Gateway) -> None:
    """Look at the routes file; connections to engines that left it are closed. And at the keys file."""
    if gateway.keys is not None:
        gateway.keys.refresh()
    if gateway.routes.refresh() and gateway.routes.snapshot is not None:
        gateway.pool.keep(gateway.routes.snapshot)


def question(gateway: Gateway, exchange: Exchange, caller: Caller, request_id: str, asked: Asked) -> None:
    """Answer what was asked. Raises Fault when no row could be opened; from there on every end is a row and a reply."""
    asked.group = _header(exchange, GROUP)
    admitted = limits.admit(gateway.ledger, exchange, asked, gateway.routes.snapshot)
    try:
        row = _choose(gateway, exchange, caller, request_id, asked)
        if row.entity.guards is None:
            _record(row)
    except Exception:
        limits.release(gateway.ledger, admitted)
        raise
    row.admitted = admitted
    exchange.abandoned = partial(_abandoned, row)
    if row.entity.guards is not None:
        row.task = asyncio.get_running_loop().create_task(_guarded(row))
        return
    alone = len(asked.conversations) == 1 and not row.entity.votes
    connection = gateway.pool.at_once(row.entity) if alone else None
    if connection is None:
        row.task = asyncio.get_running_loop().create_task(_answered(row))
        return
    row.attempts, row.began, row.late = 1, time.perf_counter(), _late
    asking.ask(row, connection, _first_ended)


def resume(row: Row, connection: EngineConnection, late: bool) -> None:
    """Go on with a request that was begun on the fast path: with what `connection` has heard, or though it is late."""
    row.exchange.abandoned = partial(_abandoned, row)
    row.attempts, row.late = 1, _late
    if late:
        row.connection = connection
        _late(row)
    else:
        asking.go_on(row, connection, _first_ended)


def abandon(row: Row, connection: EngineConnection) -> None:
    """End a request that was begun on the fast path: nobody waits for the answer any more."""
    row.attempts, row.connection = 1, connection
    _abandoned(row)


# Without a task


def _first_ended(row: Row, error: Exception | None) -> None:
    """The first attempt is over: the client has its answer, or there may be another attempt."""
    row.late = None
    if error is None:
        row.gateway.pool.turnstile(row.entity).succeeded()
        _offer_shadow(row)
    else:
        row.task = asyncio.get_running_loop().create_task(_answered(row, error))


def _late(row: Row) -> None:
    row.late = None
    asking.let_go(row)
    attempts.gave_up(_trial(row), row.entity, _loop_time(row.began))
    _timed_out(row)


def _abandoned(row: Row) -> None:
    """Nobody waits for the answer any more: the engine need not go on."""
    if row.task is not None:
        row.task.cancel()
        if not row.running and row.recorded:
            _cancelled(row)
        elif not row.running:
            limits.release(row.gateway.ledger, row.admitted)
        return
    row.late = None
    asking.let_go(row)
    attempts.gave_up(_trial(row), row.entity, _loop_time(row.began))
    _cancelled(row)


# In a task


async def _guarded(row: Row) -> None:
    """Answer under guards: they look at the question first, for the row may have to do without some of it."""
    row.running = True
    gateway, exchange, request_id = row.gateway, row.exchange, row.opened.request_id
    try:
        await guarding.question(gateway.meter, row)
        _record(row)
    except Fault as fault:
        limits.release(gateway.ledger, row.admitted)
        observing.refused(request_id, row.opened.path, fault.status, fault.code)
        headers = b"x-request-id: %b\r\n%b" % (request_id.encode(), fault.headers)
        exchange.reply(fault.status, fault.body(exchange.path), headers)
    except asyncio.CancelledError:
        limits.release(gateway.ledger, row.admitted)
        raise
    else:
        if row.guarded is not None and row.guarded.stopped:
            _refuse(row, row.guarded)
        else:
            await _answered(row)


def _refuse(row: Row, looked: guarding.Watch) -> None:
    """End a question that a guard stopped: with the version's refusal as an answer, or an error."""
    exchange, body = row.exchange, guarding.refusal(looked, row)
    if body is None:
        rows.fail(row, guarding.refused(looked), "error" if looked.fault else "blocked")
        return
    try:
        rows.close(row, 200, "blocked", body)
    except Fault as unrecorded:
        rows.fail(row, unrecorded, "error")
        return
    if row.asked.stream:
        exchange.start(rows.headers(row), b"text/event-stream; charset=utf-8", body)
        exchange.end(b"")
    else:
        exchange.reply(200, body, rows.headers(row))


async def _answered(row: Row, failed: Exception | None = None) -> None:
    """Ask, again and elsewhere where that may help. `failed`: how the first attempt ended, if it was made already."""
    row.running = True
    try:
        with until(row.gateway.deadlines, row.until):
            trial = _trial(row)
            if failed is not None:
                trial.failed = failed, _loop_time(row.began)
            await attempts.answer(trial, (row.entity, row.route), _fallbacks(row))
        _offer_shadow(row)
    except asyncio.CancelledError:
        _cancelled(row)
        raise
    except TimeoutError:
        _timed_out(row)
    except EngineGone as error:
        fault = Fault(502, "engine_unavailable", str(error))
        fault.attempts = tuple(row.tried)
        rows.fail(row, fault, "error")
    except Fault as fault:
        rows.fail(row, fault, "blocked" if fault.code == guarding.CODE else "error")
    except Exception:
        log.exception("the gateway failed", extra={"request_id": row.opened.request_id, "path": row.opened.path})
        rows.fail(row, Fault(500, "internal_error", "the gateway failed; its log says why"), "error")


async def _attempt(row: Row, entity: Entity, route: Route, fresh: bool) -> None:
    """One attempt; returns when the client has its answer. Raises EngineGone, Full or Fault."""
    moved, row.entity, row.route, row.began = entity is not row.entity, entity, route, time.perf_counter()
    row.attempts += 1
    if moved and entity.whole:
        shapes.check(row.asked, entity)  # the version asked first may take what this one cannot
    if moved and (entity.guards is not None or row.guarded is not None):
        await guarding.again(row.gateway.meter, row)
    looked = row.guarded
    if looked is not None and looked.outputs and row.asked.stream:
        await asking.ask_guarded(row, GuardedStream(looked), fresh)
        return
    if len(row.asked.conversations) != 1 or entity.votes or (looked is not None and looked.outputs):
        await asking.ask_all(row, fresh)
        return
    try:
        connection = await row.gateway.pool.acquire(entity, fresh)
    except BaseException:
        row.engine_seconds += time.perf_counter() - row.began
        raise
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asking.ask(row, connection, lambda _, error: _resolve(ended, error))
    try:
        await ended
    except asyncio.CancelledError:
        asking.let_go(row)
        raise


def _resolve(ended: asyncio.Future[None], error: Exception | None) -> None:
    if ended.done():  # it was cancelled
        return
    if error is None:
        ended.set_result(None)
    else:
        ended.set_exception(error)


def _trial(row: Row) -> Trial:
    gateway, endpoint = row.gateway, row.routed.endpoint
    attempt = partial(_attempt, row)
    return Trial(attempt, lambda: _moved(row), lambda: row.told, gateway.pool, endpoint, row.until, row.tried)


def _fallbacks(row: Row) -> list[Entity]:
    return row.routed.fallback if row.route == "champion" else []


def _timed_out(row: Row) -> None:
    fault = Fault(504, "engine_timeout", f"no complete answer within {row.deadline:g} s")
    fault.attempts = tuple(row.tried)
    rows.fail(row, fault, "timeout")


def _cancelled(row: Row) -> None:
    hung_up = row.exchange.hung_up and row.shadow_of is None
    rows.give_up(row, CANCELLED_STATUS if hung_up else 503, "cancelled" if hung_up else "aborted")


def _loop_time(moment: float) -> float:
    """A moment of perf_counter by the event loop's clock."""
    return asyncio.get_running_loop().time() - (time.perf_counter() - moment)


# The shadow


def _offer_shadow(row: Row) -> None:
    """A request that was answered may be copied to another version."""
    shadow, limit = row.routed.shadow, row.routed.endpoint.shadow
    if shadow is not None and limit is not None and row.route != "shadow":
        row.gateway.shadows.offer(limit, lambda: _copy(row, shadow))


async def _copy(row: Row, entity: Entity) -> Spent:
    """Put a request that was answered to another version, for a row of its own; returns what that took."""
    gateway = row.gateway
    opened = msgspec.structs.replace(
        row.opened,
        request_id=secrets.token_hex(16),
        client_request_id=None,
        model=entity.model,
        version=entity.version,
        route="shadow",
        at_ms=time.time_ns() // 1_000_000,
    )
    asked, ends = msgspec.structs.replace(row.asked, stream=False), gateway.deadlines.now() + row.deadline
    exchange, routed = row.exchange.aside(), row.routed
    copy = Row(gateway, exchange, asked, opened, routed, entity, "shadow", row.deadline, ends, rows.NOT_COUNTED)
    copy.shadow_of = row.opened.request_id
    copy.guarded = guarding.watch(gateway.meter, entity, row.opened.path, "shadow")
    try:
        gateway.journal.opened(opened)
    except OSError:
        return Spent()
    await _answered(copy)
    cost = 0 if entity.price is None else prices.cost(copy.usage, entity.price)
    tokens = (copy.usage.prompt_tokens or 0) + (copy.usage.completion_tokens or 0)
    return Spent(tokens + copy.lost.tokens, cost + copy.lost.nano_usd)


# Choosing


class Caller(msgspec.Struct, frozen=True):
    """What a request's head says of who asks, and how: the same for every request with that head."""

    id: str
    """The canary's key."""
    requester: str
    """Who is on record. A secret is only ever kept as its hash."""
    client_request_id: str | None
    parent: str | None
    """The trace that the request belongs to."""
    deadline: float | None
    """Seconds that the caller waits."""


def caller_of(exchange: Exchange) -> Caller:
    """Read the head. Raises Fault 400."""
    if exchange.key is not None:
        key = exchange.key.id
    else:
        authorization = exchange.headers.get(b"authorization")
        key = f"key:{blake2b(authorization, digest_size=8).hexdigest()}" if authorization else ""
    requester = key or exchange.peer
    return Caller(
        _header(exchange, b"x-trimtab-caller") or requester,
        requester,
        _header(exchange, b"x-client-request-id"),
        trace_context.parent_of(exchange.headers),
        _patience(exchange.headers.get(b"x-trimtab-deadline-ms")),
    )


def _patience(asked: bytes | None) -> float | None:
    if asked is None:
        return None
    if not asked.isdigit() or not int(asked[:12]):
        raise Fault(400, "invalid_deadline", "x-trimtab-deadline-ms must be a number of milliseconds above 0")
    return int(asked[:12]) / 1000


def _choose(gateway: Gateway, exchange: Exchange, caller: Caller, request_id: str, asked: Asked) -> Row:
    """Choose the version and make the row. Raises Fault when nothing is served."""
    snapshot, named = gateway.routes.snapshot, asked.named
    who = named.user or named.safety_identifier or caller.id
    chosen = routes.choose(snapshot, who) if snapshot is not None else None
    if snapshot is None or chosen is None:
        raise Fault(503, "no_champion", "no version is being served yet; try again when /readyz says so")
    if named.model not in snapshot.names:
        message = f"the model {named.model!r} does not exist here; use {snapshot.model!r} or leave it out"
        raise Fault(404, "model_not_found", message, "model")
    entity, route = chosen
    shapes.check(asked, entity)
    longest = gateway.deadline or snapshot.endpoint.deadline
    patience = longest if caller.deadline is None else min(longest, caller.deadline)
    opened = Opened(
        request_id,
        asked.client_request_id or caller.client_request_id,
        who,
        caller.requester,
        entity.model,
        entity.version,
        route,
        exchange.head.path,
        time.time_ns() // 1_000_000,
        exchange.body,
        caller.parent,
    )
    ends = gateway.deadlines.now() + patience
    row = Row(gateway, exchange, asked, opened, snapshot, entity, route, patience, ends, rows.NOT_COUNTED)
    if caller.parent is not None or gateway.spans_exported:
        row.trace = trace_context.onward(exchange.headers, caller.parent, request_id, gateway.spans_exported)
    return row


def _record(row: Row) -> None:
    """Open the row in the journal. Raises Fault when it takes nothing."""
    begun = time.perf_counter()
    try:
        rows.settle_owed(row.gateway)
        row.gateway.journal.opened(row.opened)
    except OSError as error:
        raise rows.no_journal(error) from error
    row.journal_seconds, row.recorded = time.perf_counter() - begun, True


def _moved(row: Row) -> Way | None:
    """Where to ask again: the same version if it is still served, else whatever serves this caller now.

    None when that is no other engine than before. Nothing was told to the client yet, so the row still has one version.
    """
    follow(row.gateway)
    snapshot = row.gateway.routes.snapshot
    found = snapshot and routes.find(snapshot, row.entity)
    if not found and snapshot and row.route in ("champion", "canary"):
        found = routes.choose(snapshot, row.opened.caller)
    if not found or (found[0].address, found[0].version) == (row.entity.address, row.entity.version):
        return None
    return found


def _header(exchange: Exchange, name: bytes) -> str | None:
    return exchange.headers.get(name, b"").decode("utf-8", "replace") or None
