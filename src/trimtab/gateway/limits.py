"""Whether a key may ask now, and what it is told when it may not: rates of requests and tokens, budgets of money.

The boundary: what a request may need at most is worked out here, before it is asked; `ledger` keeps the sums, and
`prices` says what tokens cost. Rates of tokens are taken with the usual estimate, four bytes of prompt a token and the
longest answer allowed; money with the most it can cost, a token for each byte of text as the version reads it (masked,
and once for every twin), so that answers in progress together never spend more than is there. Both are settled with
what the engine counted.
"""

from __future__ import annotations

import time
from typing import Literal, Protocol

import msgspec

from trimtab.gateway.keys import Key, Rate
from trimtab.gateway.ledger import Ledger, Refused, Reserved, left
from trimtab.gateway.routes import OUTPUT_LIMITS, Entity, Snapshot
from trimtab.gateway.shapes import Asked, Fault, growth
from trimtab.gateway.stream import Usage
from trimtab.providers.prices import cost

BYTES_A_TOKEN = 4
UNBOUNDED_OUTPUT = 4096
"""Tokens of an answer that is reserved for when neither the request nor the version limits its length."""


class _Question(Protocol):
    """The parts of an exchange that matter here."""

    body: bytes
    key: Key | None


class Admitted(msgspec.Struct, frozen=True):
    """A request that may be asked. `prompt` is the estimate of its tokens, for when nobody counts them."""

    key: Key | None = None
    reserved: Reserved | None = None
    prompt: int = 0
    headers: bytes = b""


class Lost(msgspec.Struct, frozen=True):
    """What attempts used that led to no answer, where the provider said so."""

    tokens: int = 0
    nano_usd: int = 0


NONE_LOST = Lost()
NOTHING = Admitted()
"""Nobody's request, for which nothing is reserved."""


def admit(ledger: Ledger | None, exchange: _Question, asked: Asked, snapshot: Snapshot | None) -> Admitted:
    """Reserve what a request may need. Raises Fault 429 when its key may not have it now, 503 when nobody can say."""
    key, size = exchange.key, len(exchange.body)
    if key is None or ledger is None or not key.limited or snapshot is None or not snapshot.demands:
        return Admitted(key, None, size // BYTES_A_TOKEN)
    prompt = tokens = nano_usd = 0
    conversations = len(asked.conversations) or 1
    answers, said = _output(asked)
    demands = snapshot.demands if asked.rows is None else ()  # rows are for a model that has no tokens
    size += max(growth(asked, entity) for entity in snapshot.answering)
    for demand in demands:  # whichever version will answer
        text = (size + conversations * demand.prompt_bytes) * demand.questions
        longest = said if said is not None else UNBOUNDED_OUTPUT if demand.longest is None else demand.longest
        answer = conversations * answers * longest * demand.questions
        if demand.input_price is not None:
            nano_usd = max(nano_usd, text * demand.input_price + answer * demand.output_price)
        elif key.budgets:
            raise Fault(
                503, "no_price", f"{key.id} has a budget, and what the model costs is not known: set model.price"
            )
        prompt = max(prompt, text // BYTES_A_TOKEN)
        tokens = max(tokens, text // BYTES_A_TOKEN + answer)
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


def readmitted(key: Key | None, reserved: Reserved | None, prompt: int, now: int) -> Admitted:
    """What the fast path admitted, at `now` (epoch ns)."""
    if key is None or reserved is None:
        return Admitted(key, None, prompt)
    return Admitted(key, reserved, prompt, _headers(key, reserved.requests_full, reserved.tokens_full, now))


def settle(
    ledger: Ledger | None,
    admitted: Admitted,
    usage: Usage,
    entity: Entity,
    outcome: Literal["ok", "error", "timeout", "cancelled", "aborted", "blocked"],
    sent: bool,
    lost: Lost = NONE_LOST,
) -> int | None:
    """Put what an answer used in the place of what was reserved. Returns what it cost (nano-USD), None without a price.

    An engine that was stopped in mid-answer has not said how long the prompt was: then the estimate counts. One that
    failed before it said anything costs nothing; what it reported to have used before it failed (`lost`) is charged.
    """
    if usage.prompt_tokens is None and (sent or outcome in ("timeout", "cancelled", "aborted")):
        usage = Usage(admitted.prompt, usage.completion_tokens)
    nano_usd = None if entity.price is None else cost(usage, entity.price)
    if lost.nano_usd:
        nano_usd = (nano_usd or 0) + lost.nano_usd
    if admitted.reserved is not None:
        tokens = (usage.prompt_tokens or 0) + (usage.completion_tokens or 0) + lost.tokens
        release(ledger, admitted, tokens, nano_usd or 0)
    return nano_usd


def lose(lost: Lost, usages: list[Usage], entity: Entity) -> Lost:
    """Add what an attempt used that failed."""
    tokens = sum((one.prompt_tokens or 0) + (one.completion_tokens or 0) for one in usages)
    nano_usd = 0 if entity.price is None else sum(cost(one, entity.price) for one in usages)
    return Lost(lost.tokens + tokens, lost.nano_usd + nano_usd) if tokens else lost


def release(ledger: Ledger | None, admitted: Admitted, tokens: int = 0, nano_usd: int = 0) -> None:
    """Give back what was reserved, but for what was used."""
    if ledger is not None and admitted.key is not None and admitted.reserved is not None:
        ledger.settle(admitted.key, admitted.reserved, time.time_ns(), tokens, nano_usd)


def _output(asked: Asked) -> tuple[int, int | None]:
    """How many answers a conversation gets, and how many tokens each may have as the client says; vectors and rows have
    none."""
    if asked.operation != "chat/completions":
        return 0, 0
    sampling, said = asked.sampling, None
    for name in OUTPUT_LIMITS:
        if (said := sampling.get(name)) is not None:
            break
    return sampling.get("n") or 1, said


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
        _duration(full_at - now if full_at > now else 0),
    )


def _duration(ns: int) -> bytes:
    """A time as Go writes it, which is how OpenAI does: 12ms, 1.5s, 6m0s."""
    if ns < 1_000_000_000:
        return b"%dms" % -(-ns // 1_000_000)
    minutes, rest = divmod(-(-ns // 1_000_000), 60_000)
    seconds = b"%gs" % (rest / 1000)
    return b"%dm%b" % (minutes, seconds) if minutes else seconds
