"""Personal data with a form is found where it stands; numbers that merely look alike are left alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.responsible import pii


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("email", "ann.lee+help@mail.example.co.uk"),
        ("card", "4111 1111 1111 1111"),
        ("card", "378282246310005"),
        ("iban", "GB29 NWBK 6016 1331 9268 19"),
        ("iban", "DE89370400440532013000"),
        ("phone", "+44 20 7946 0958"),
        ("phone", "+41 (0)96 471 07 95"),
        ("phone", "(555) 010-4477"),
        ("phone", "905-674-3793"),
        ("phone", "07700 900123"),
        ("phone", "07700900123"),
    ],
)
def test_each_kind_is_found_inside_a_sentence(kind: str, value: str) -> None:
    text = f"Hello, it is {value}, please answer."
    (found,) = pii.find(text)
    assert (found.kind, text[found.start : found.end]) == (kind, value)


@pytest.mark.parametrize(
    "text",
    [
        "Order 4471 0092 113 of 2026-11-22 at 10:30 has not come",
        "bought on 22.11.2026 for £1 250 and 18,500 rupees",
        "tracking 1234567890, ticket 4111111111111112, router at 192.168.10.200",
        "my account 12345678 was charged twice in 2024-2025, see page 3 of 12",
        "write to me @home, not at work",
    ],
)
def test_orders_dates_amounts_and_addresses_are_not_personal(text: str) -> None:
    assert pii.find(text) == []


def test_a_bare_run_of_digits_is_a_phone_number_only_when_announced_as_one() -> None:
    assert [found.kind for found in pii.find("call me on 9498777106 tonight")] == ["phone"]
    assert pii.find("it says 9498777106 on the box") == []


@given(st.lists(st.integers(0, 9), min_size=11, max_size=17), st.integers(1, 9))
def test_one_wrong_digit_makes_a_card_number_something_else(digits: list[int], shift: int) -> None:
    doubled = [d if i % 2 else sum(divmod(2 * d, 10)) for i, d in enumerate(reversed(digits))]
    check = -sum(doubled) % 10
    right, wrong = ("".join(map(str, [*digits, d])) for d in (check, (check + shift) % 10))
    assert "card" in {found.kind for found in pii.find(f"number {right}")}
    assert "card" not in {found.kind for found in pii.find(f"number {wrong}")}


@given(st.text())
def test_any_text_can_be_searched_and_pieces_never_overlap(text: str) -> None:
    found = pii.find(text)
    assert all(one.end <= two.start for one, two in pairwise(found))
    assert all(0 <= piece.start < piece.end <= len(text) for piece in found)
