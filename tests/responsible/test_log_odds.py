"""The score behind a classified answer is the log-odds of its favourable values, at the field's own place."""

from __future__ import annotations

from math import log

import pytest

from trimtab.responsible import log_odds
from trimtab.responsible.log_odds import Deciding

URGENT = Deciding("urgency", ("low", "high"), ("high",))


def likely(**shares: float) -> dict[bytes, float]:
    return {token.encode(): log(share) for token, share in shares.items()}


def sure(*tokens: str) -> list[tuple[bytes, dict[bytes, float]]]:
    return [(token.encode(), {token.encode(): 0.0}) for token in tokens]


def test_only_the_fields_own_place_counts_and_what_no_value_begins_with_does_not() -> None:
    tokens = [
        *sure('{"intent":"'),
        (b"high", likely(high=0.1, low=0.9)),  # a value of another field that looks alike
        *sure('","urgency":"'),
        (b"low", likely(low=0.5, high=0.1, medium=0.3, lower=0.1)),
        *sure('"}'),
    ]
    answer = '{"intent":"high","urgency":"low"}'
    assert log_odds.score(answer, tokens, URGENT) == pytest.approx(log(0.1 / 0.5))
    other = Deciding("urgency", ("low", "high"), ("low",))
    assert log_odds.score(answer, tokens, other) == pytest.approx(log(0.5 / 0.1))


def test_tokens_may_be_cut_anywhere_and_answers_written_in_any_spacing() -> None:
    tokens = [*sure('{"urgency"', ":"), (b' "h', {b' "h': log(0.6), b' "l': log(0.3), b" 1": log(0.1)}), *sure('igh"}')]
    assert log_odds.score('{"urgency": "high"}', tokens, URGENT) == pytest.approx(log(2))
    parts = "高".encode()
    tokens = [*sure('{"urgency":"'), (parts[:2], {parts[:2]: log(0.8), "低".encode(): log(0.2)})]
    tokens += [(parts[2:], {parts[2:]: 0.0}), *sure('"}')]
    assert log_odds.score('{"urgency":"高"}', tokens, Deciding("urgency", ("高", "低"), ("高",))) == pytest.approx(
        log(4)
    )


def test_values_that_begin_alike_are_told_apart_where_they_part() -> None:
    deciding = Deciding("urgency", ("high", "highest", "low"), ("highest",))
    parted = {b'"}': log(0.25), b"est": log(0.75)}
    tokens = [*sure('{"urgency":"'), (b"high", likely(high=0.8, low=0.2)), (b'"}', parted)]
    assert log_odds.score('{"urgency":"high"}', tokens, deciding) == pytest.approx(log(0.6 / (0.2 + 0.2)))


def test_a_side_that_is_not_among_the_likeliest_counts_as_the_last_of_them() -> None:
    tokens = [*sure('{"urgency":"'), (b"low", likely(low=0.9, medium=0.08, none=0.02)), *sure('"}')]
    assert log_odds.score('{"urgency":"low"}', tokens, URGENT) == pytest.approx(log(0.02 / 0.9))


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        ('{"urgency":"low"}', []),
        ('{"urgency":"low"}', sure('{"urgency":"high"}')),
        ('{"urgency":"none"}', sure('{"urgency":"none"}')),
        ('{"intent":"low"}', sure('{"intent":"low"}')),
        ("low", sure("low")),
    ],
)
def test_without_tokens_that_spell_a_value_of_the_field_there_is_no_score(answer: str, tokens: list) -> None:
    assert log_odds.score(answer, tokens, URGENT) is None
