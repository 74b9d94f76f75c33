"""Money is exact: integers from the token to the sum, whatever the shape of the answer."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.gateway.stream import Usage, total
from trimtab.providers import prices
from trimtab.providers.prices import Price, cost, listed, price
from trimtab.records.project import ModelSection

COUNT = st.one_of(st.none(), st.integers(0, 10**7))
PRICE = st.builds(Price, *[st.integers(0, 10**6)] * 4)
USAGE = st.builds(Usage, *[COUNT] * 5)
WHOLE = st.builds(
    lambda cached, written, fresh, output: Usage(cached + written + fresh, output, cached, written, 0),
    *[st.integers(0, 10**7)] * 4,
)
"""Counts that do not contradict each other."""


@given(WHOLE, WHOLE, PRICE)
def test_answers_cost_together_what_they_cost_one_by_one(one: Usage, other: Usage, at: Price) -> None:
    assert cost(total([one, other]), at) == cost(one, at) + cost(other, at)


@given(USAGE, PRICE, st.sampled_from(["prompt_tokens", "completion_tokens"]), st.integers(0, 1000))
def test_more_tokens_never_cost_less_and_nothing_costs_less_than_nothing(
    usage: Usage, at: Price, which: str, more: int
) -> None:
    grown = msgspec.structs.replace(usage, **{which: (getattr(usage, which) or 0) + more})
    assert 0 <= cost(usage, at) <= cost(grown, at)


@given(WHOLE, PRICE, st.integers(0, 10**7))
def test_reasoning_tokens_are_output_and_not_billed_twice(usage: Usage, at: Price, reasoning: int) -> None:
    assert cost(msgspec.structs.replace(usage, reasoning_tokens=reasoning), at) == cost(usage, at)


@pytest.mark.parametrize("negative", ["prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens"])
def test_counts_that_contradict_cannot_make_money(negative: str) -> None:
    usage = Usage(10, 10, 99, 99)
    assert cost(usage, Price(3, 1, 2, 5)) == 10 * 1 + 10 * 5
    assert cost(msgspec.structs.replace(usage, **{negative: -1000}), Price(3, 1, 2, 5)) >= 0


def test_an_answer_by_hand() -> None:
    """1000 prompt tokens, of which 600 from the cache and 100 written to it, and 50 of answer, at 2/0.2/2.5/12 USD."""
    at = price(Decimal("2"), Decimal("12"), Decimal("0.2"), Decimal("2.5"))
    assert cost(Usage(1000, 50, 600, 100, 20), at) == 300 * 2000 + 600 * 200 + 100 * 2500 + 50 * 12000


@given(st.decimals(0, 1000, places=3))
def test_a_price_survives_the_file_to_the_last_digit(usd: Decimal) -> None:
    model = ModelSection.model_validate_json(
        f'{{"base": "gguf:m", "prompt": "p", "price": {{"input": {usd}, "output": 0}}}}'
    )
    assert prices.of("gguf:m", model) == Price(*[int(usd * 1000)] * 3, 0)
    assert prices.of("gguf:another", model) is None


def test_the_table_names_a_source_and_a_day_for_every_price() -> None:
    rows = msgspec.json.decode(Path(prices.__file__).with_name("prices.json").read_bytes())["prices"]
    assert len({(row["provider"], row["model"]) for row in rows}) == len(rows)
    for row in rows:
        assert row["source"].startswith("https://")
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", row["date"])
        found = listed(f"{row['provider']}:{row['model']}")
        assert found is not None
        assert 0 < found.cached_input < found.input <= found.cache_write < found.output
    assert listed("openai:gpt-5.4-mini-2026-03-17") == listed("openai:gpt-5.4-mini")
    assert listed("openai:unheard-of") is listed("gguf:gpt-5.4") is None
