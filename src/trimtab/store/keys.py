"""API keys in the control store: append-only events in the audit log, and the live keys that follow from them.

A secret is `tt-` + the public part of the key's id + 192 random bits. It is returned once, to be shown once; what is
stored is its SHA-256. A slow password hash would protect nothing more: there is no guessing 192 random bits.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from trimtab.errors import Fixable
from trimtab.records.endpoint import EndpointSection
from trimtab.records.keys import Budget, KeyEvent, LiveKey, LiveKeys, Rate, Scope
from trimtab.records.keys import budget as parsed_budget
from trimtab.records.keys import rate as parsed_rate
from trimtab.store.control import Control


@dataclass
class Known:
    """A key as its events tell it. `hashes`: each hash with the moment at which it ends, newest first."""

    slot: int
    created: KeyEvent
    hashes: list[tuple[str, datetime | None]]
    rotations: int = 0
    revoked: KeyEvent | None = field(default=None)

    @property
    def id(self) -> str:
        return self.created.key

    def state(self, now: datetime) -> str:
        """revoked, expired or live."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.created.expires_at is not None and self.created.expires_at <= now else "live"


def create(
    control: Control,
    model: str,
    *,
    name: str,
    scopes: tuple[Scope, ...],
    by: str,
    now: datetime,
    expires: timedelta | None = None,
    requests: Rate | None = None,
    tokens: Rate | None = None,
    budgets: tuple[Budget, ...] = (),
) -> tuple[str, str]:
    """A new key; returns its id and its secret. Raises Fixable for two budgets of one period."""
    if len({budget.per for budget in budgets}) < len(budgets):
        raise Fixable("two budgets are for the same period", "give one for each of hour, day and month")
    public = secrets.token_hex(6)
    secret, digest = _secret(public)
    event = KeyEvent(
        key=f"key-{public}",
        action="created",
        at=now,
        by=by,
        name=name,
        sha256=digest,
        scopes=scopes,
        expires_at=None if expires is None else now + expires,
        requests=requests,
        tokens=tokens,
        budgets=budgets,
    )
    control.put("key", f"{model}/{event.key}/created", event)
    return event.key, secret


def rotate(control: Control, model: str, key: str, by: str, now: datetime, grace: timedelta) -> str:
    """A new secret for a key that keeps its id, limits and spending; the one before works on for `grace`.

    Raises Fixable when the key is unknown, revoked or expired.
    """
    known = _live(control, model, key, now)
    secret, digest = _secret(key.removeprefix("key-"))
    event = KeyEvent(key=key, action="rotated", at=now, by=by, sha256=digest, grace_until=now + grace)
    if not control.put("key", f"{model}/{key}/rotated/{known.rotations + 1}", event):
        raise Fixable(f"{key} was rotated by somebody else just now", "look at `trimtab keys list`")
    return secret


def revoke(control: Control, model: str, key: str, by: str, now: datetime) -> None:
    """End a key for good. Raises Fixable when it is unknown or has ended."""
    _live(control, model, key, now)
    control.put("key", f"{model}/{key}/revoked", KeyEvent(key=key, action="revoked", at=now, by=by))


def known(control: Control, model: str) -> list[Known]:
    """Every key there ever was, oldest first."""
    found: dict[str, Known] = {}
    for event in control.facts("key", KeyEvent, f"{model}/"):
        if event.action == "created":
            found[event.key] = Known(len(found), event, [(event.sha256, event.expires_at)])
        elif event.action == "rotated":
            key = found[event.key]
            before = [(digest, _earlier(until, event.grace_until)) for digest, until in key.hashes]
            key.hashes = [(event.sha256, key.created.expires_at), *before]
            key.rotations += 1
        else:
            found[event.key].revoked = event
    return list(found.values())


def live(control: Control, model: str, endpoint: EndpointSection, now: datetime) -> LiveKeys:
    """The keys that may be used now. A key without a limit of its own has the endpoint's."""
    requests = None if endpoint.rate_limit is None else parsed_rate(endpoint.rate_limit)
    budgets = () if endpoint.budget is None else (parsed_budget(endpoint.budget),)
    keys = [_entry(key, requests, budgets, now) for key in known(control, model) if key.state(now) == "live"]
    return LiveKeys(keys=tuple(keys))


def _entry(key: Known, requests: Rate | None, budgets: tuple[Budget, ...], now: datetime) -> LiveKey:
    created = key.created
    hashes = [(digest, until) for digest, until in key.hashes if until is None or until > now]
    return LiveKey(
        id=key.id,
        slot=key.slot,
        scopes=created.scopes,
        sha256=tuple(digest for digest, _ in hashes),
        until_ms=tuple(None if until is None else int(until.timestamp() * 1000) for _, until in hashes),
        requests=created.requests or requests,
        tokens=created.tokens,
        budgets=created.budgets or budgets,
    )


def _live(control: Control, model: str, key: str, now: datetime) -> Known:
    found = next((one for one in known(control, model) if one.id == key), None)
    if found is None:
        raise Fixable(f"there is no key {key}", "look at `trimtab keys list`")
    if found.state(now) != "live":
        raise Fixable(f"{key} is {found.state(now)}", "create a new one with `trimtab keys create`")
    return found


def _secret(public: str) -> tuple[str, str]:
    """A new secret and its hash."""
    secret = f"tt-{public}-{secrets.token_hex(24)}"
    return secret, hashlib.sha256(secret.encode()).hexdigest()


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    return min((moment for moment in (one, other) if moment is not None), default=None)
