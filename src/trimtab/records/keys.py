"""Stage 2, serve: API keys. What happened to each, and which are live. Of a secret there is only its hash."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from pydantic import Field

from trimtab.records.record import Record

Scope = Literal["predict", "feedback", "models", "metrics", "admin", "attributes"]
SCOPES: tuple[Scope, ...] = ("predict", "feedback", "models", "metrics", "admin", "attributes")
"""What a key may do: ask the model, send feedback, list models, read metrics, all of these; read protected attributes,
which admin does not include."""

_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "day": 86400}
_MANY = {"": 1, "k": 1000, "M": 1_000_000}


class Rate(Record):
    """A bucket that holds `count` and gains `count` in each `seconds`."""

    count: int = Field(gt=0)
    seconds: int = Field(gt=0)

    def __str__(self) -> str:
        unit = next((unit for unit, seconds in _SECONDS.items() if seconds == self.seconds), f"{self.seconds}s")
        return f"{self.count}/{unit}"


class Budget(Record):
    """Most nano-USD (1e-9 USD) in each calendar hour, day or month, in UTC."""

    nano_usd: int = Field(ge=0)
    per: Literal["hour", "day", "month"]

    def __str__(self) -> str:
        return f"{self.nano_usd / 1e9:g} USD/{self.per}"


class KeyEvent(Record):
    """Something that happened to a key. Its creation says everything about it, a rotation has its new hash."""

    key: str
    action: Literal["created", "rotated", "revoked"]
    at: datetime
    by: str
    name: str = ""
    sha256: str = Field(default="", description="SHA-256 of the secret, in hex")
    scopes: tuple[Scope, ...] = ()
    expires_at: datetime | None = None
    requests: Rate | None = None
    tokens: Rate | None = None
    budgets: tuple[Budget, ...] = ()
    grace_until: datetime | None = Field(default=None, description="rotated: when the secret before stops working")


class LiveKey(Record):
    """A key that may be used. `until_ms`: epoch ms at which the hash at the same place ends; None: it does not.

    `slot` is its place in the ledger and never another key's.
    """

    id: str
    slot: int
    scopes: tuple[Scope, ...]
    sha256: tuple[str, ...]
    until_ms: tuple[int | None, ...]
    requests: Rate | None = None
    tokens: Rate | None = None
    budgets: tuple[Budget, ...] = ()


class LiveKeys(Record):
    """The keys file, replaced as a whole."""

    keys: tuple[LiveKey, ...]


def rate(text: str) -> Rate:
    """`600/min`, `100k/min`, `5/s`. Raises ValueError."""
    match = re.fullmatch(r"([1-9]\d{0,9})([kM]?)/(s|min|h|day)", text)
    if match is None:
        raise ValueError("is not a rate")
    count, seconds = int(match[1]) * _MANY[match[2]], _SECONDS[match[3]]
    if count > seconds * 10_000_000:
        raise ValueError("is more than ten million a second")
    return Rate(count=count, seconds=seconds)


def budget(text: str) -> Budget:
    """`50 USD/day`, `0.5 USD/hour`, `1000 USD/month`. Raises ValueError."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) USD/(hour|day|month)", text)
    if match is None:
        raise ValueError("is not a budget")
    return Budget.model_validate({"nano_usd": int(Decimal(match[1]) * 1_000_000_000), "per": match[2]})


def lifetime(text: str) -> timedelta:
    """`90d`, `12h`, `30min`. Raises ValueError."""
    match = re.fullmatch(r"(\d{1,5})(s|min|h|d)", text)
    if match is None:
        raise ValueError("is not a length of time")
    return timedelta(seconds=int(match[1]) * _SECONDS[match[2]])
