"""What tokens cost: prices as data with a source and a date (prices.json), and the sum in exact integers.

The boundary: pure values, light enough for the data plane. Money is an integer number of nano-USD (1e-9 USD) and a
price is nano-USD for one token, so 1.25 USD per million tokens is 1250: nothing is ever rounded.
"""

from __future__ import annotations

import re
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from trimtab.records.project import ModelSection

NANO = 1_000_000_000
"""Nano-USD in one USD."""
_DATA = Path(__file__).with_name("prices.json")


class Price(msgspec.Struct, frozen=True):
    """Nano-USD for one token of each kind. Reasoning tokens are part of the output and billed as it."""

    input: int
    cached_input: int
    cache_write: int
    output: int


class Counts(Protocol):
    """Tokens as a provider counts them: cached and cache-write ones are part of the prompt, reasoning of the output."""

    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    cache_write_tokens: int | None


def cost(counts: Counts, price: Price) -> int:
    """What an answer cost, in nano-USD. What was not counted costs nothing; counts that contradict are cut to fit."""
    prompt, said = max(0, counts.prompt_tokens or 0), max(0, counts.completion_tokens or 0)
    nano_usd = prompt * price.input + said * price.output
    if counts.cached_tokens or counts.cache_write_tokens:
        cached = min(prompt, max(0, counts.cached_tokens or 0))
        written = min(prompt - cached, max(0, counts.cache_write_tokens or 0))
        nano_usd += cached * (price.cached_input - price.input) + written * (price.cache_write - price.input)
    return nano_usd


def of(base: str, model: ModelSection) -> Price | None:
    """The price of a version's base: what trimtab.yaml says of it, else the list price, else None."""
    said = model.price
    if said is None or base != model.base:
        return listed(base)
    cached, written = (None if usd is None else _usd(usd) for usd in (said.cached_input, said.cache_write))
    return price(_usd(said.input), _usd(said.output), cached, written)


def price(
    usd_input: Decimal, usd_output: Decimal, usd_cached: Decimal | None = None, usd_write: Decimal | None = None
) -> Price:
    """A price from USD per million tokens. Without a price of their own, cached and written tokens cost as input.

    Raises ValueError for a price with more than three decimals: it would not be a whole number of nano-USD.
    """
    cached, written = (usd_input if usd is None else usd for usd in (usd_cached, usd_write))
    return Price(_nano(usd_input), _nano(cached), _nano(written), _nano(usd_output))


def listed(base: str) -> Price | None:
    """The list price of a base (`openai:gpt-5.4`, `openai:gpt-5.4-2026-03-05`), or None when the table has none."""
    scheme, _, model = base.partition(":")
    row = _table().get((scheme, re.sub(r"-\d{4}-\d{2}-\d{2}$", "", model)))
    return None if row is None else price(row.input, row.output, row.cached_input, row.cache_write)


class _Row(msgspec.Struct):
    provider: str
    model: str
    input: Decimal
    cached_input: Decimal | None
    cache_write: Decimal | None
    output: Decimal
    source: str
    date: str


class _Table(msgspec.Struct):
    about: str
    prices: list[_Row]


def _usd(value: float) -> Decimal:
    """A number as it was written: its shortest decimal form."""
    return Decimal(str(value))


def _nano(usd_per_million: Decimal) -> int:
    nano = usd_per_million * 1000
    if nano != int(nano) or nano < 0:
        raise ValueError(f"{usd_per_million} USD per million tokens: use at most three decimals, and no sign")
    return int(nano)


@cache
def _table() -> dict[tuple[str, str], _Row]:
    rows = msgspec.json.decode(_DATA.read_bytes(), type=_Table).prices
    return {(row.provider, row.model): row for row in rows}
