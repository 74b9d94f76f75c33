"""Who asks, and how long they wait: what a request's headers say of its caller."""

from __future__ import annotations

from hashlib import blake2b

from trimtab.gateway.server import Exchange
from trimtab.gateway.shapes import Asked, Fault


def deadline_of(exchange: Exchange, longest: float) -> float:
    """Seconds for the answer: `longest`, or less where the client waits less. Raises Fault 400."""
    asked = exchange.headers.get(b"x-trimtab-deadline-ms")
    if asked is None:
        return longest
    if not asked.isdigit() or not int(asked[:12]):
        raise Fault(400, "invalid_deadline", "x-trimtab-deadline-ms must be a number of milliseconds above 0")
    return min(longest, int(asked[:12]) / 1000)


def caller_of(exchange: Exchange, asked: Asked) -> tuple[str, str]:
    """The canary's caller key, and who is on record as the requester. A secret is only ever kept as its hash."""
    if exchange.key is not None:
        key = exchange.key.id
    else:
        authorization = exchange.headers.get(b"authorization")
        key = f"key:{blake2b(authorization, digest_size=8).hexdigest()}" if authorization else ""
    caller = asked.user or header(exchange, b"x-trimtab-caller") or key or exchange.peer
    return caller, key or exchange.peer


def header(exchange: Exchange, name: bytes) -> str | None:
    """A header's value, None when it is absent or empty."""
    return exchange.headers.get(name, b"").decode("utf-8", "replace") or None
