"""Retry-After in both of its forms; nonsense says nothing and no server keeps us away for ever."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.providers.retry_after import LONGEST, seconds_of


@given(st.none() | st.text(max_size=40))
def test_any_header_is_a_bounded_wait_or_none(value: str | None) -> None:
    seconds = seconds_of(value)
    assert seconds is None or 0 <= seconds <= LONGEST


@pytest.mark.parametrize(("value", "seconds"), [("0", 0), ("7", 7), (" 1.5 ", 1.5), ("99999999", LONGEST)])
def test_seconds(value: str, seconds: float) -> None:
    assert seconds_of(value) == seconds


def test_a_date_is_the_time_until_then() -> None:
    assert seconds_of(formatdate(time.time() + 1000, usegmt=True)) == pytest.approx(1000, abs=60)
    assert seconds_of("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert seconds_of("in a while") is None
