"""Who keeps a connection sends the same head again and again, client or engine: what the parser found is found again
by comparing bytes, at a tenth of the price.

The boundary: bytes in, a body out, or nothing: then the parser has to look. Only a head that the parser has accepted
is remembered, and only Content-Length's digits may differ from it, so a request is never understood in two ways.
"""

from __future__ import annotations

import re

from trimtab.gateway.exchange import Head

LONGEST = 4096
"""Bytes of a head that is worth remembering."""
MOST_MISSES = 16
"""Whose heads differ from message to message is not remembered any more."""
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)\r\n", re.IGNORECASE)
_NOT_PLAIN = (b"expect:", b"upgrade:", b"transfer-encoding:")


class Remembered:
    """One connection's last good head."""

    __slots__ = ("_after", "_before", "_digits", "_misses", "_skip", "head")

    def __init__(self) -> None:
        self.head: Head | None = None
        self._before = self._after = b""
        self._digits = self._misses = self._skip = 0

    def body_of(self, data: bytes, most: int) -> bytes | None:
        """The body of `data` if that is exactly one message with the same head, and of at most so many bytes."""
        at = self._digits
        stop = data.find(b"\r", at, at + 20)
        if not data.startswith(self._before) or not data.startswith(self._after, stop):
            return None
        digits, body = data[at:stop], data[stop + self._skip :]
        return body if digits.isdigit() and int(digits) == len(body) <= most else None

    def learn(self, data: bytes, head: Head, body: bytes) -> None:
        """Remember the head of a message that the parser has just understood, and that `data` was all of."""
        self._misses += 1
        if self._misses > MOST_MISSES:
            self.head = None
            return
        end = data.find(b"\r\n\r\n") + 4
        if not 4 <= end <= LONGEST or len(data) - end != len(body):
            self.head = None
            return
        length, lower = _LENGTH.search(data, 0, end), data[:end].lower()
        if length is None or not head.keep_alive or any(name in lower for name in _NOT_PLAIN):
            self.head = None
            return
        self.head, self._digits = head, length.start(1)
        self._before, self._after = data[: length.start(1)], data[length.end(1) : end]
        self._skip = len(self._after)
