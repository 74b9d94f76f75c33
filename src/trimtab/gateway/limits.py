"""Whether a key may ask now, and what it is told when it may not: rates of requests and tokens, budgets of money.

The boundary: what a request may need at most is worked out here, before it is asked; `ledger` keeps the sums, and
`prices` says what tokens cost. Rates of tokens are taken with the usual estimate, four bytes of prompt a token and the
longest answer allowed; money with the most it can cost, a token for each byte of text, so that answers in progress
together never spend more than is there. Both are settled with what the engine counted.
"""

from __future__ import annotations

import time
from typing import Literal, NamedTuple, Protocol

from trimtab.gateway.keys import Key, Rate
from trimtab.gateway.ledger import Ledger, Refused, Reserved, left
from trimtab.gateway.routes import Entity, Snapshot
from trimtab.gateway.shapes import Asked, Fault
from trimtab.gateway.stream import Usage
from trimtab.providers.prices import cost

BYTES_A_TOKEN = 4
UNBOUNDED_OUTPUT = 4096
"""Tokens of an answer that is reserved for when neither the request nor the version limits its length."""
_OUTPUT_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


class _Question(Protocol):
    """The parts of an exchange that matter here."""

    body: bytes
    key: Key | None


class Admitted(NamedTuple):
    """A request that may be asked. `prompt` is the estimate of its tokens, for when nobody counts them."""

    key: Key | None = None
    reserved: Reserved | None = None
    prompt: int = 0
    headers: bytes = b""


NOTHING = Admitted()
"""Nobody's request, for which nothing is reserved."""


def admit(ledger: Ledger | None, exchange: _Question, asked: Asked, snapshot: Snapshot | None) -> Admitted:
    """Reserve what a request may need. Raises Fault 429 when its key may not have it now, 503 when nobody can say."""
    key, entities = exchange.key, snapshot.answering() if snapshot is not None else []
    if key is None or ledger is None or not key.limited or not entities:
        return Admitted(key, prompt=len(exchange.body) // BYTES_A_TOKEN)
    prompt = tokens = nano_usd = 0
    for entity in entities:  # whichever will answer
        need = _needs(entity, asked, len(exchange.body))
        if key.budgets and need.nano_usd is None:
            raise Fault(
                503, "no_price", f"{key.id} has a budget, and what the model costs is not known: set model.price"
            )
        prompt, tokens, nano_usd = max(prompt, need.prompt), max(tokens, need.tokens), max(nano_usd, need.nano_usd or 0)
    now = time.time_ns()
    try:
        reserved = ledger.reserve(key, now, tokens, nano_usd)
    except OSError as error:
        message = f"what {key.id} has used cannot be recorded: {error.strerror or error}"
        raise Fault(503, "ledger_unavailable", message) from error
    if isinstance(reserved, Refused):
        requests_full, tokens_full = ledger.full_at(key)
        raise _refusal(key, reserved, tokens, _headers(key, requests_full, tokens_full, now))
    return Admitted(key, reserved, prompt, _headers(key, reserved.requests_full, reserved.tokens_full, now))


def settle(
    ledger: Ledger | None,
    admitted: Admitted,
    usage: Usage,
    entity: Entity,
    outcome: Literal["ok", "error", "timeout", "cancelled", "aborted", "blocked"],
    sent: bool,
) -> int | None:
    """Put what an answer used in the place of what was reserved. Returns what it cost (nano-USD), None without a price.

    An engine that was stopped in mid-answer has not said how long the prompt was: then the estimate counts. One that
    failed before it said anything costs nothing.
    """
    if usage.prompt_tokens is None and (sent or outcome in ("timeout", "cancelled", "aborted")):
        usage = Usage(admitted.prompt, usage.completion_tokens)
    nano_usd = None if entity.price is None else cost(usage, entity.price)
    release(ledger, admitted, (usage.prompt_tokens or 0) + (usage.completion_tokens or 0), nano_usd or 0)
    return nano_usd


def release(ledger: Ledger | None, admitted: Admitted, tokens: int = 0, nano_usd: int = 0) -> None:
    """Give back what was reserved, but for what was used."""
    if ledger is not None and admitted.key is not None and admitted.reserved is not None:
        ledger.settle(admitted.key, admitted.reserved, time.time_ns(), tokens, nano_usd)


class _Need(NamedTuple):
    prompt: int
    tokens: int
    nano_usd: int | None


def _needs(entity: Entity, asked: Asked, size: int) -> _Need:
    """What a request needs on one version: its own text and the version's, as often as there are conversations."""
    rows, template = max(1, len(asked.conversations)), entity.template
    text = size + rows * sum(len(raw) for part in (template.messages, template.params.values()) for raw in part)
    output = rows * (asked.sampling.get("n") or 1) * _longest(entity, asked)
    prompt = text // BYTES_A_TOKEN
    price = entity.price
    if price is None:
        return _Need(prompt, prompt + output, None)
    dearest = max(price.input, price.cached_input, price.cache_write)
    return _Need(prompt, prompt + output, text * dearest + output * price.output)


def _longest(entity: Entity, asked: Asked) -> int:
    """Tokens of the longest answer: as the client limits it, else as the version does; an embedding has none."""
    if asked.operation == "embeddings":
        return 0
    for name in _OUTPUT_LIMITS:
        if (limit := asked.sampling.get(name)) is not None:
            return limit
    for name in _OUTPUT_LIMITS:
        if (raw := entity.template.params.get(name)) is not None:
            return int(bytes(raw))
    return UNBOUNDED_OUTPUT


def _refusal(key: Key, refused: Refused, tokens: int, headers: bytes) -> Fault:
    """429 as OpenAI's clients read it: they wait as long as Retry-After says, unless x-should-retry says not to."""
    if refused.wait is not None:
        headers += b"retry-after: %d\r\n" % -(-refused.wait // 1_000_000_000)
    if refused.what in ("requests", "tokens"):
        rate = key.requests if refused.what == "requests" else key.tokens
        limit = f"{rate.count} {refused.what} in {rate.seconds} s" if rate else refused.what
        if refused.wait is None:
            message = (
                f"this request may need {tokens} tokens, and {key.id} may use {limit}: send less, or set max_tokens"
            )
            headers += b"x-should-retry: false\r\n"
        else:
            headers += b"retry-after-ms: %d\r\n" % -(-refused.wait // 1_000_000)
            message = f"{key.id} may use {limit}; try again in {refused.wait / 1e9:.3g} s"
        return Fault(429, "rate_limit_exceeded", message, kind=refused.what, headers=headers)
    budget = next(budget for budget in key.budgets if budget.per == refused.what)
    enough = (
        "this request alone may cost more" if refused.wait is None else "what is left is not enough for this request"
    )
    message = f"{key.id} may spend {budget.nano_usd / 1e9:g} USD a {budget.per}: {enough}"
    headers += b"x-should-retry: false\r\n"
    return Fault(429, "budget_exceeded", message, kind="insufficient_quota", headers=headers)


def _headers(key: Key, requests_full: int, tokens_full: int, now: int) -> bytes:
    """How much is left, as OpenAI says it."""
    lines = b"" if key.requests is None else _lines(b"requests", key.requests, requests_full, now)
    return lines if key.tokens is None else lines + _lines(b"tokens", key.tokens, tokens_full, now)


def _lines(what: bytes, rate: Rate, full_at: int, now: int) -> bytes:
    return b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: %d\r\nx-ratelimit-reset-%b: %b\r\n" % (
        what,
        rate.count,
        what,
        left(rate, full_at, now),
        what,
        _duration(max(0, full_at - now)),
    )


def _duration(ns: int) -> bytes:
    """A time as Go writes it, which is how OpenAI does: 12ms, 1.5s, 6m0s."""
    if ns < 1_000_000_000:
        return b"%dms" % -(-ns // 1_000_000)
    minutes, rest = divmod(-(-ns // 1_000_000), 60_000)
    seconds = b"%gs" % (rest / 1000)
    return b"%dm%b" % (minutes, seconds) if minutes else seconds
