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
MOST_KNOWN = 1024
"""Heads that are known of all connections together."""
MOST_MISSES = 16
"""Whose heads differ from message to message is not remembered any more."""
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)\r\n", re.IGNORECASE)
_NOT_PLAIN = (b"expect:", b"upgrade:", b"transfer-encoding:")


class Known:
    """Heads that were answered well, whichever connection they came on: new connections send the same ones again.

    Two clients at different addresses are never taken for each other, since what is known of a head may depend on it.
    """

    def __init__(self) -> None:
        self._heads: dict[tuple[str, bytes], tuple[Head, bytes]] = {}

    def keep(self, peer: str, before: bytes, head: Head, after: bytes) -> None:
        """Remember a head, and forget the oldest where there are too many."""
        heads = self._heads
        if (peer, before) not in heads and len(heads) >= MOST_KNOWN:
            del heads[next(iter(heads))]
        heads[peer, before] = head, after

    def find(self, peer: str, data: bytes) -> tuple[bytes, Head, bytes] | None:
        """The head that `data` may begin with: what stands before the digits of its length, and behind."""
        length = _LENGTH.search(data, 0, LONGEST)
        before = data[: length.start(1)] if length else b""
        found = self._heads.get((peer, before))
        return None if found is None else (before, *found)


class Remembered:
    """One connection's last good head."""

    __slots__ = ("_after", "_before", "_digits", "_misses", "_skip", "head")

    def __init__(self) -> None:
        self.head: Head | None = None
        self._before = self._after = b""
        self._digits = self._misses = self._skip = 0

    @property
    def around(self) -> tuple[bytes, bytes]:
        """What stands before and behind the digits of Content-Length."""
        return self._before, self._after

    def take(self, before: bytes, head: Head, after: bytes) -> None:
        """Remember a head that another connection has learned."""
        self.head, self._before, self._after = head, before, after
        self._digits, self._skip = len(before), len(after)

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
