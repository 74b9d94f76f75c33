"""One attempt at an answer: the request goes to the engine, and what comes back goes to the client.

The boundary: callbacks only. An attempt begins with `ask`, is driven by what the engine says, and ends with a call of
`ended`: with None when the client has its answer, else with what went wrong. Nothing waits here; a batch does
(`ask_all`), and runs in a task.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import islice

import msgspec

from trimtab.gateway import guarding, limits, rows, shapes, stream, upstream
from trimtab.gateway.guarded_stream import GuardedStream
from trimtab.gateway.routes import Own
from trimtab.gateway.rows import Row
from trimtab.gateway.shapes import Completion, Fault
from trimtab.gateway.upstream import UNLIMITED, EngineConnection, EngineGone
from trimtab.providers import retry_after

FAN_OUT = 8
"""Rows of one batch that are with the engine at once."""

Ended = Callable[[Row, Exception | None], None]
_Waiting = Callable[[Callable[[], object]], Awaitable[None]]


def ask(row: Row, connection: EngineConnection, ended: Ended) -> None:
    """Begin an attempt at the answer to one conversation, plain or streamed."""
    asked = row.asked
    row.connection, row.ended = connection, ended
    if asked.stream:
        row.relay, row.sent = asked.tell(row.opened.request_id, row.entity), []
        heard = partial(_streamed, row)
    else:
        heard = partial(_whole, row)
    if row.entity.first_byte_seconds < UNLIMITED:
        row.silent_until = row.gateway.deadlines.now() + row.entity.first_byte_seconds
    try:
        _send(row, connection, *_one(row), heard)
        row.gateway.deadlines.watch(row)
    except Exception as error:
        _end(row, error)


def go_on(row: Row, connection: EngineConnection, ended: Ended) -> None:
    """Go on with an attempt that was begun on the fast path: `connection` is over, and has heard what there is."""
    row.connection, row.ended = connection, ended
    if row.asked.stream:
        _streamed(row)
    else:
        _whole(row)


def let_go(row: Row) -> None:
    """End an attempt without a word: the connection is given back, and cut when the engine is not done."""
    connection = row.connection
    if connection is not None:
        row.connection = row.ended = None
        row.silent_until = rows.NEVER
        row.gateway.deadlines.forget(row)
        row.gateway.pool.release(connection)
        if row.relay is not None:
            row.usage = row.relay.usage  # as far as the engine has counted: it may count as it goes
        if row.first_byte is None:
            row.engine_seconds += time.perf_counter() - row.began


def _end(row: Row, error: Exception | None) -> None:
    ended = row.ended
    let_go(row)
    if error is not None and row.relay is not None and not row.exchange.started:  # it may be asked again
        row.lost = limits.lose(row.lost, [row.relay.usage], row.entity)
    if ended is not None:
        ended(row, error)


def _whole(row: Row) -> None:
    """Something was heard of a plain answer."""
    connection = row.connection
    if connection is None or not (connection.complete or connection.lost):
        return
    ended, failed = row.ended, None
    let_go(row)
    try:
        reply(row, [_answer(row, connection)])
    except Exception as error:
        failed = error
    if ended is not None:
        ended(row, failed)


def _answer(row: Row, connection: EngineConnection) -> Completion:
    """What a response says. Raises EngineGone when it did not come whole, Fault when it is no answer."""
    if not connection.complete:
        raise connection.gone()
    if connection.status != 200:
        raise _refusal(row, connection)
    body = connection.take()
    try:
        return shapes.decided(row.asked, row.entity, shapes.completion(body, row.asked.operation))
    except Fault:
        row.lost = limits.lose(row.lost, [stream.reported(body)], row.entity)
        raise


def reply(row: Row, answers: list[Completion]) -> None:
    """Close the row of a plain answer and send it. Raises Fault when the journal does not take it."""
    asked, entity = row.asked, row.entity
    if row.text is None:
        row.text = asked.output_text(answers)
    row.usage = stream.total([one.usage for one in answers])
    body = asked.render(answers, row.opened.request_id, entity)
    rows.close(row, 200, guarding.outcome(row.guarded), body)
    if row.shadow_of is None:
        row.exchange.reply(200, body, rows.headers(row))


def _streamed(row: Row) -> None:
    """Something was heard of a streamed answer. Its end leaves after the row is closed."""
    connection = row.connection
    if connection is None:
        return
    try:
        if connection.status == 200:
            _tell(row, connection.take())
        elif connection.complete:
            raise _refusal(row, connection)
        if connection.complete:
            _finish(row)
        elif connection.lost:
            raise connection.gone()
        else:
            if row.exchange.wire.behind and row.exchange.started:  # the engine waits while the client does not read
                connection.pause()
                row.exchange.caught_up = connection.resume
            return
    except Exception as error:
        _end(row, error)
    else:
        _end(row, None)


def _tell(row: Row, data: bytes) -> None:
    """Send on a piece of what the engine said."""
    relay, exchange, sent = row.relay, row.exchange, row.sent
    assert relay is not None and sent is not None  # noqa: S101, PT018 (a stream has both)
    try:
        events = relay.feed(data)
    except (msgspec.DecodeError, stream.EngineFailed) as error:
        raise Fault(502, "engine_error", f"the engine failed in mid-answer: {error}") from error
    if not events:
        return
    sent.append(events)
    if exchange.started:
        exchange.send(events)
    else:
        row.first_byte = time.perf_counter()
        row.engine_seconds += row.first_byte - row.began
        exchange.start(rows.headers(row), b"text/event-stream; charset=utf-8", events)


def _finish(row: Row, guard: GuardedStream | None = None) -> None:
    """End a streamed answer that came whole. Raises EngineGone when it did not, Fault when it is not recorded."""
    relay, sent = row.relay, b"".join(row.sent or ())
    if relay is None or not relay.done or not row.exchange.started:
        raise EngineGone(f"the engine at {row.entity.address} ended its answer early")
    row.usage = relay.usage
    row.text = relay.text(sent)
    last = relay.last()
    if guard is not None:
        guard.tell(row)
    rows.close(row, 200, guarding.outcome(row.guarded), sent + last)
    row.exchange.end(last)


def _one(row: Row) -> tuple[Own, list[object]]:
    """The only question of a request."""
    return shapes.questions(row.asked, row.entity, row.asked.conversations[0])[0]


def _send(
    row: Row, connection: EngineConnection, own: Own, conversation: list[object], heard: Callable[[], None]
) -> None:
    entity, operation = row.entity, row.asked.operation
    left = row.until - row.gateway.deadlines.now() if entity.name else 0.0
    body = shapes.engine_request(row.asked, entity, own, conversation)
    connection.ask(upstream.request(entity, operation, body, left, row.trace), heard)


def _refusal(row: Row, connection: EngineConnection) -> Fault:
    """What an engine said instead of an answer."""
    said = connection.take()
    if key := row.entity.api_key.encode():
        said = said.replace(key, b"[key]")  # before it is shortened
    row.lost = limits.lose(row.lost, [stream.reported(said)], row.entity)
    fault = shapes.engine_fault(connection.status, said)
    fault.retry_after = retry_after.seconds_of(connection.retry_after())
    return fault


# An answer under guards, which may have to wait for them


async def ask_guarded(row: Row, guard: GuardedStream, fresh: bool) -> None:
    """One attempt at a streamed answer that the version's guards look at before the client has it."""
    relay = row.relay = row.asked.tell(row.opened.request_id, row.entity)
    row.sent, connection = [], await row.gateway.pool.acquire(row.entity, fresh)
    try:
        said = await _begun(row, connection, *_one(row))
        while not guard.ended:
            await said(lambda: connection.complete or connection.has_more)
            if connection.status != 200:
                await said(lambda: connection.complete)
                raise _refusal(row, connection)
            whole = connection.complete
            _tell(row, await guard.feed(connection.take()))
            if whole:
                break
            if row.exchange.behind:
                connection.pause()
                await _caught_up(row)
                connection.resume()
    except Exception:
        if not row.exchange.started:  # it may be asked again
            row.lost = limits.lose(row.lost, [relay.usage], row.entity)
        raise
    finally:
        row.gateway.pool.release(connection)
        if row.first_byte is None:
            row.engine_seconds += time.perf_counter() - row.began
    _finish(row, guard)


async def _caught_up(row: Row) -> None:
    """Wait until the client has read enough."""
    read = asyncio.Event()
    row.exchange.caught_up = read.set
    if row.exchange.behind:
        await read.wait()


# A batch


async def ask_all(row: Row, fresh: bool) -> None:
    """Ask for every row of a batch, and all that a version which votes is asked for it, a few at a time, and reply; the
    first failure ends the rest."""
    answers: dict[int, Completion] = {}
    asked = [shapes.questions(row.asked, row.entity, conversation) for conversation in row.asked.conversations]
    left = iter(enumerate(question for several in asked for question in several))

    async def work() -> None:
        for index, question in left:
            answers[index] = await _ask_one(row, *question, fresh)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(FAN_OUT, sum(map(len, asked)))):
                group.create_task(work())
    except BaseException as failures:
        row.lost = limits.lose(row.lost, [one.usage for one in answers.values()], row.entity)
        if isinstance(failures, ExceptionGroup):
            raise failures.exceptions[0] from None
        raise
    finally:
        row.engine_seconds += time.perf_counter() - row.began
    each = iter([answers[index] for index in range(len(answers))])
    given = [_voted(list(islice(each, len(several)))) for several in asked]
    if row.guarded is not None:
        row.text = row.asked.output_text(given)
        given = await guarding.answers(row, row.guarded, given)
    reply(row, given)


def _voted(answers: list[Completion]) -> Completion:
    return answers[0] if len(answers) == 1 else shapes.vote(answers, stream.total([one.usage for one in answers]))


async def _ask_one(row: Row, own: Own, conversation: list[object], fresh: bool) -> Completion:
    connection = await row.gateway.pool.acquire(row.entity, fresh)
    try:
        said = await _begun(row, connection, own, conversation)
        await said(lambda: connection.complete)
        return _answer(row, connection)
    finally:
        row.gateway.pool.release(connection)


async def _begun(row: Row, connection: EngineConnection, own: Own, conversation: list[object]) -> _Waiting:
    """Ask, and wait until the engine has begun to answer; returns how to wait for more. Raises EngineGone."""
    heard = asyncio.Event()
    _send(row, connection, own, conversation, heard.set)
    first, said = row.entity.first_byte_seconds, partial(_heard, connection, heard)
    try:
        async with asyncio.timeout(first if first < UNLIMITED else None):
            await said(lambda: connection.status)
    except TimeoutError:
        connection.fall_silent()
    return said


async def _heard(connection: EngineConnection, heard: asyncio.Event, what: Callable[[], object]) -> None:
    """Wait until an engine has said something. Raises EngineGone when its connection is lost before."""
    while not what():
        if connection.lost:
            raise connection.gone()
        heard.clear()
        await heard.wait()
