"""A client that keeps its connection sends the same head again and again: what the parser found is found again by
comparing bytes, at a tenth of the price.

The boundary: bytes in, a body out, or nothing: then the parser has to look. Only a head that the parser has accepted
is remembered, and only Content-Length's digits may differ from it, so a request is never understood in two ways.
"""

from __future__ import annotations

import re

from trimtab.gateway.exchange import Head

LONGEST = 4096
"""Bytes of a head that is worth remembering."""
MOST_MISSES = 16
"""A client whose heads differ from request to request is not remembered any more."""
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)\r\n", re.IGNORECASE)
_NOT_PLAIN = (b"expect:", b"upgrade:", b"transfer-encoding:")


class Remembered:
    """One connection's last good head."""

    __slots__ = ("_after", "_before", "_digits", "_misses", "head")

    def __init__(self) -> None:
        self.head: Head | None = None
        self._before = self._after = b""
        self._digits = self._misses = 0

    def body_of(self, data: bytes, most: int) -> bytes | None:
        """The body of `data` if that is exactly one request with the same head, and of at most so many bytes."""
        at = self._digits
        if not data.startswith(self._before):
            return None
        stop = data.find(b"\r", at, at + 20)
        digits = data[at:stop]
        if not digits.isdigit() or not data.startswith(self._after, stop):
            return None
        size, body = int(digits), stop + len(self._after)
        return data[body:] if len(data) - body == size <= most else None

    def learn(self, data: bytes, head: Head, body: bytes) -> None:
        """Remember the head of a request that the parser has just understood, and that `data` was all of."""
        self._misses += 1
        end = data.find(b"\r\n\r\n") + 4
        if self._misses > MOST_MISSES or not 4 <= end <= LONGEST or len(data) - end != len(body):
            self.head = None
            return
        length, lower = _LENGTH.search(data, 0, end), data[:end].lower()
        if length is None or not head.keep_alive or any(name in lower for name in _NOT_PLAIN):
            self.head = None
            return
        self.head, self._digits = head, length.start(1)
        self._before, self._after = data[: length.start(1)], data[length.end(1) : end]
