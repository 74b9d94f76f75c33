"""Server-sent events on their way from engine to client: passed through as bytes, read only where it matters.

The boundary: bytes in, bytes out. Held back: the part of an event that has not come whole, `[DONE]` (it leaves after
the row is closed) and the usage chunk (the gateway asks for it, the client may not have).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec

DONE = b"data: [DONE]\n\n"


class EngineFailed(Exception):
    """The engine reported an error in the stream."""


class Usage(msgspec.Struct):
    """Tokens as the engine counted them. Cached and cache-write ones are part of the prompt, reasoning of the rest."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta = msgspec.field(default_factory=_Delta)


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode


class Relay:
    """One answer's events; `done` once `[DONE]` came."""

    def __init__(self, include_usage: bool) -> None:
        self._include_usage = include_usage
        self._rest = b""
        self.usage = Usage()
        self.done = False

    def feed(self, data: bytes) -> bytes:
        """Take what came; returns what the client may have now.

        Raises EngineFailed when an event is an error, msgspec.DecodeError when it is not what it says it is.
        """
        data = self._rest + data
        cut = data.rfind(b"\n\n") + 2
        if cut == 1:
            self._rest = data
            return b""
        whole, self._rest = data[:cut], data[cut:]
        if b'"usage"' not in whole and b"[DONE]" not in whole and b'"error"' not in whole:
            return whole
        return b"".join(event + b"\n\n" for event in whole.split(b"\n\n")[:-1] if self._passes(event))

    def _passes(self, event: bytes) -> bool:
        payload = event.removeprefix(b"data:").strip()
        if payload == b"[DONE]":
            self.done = True
            return False
        if not payload.startswith(b"{"):
            return True
        read = _decode(payload)
        if read.error is not None:
            raise EngineFailed(str(read.error))
        if read.usage is None:
            return True
        self.usage = read.usage
        return self._include_usage or bool(read.choices)


def text_of(sent: bytes) -> tuple[str, int]:
    """The first choice's text in events that were sent, and how many events carried a piece of it."""
    pieces = []
    for event in sent.split(b"\n\n"):
        payload = event.removeprefix(b"data:").strip()
        if not payload.startswith(b"{"):
            continue
        with suppress(msgspec.DecodeError):
            pieces += [c.delta.content for c in _decode(payload).choices if c.index == 0 and c.delta.content]
    return "".join(pieces), len(pieces)
