"""How long a server asks to be left alone: RFC 9110 section 10.2.3, seconds or an HTTP date. Values in, values out."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

LONGEST = 3600.0
"""Seconds; who asks for more is taken at this."""

RETRYABLE = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
"""Statuses after which the same request may succeed (those that OpenAI's own clients retry)."""


def seconds_of(value: str | None) -> float | None:
    """Seconds to wait from now, at most LONGEST; None when there is no such header or it says nothing."""
    if not value:
        return None
    text = value.strip()
    try:
        return min(max(0.0, float(text)), LONGEST) if text[:1].isdigit() else _until(text)
    except (ValueError, TypeError, OverflowError):
        return None


def _until(date: str) -> float:
    return min(max(0.0, parsedate_to_datetime(date).timestamp() - time.time()), LONGEST)
