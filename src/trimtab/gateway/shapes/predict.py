"""`POST /predict`: one text in, one answer out.

The boundary: `{"input": text}` becomes a conversation of one message; the answer is `{"output", "request_id",
"version"}`, its output an object when the answer's text is one. With `stream: true`: events `{"delta": text}`, then
that same object, then `[DONE]`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from trimtab.gateway import shapes
from trimtab.gateway.routes import Entity
from trimtab.gateway.shapes import Asked, Completion, Sampling
from trimtab.gateway.shapes.chat import user
from trimtab.gateway.stream import DONE, Chunk, Relay, Retold, Usage, flat


class Predict(Sampling, kw_only=True):
    """The request."""

    input: str
    stream: bool | None = None


_PREDICT = msgspec.json.Decoder(Predict)


def asked(body: bytes) -> Asked:
    """One text. Raises Fault 400."""
    read = shapes.read(body, _PREDICT)
    return Asked([[user(read.input)]], read.chosen(), _render, read, read.input, bool(read.stream), _tell)


def _tell(request_id: str, entity: Entity) -> Relay:
    return Retold(_Told(request_id, entity))


def _render(answers: list[Completion], request_id: str, entity: Entity) -> bytes:
    return _answer(answers[0].text(), request_id, entity)


def _answer(text: str, request_id: str, entity: Entity) -> bytes:
    output: Any = text
    try:
        parsed = msgspec.json.decode(text)
        if isinstance(parsed, dict):
            output = parsed
    except (msgspec.DecodeError, RecursionError):
        pass  # free text
    return shapes.encode({"output": output, "request_id": request_id, "version": entity.version})


class _Told:
    """The answer in events."""

    def __init__(self, request_id: str, entity: Entity) -> None:
        self._request_id, self._entity = request_id, entity
        self._texts: list[str] = []

    def chunk(self, chunk: Chunk) -> bytes:
        text = "".join(flat(choice.delta.content) for choice in chunk.choices if choice.index == 0)
        if not text and self._texts:
            return b""
        self._texts.append(text)  # the first piece tells that the answer has begun, even if it is empty
        return b"data: %b\n\n" % shapes.encode({"delta": text})

    def end(self, usage: Usage) -> bytes:
        return b"data: %b\n\n" % _answer("".join(self._texts), self._request_id, self._entity) + DONE

    def failure(self, error: bytes) -> bytes:
        return b"data: %b\n\n" % error
