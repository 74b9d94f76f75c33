"""Ids of requests: 128 random bits in hexadecimal, as W3C trace ids are.

Randomness is fetched from the kernel for many ids at once: a system call for each would cost more than the rest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

_AT_ONCE = 256


def _ids() -> Iterator[str]:
    while True:
        digits = os.urandom(16 * _AT_ONCE).hex()
        yield from [digits[start : start + 32] for start in range(0, len(digits), 32)]


def new() -> str:
    """Another id. Not for a process that forks: both would go on with the same ones."""
    return next(_SUPPLY)


_SUPPLY = _ids()
