"""How often and where a request is tried: again at the same upstream with growing pauses, then at the fallbacks.

The boundary: decides from how an attempt ended whether another one may help; what an attempt does is the caller's.
Nothing is tried again once the client was told anything. A status says what it says in RFC 9110; which ones are worth
another attempt is in `providers.retry_after`. The request's deadline is the caller's timeout around all of it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from trimtab.gateway.pool import Pool
from trimtab.gateway.routes import Endpoint, Entity, Route
from trimtab.gateway.shapes import Fault
from trimtab.gateway.turnstile import Full, Turnstile
from trimtab.gateway.upstream import EngineGone
from trimtab.providers.retry_after import RETRYABLE
from trimtab.store.journal import Attempt

Way = tuple[Entity, Route]

REPLACED_SECONDS = 30.0
"""How long a request waits for an engine of ours that went away: the supervisor is starting it again, with its golden
prompt; MLflow's takes 8 s on an idle machine and 15 on a busy one. A provider is not waited for in this way: it is
asked again where it was."""
LOOK_SECONDS = 0.05
"""How often that is looked at."""
CLOCK_SECONDS = 0.01
"""How far from the deadline its timer may go off: the event loop's clock counts whole milliseconds."""


@dataclass(slots=True)
class Trial:
    """One request on its way to an answer."""

    attempt: Callable[[Entity, Route, bool], Awaitable[None]]
    """One attempt; the flag asks for a new connection. Raises EngineGone, Full or Fault."""
    moved: Callable[[], Way | None]
    """Where the version is served now, if that is elsewhere than before."""
    told: Callable[[], bool]
    """Whether the client was told anything yet."""
    pool: Pool
    endpoint: Endpoint
    until: float
    """The deadline, by the event loop's clock."""
    tried: list[Attempt] = field(default_factory=list)
    """Attempts that failed so far."""
    failed: tuple[Exception, float] | None = None
    """How the first attempt ended, and when (the event loop's clock) it began, when that was made already."""


def answer(trial: Trial, first: Way, fallbacks: list[Entity]) -> Awaitable[None]:
    """Try until one attempt succeeds. Raises the last Fault, which holds every attempt; or EngineGone in mid-answer."""
    return _through(trial, first, fallbacks) if fallbacks else _at(trial, first, last=True)


async def _through(trial: Trial, first: Way, fallbacks: list[Entity]) -> None:
    ways: list[Way] = [first, *((entity, "fallback") for entity in fallbacks)]
    for number, way in enumerate(ways, start=1):
        try:
            await _at(trial, way, last=number == len(ways))
            return
        except Fault as fault:
            if trial.told() or number == len(ways) or _is_the_clients(fault):
                raise


async def _at(trial: Trial, way: Way, last: bool) -> None:
    """Every attempt at one upstream. `last`: no other is left, so that a short rest is waited for."""
    loop, number, fresh = asyncio.get_running_loop(), 0, False
    while True:
        turnstile, begun = trial.pool.turnstile(way[0]), loop.time()
        failed, trial.failed = trial.failed, None
        if not failed and (rest := turnstile.shut(begun)):
            wait = last and rest <= trial.endpoint.max_wait and begun + rest < trial.until
            elsewhere = await _elsewhere(trial, rest if wait else 0.0)
            if elsewhere is None and not wait:
                raise _shut(trial, way[0], rest)
            way = elsewhere or way
            continue
        number += 1
        try:
            if failed:
                begun = failed[1]
                raise failed[0]
            await trial.attempt(*way, fresh)
        except EngineGone as gone:
            fresh = True
            if gone.stale and not trial.told():
                turnstile.gave_up()
                number -= 1
                continue
            fault = _gone(trial, way[0], turnstile, gone, begun)
            replaced = last and number == 1 and not way[0].name
            if elsewhere := await _elsewhere(trial, REPLACED_SECONDS if replaced else 0.0):
                way = elsewhere
                continue
        except (Full, Fault) as error:
            fault = _refused(trial, way[0], turnstile, error, begun)
        except BaseException:
            gave_up(trial, way[0], begun)
            raise
        else:
            turnstile.succeeded()
            return
        pause = _pause(trial, fault, number, last)
        if pause is None:
            raise fault
        await asyncio.sleep(pause)
        way = trial.moved() or way


async def _elsewhere(trial: Trial, patience: float) -> Way | None:
    """Where the version is served now, if that is elsewhere; waits `patience` seconds for it, at most."""
    until = min(_now() + patience, trial.until - LOOK_SECONDS)
    while (found := trial.moved()) is None and _now() < until:
        await asyncio.sleep(LOOK_SECONDS)
    return found


def _gone(trial: Trial, entity: Entity, turnstile: Turnstile, gone: EngineGone, begun: float) -> Fault:
    """An upstream that did not answer, as a fault. Raises EngineGone when the client has heard the beginning."""
    turnstile.failed(_now(), trial.endpoint.breaker_failures, trial.endpoint.breaker_seconds)
    fault = _noted(trial, entity, Fault(502, "engine_unavailable", str(gone)), begun)
    if trial.told():
        raise gone
    return fault


def _refused(trial: Trial, entity: Entity, turnstile: Turnstile, error: Full | Fault, begun: float) -> Fault:
    """An upstream that said no, or was not asked because of its queue. Raises a Fault that is not the upstream's."""
    if isinstance(error, Full):
        turnstile.gave_up()
        fault = Fault(429, "too_many_requests", f"{entity.upstream} is busy, and {error}; try again later")
        fault.retry_after = error.retry_after
        raise _noted(trial, entity, fault, begun) from error
    if error.status != 502 and error.upstream_status is None:  # our own, e.g. a journal that takes nothing
        turnstile.succeeded()
        raise error
    _judge(trial, turnstile, error, _now())
    return _noted(trial, entity, error, begun)


def _judge(trial: Trial, turnstile: Turnstile, fault: Fault, now: float) -> None:
    """What a fault says about the upstream: broken, busy, or merely of another opinion."""
    status, endpoint = fault.upstream_status, trial.endpoint
    if status is None or status >= 500:
        turnstile.failed(now, endpoint.breaker_failures, endpoint.breaker_seconds)
    elif status == 429:
        turnstile.gave_up()
    else:
        turnstile.succeeded()
    if fault.retry_after and status in (429, 503):
        turnstile.rest(now + fault.retry_after)


def _pause(trial: Trial, fault: Fault, number: int, last: bool) -> float | None:
    """Seconds until the next attempt at the same upstream; None: there is none."""
    endpoint, status = trial.endpoint, fault.upstream_status
    if trial.told() or number >= endpoint.attempts or (status is not None and status not in RETRYABLE):
        return None
    if fault.retry_after is not None and not last:
        return None  # a fallback answers sooner
    longest = endpoint.backoff * 2 ** (number - 1)
    pause = max(fault.retry_after or 0.0, longest * random.uniform(0.5, 1.0))  # noqa: S311 (spread, not a secret)
    enough = fault.retry_after is None or fault.retry_after <= endpoint.max_wait
    return pause if enough and _now() + pause < trial.until else None


def _is_the_clients(fault: Fault) -> bool:
    """Whether another upstream would say the same: the request itself is at fault."""
    return fault.status == 400


def _noted(trial: Trial, entity: Entity, fault: Fault, begun: float) -> Fault:
    """Put an attempt on the list. A provider may repeat the key it was asked with: nobody else is shown it."""
    if entity.api_key:
        fault.message = fault.message.replace(entity.api_key, "[key]")
    trial.tried.append(Attempt(entity.upstream, fault.upstream_status, fault.message, _ms(begun)))
    fault.attempts = tuple(trial.tried)
    return fault


def _shut(trial: Trial, entity: Entity, rest: float) -> Fault:
    message = f"{entity.upstream} is not asked for another {rest:.1f} s: it failed too often or asked to be left alone"
    fault = Fault(503, "upstream_resting", message)
    fault.retry_after = rest
    trial.tried.append(Attempt(entity.upstream, None, message, 0))
    fault.attempts = tuple(trial.tried)
    return fault


def gave_up(trial: Trial, entity: Entity, begun: float) -> None:
    """The request was cut: by the deadline, which speaks against the upstream, or by the client."""
    turnstile, now, endpoint = trial.pool.turnstile(entity), _now(), trial.endpoint
    if now < trial.until - CLOCK_SECONDS or trial.told():
        turnstile.gave_up()
        return
    turnstile.failed(now, endpoint.breaker_failures, endpoint.breaker_seconds)
    trial.tried.append(Attempt(entity.upstream, None, "no complete answer before the deadline", _ms(begun)))


def _now() -> float:
    return asyncio.get_running_loop().time()


def _ms(begun: float) -> int:
    return round((_now() - begun) * 1000)
