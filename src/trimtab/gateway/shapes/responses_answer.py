"""Open Responses: a chat completion, plain or in pieces, told as a response object or as its named events.

The boundary: pieces in, a response or events out. A plain answer is one piece, so that both say the same. Items stay
open until the end: an engine may go on with an earlier one at any time. Protocol: openresponses.org/specification.
"""

from __future__ import annotations

from typing import Any

import msgspec

from trimtab.gateway.routes import Entity
from trimtab.gateway.stream import DONE, Chunk, ChunkChoice, Usage, event, flat

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_PARTS = {"text": ("output_text", "text"), "refusal": ("refusal", "refusal"), "thought": ("reasoning_text", "text")}
"""For each kind of item that has a part: the part's type, which is also its events' name, and the part's field."""


class _Item:
    """One item of the output while it grows: a message, a refusal, a thought or a function call."""

    def __init__(self, place: int, kind: str, ident: str, call: str, name: str) -> None:
        self.place, self.kind, self.ident, self.call, self.name = place, kind, ident, call, name
        self.texts: list[str] = []
        self.logprobs: list[Any] = []

    def part(self, empty: bool = False) -> dict[str, Any]:
        type_, field = _PARTS[self.kind]
        part: dict[str, Any] = {"type": type_, field: "" if empty else "".join(self.texts)}
        if self.kind == "text":
            part |= {"annotations": [], "logprobs": [] if empty else self.logprobs}
        return part

    def value(self, status: str) -> dict[str, Any]:
        begun = status == "in_progress"
        if self.kind == "call":
            arguments = "" if begun else "".join(self.texts)
            made = {"call_id": self.call, "name": self.name, "arguments": arguments}
            return {"type": "function_call", "id": self.ident, "status": status, **made}
        content = [] if begun else [self.part()]
        if self.kind == "thought":
            return {"type": "reasoning", "id": self.ident, "status": status, "summary": [], "content": content}
        return {"type": "message", "id": self.ident, "status": status, "role": "assistant", "content": content}


class Answering:
    """One response while its answer comes in; `echoed` is what it repeats of the request."""

    def __init__(self, echoed: dict[str, Any], request_id: str, entity: Entity) -> None:
        self._echoed, self._request_id, self._entity = echoed, request_id, entity
        self.items: dict[str, _Item] = {}
        self.created: float = 0
        self._finish: str | None = None

    def take(self, chunk: Chunk) -> list[tuple[_Item, bool, str, list[Any]]]:
        """Add a piece; returns what grew: the item, whether it is new, the text and its log-probabilities.

        A response is one answer, so only the first choice is told.
        """
        self.created = self.created or chunk.created
        grown = []
        for choice in chunk.choices:
            if choice.index == 0:
                self._finish = choice.finish_reason or self._finish
                grown += [self._grow(*piece) for piece in _pieces(choice)]
        return grown

    def _grow(self, key: str, kind: str, text: str, logprobs: list[Any], call: str, name: str) -> Any:
        new = key not in self.items
        if new:
            prefix = {"call": "fc", "thought": "rs"}.get(kind, "msg")
            place = len(self.items)
            self.items[key] = _Item(place, kind, f"{prefix}_{self._request_id}_{place}", call, name)
        item = self.items[key]
        item.texts.append(text)
        item.logprobs += logprobs
        return item, new, text, logprobs

    def status(self) -> str:
        """How the answer ended."""
        return "incomplete" if self._finish in _INCOMPLETE else "completed"

    def response(self, usage: Usage | None, status: str | None = None, error: Any = None) -> dict[str, Any]:
        """The response object as it stands. `usage` is None before the end, and when the engine did not count."""
        status = status or self.status()
        reason = _INCOMPLETE.get(self._finish or "") if status == "incomplete" else None
        output = [] if status == "in_progress" else [item.value(_ended(status)) for item in self.items.values()]
        return {
            "id": f"resp_{self._request_id}",
            "object": "response",
            "created_at": int(self.created),
            "completed_at": None,
            "status": status,
            "incomplete_details": {"reason": reason} if reason else None,
            "error": error,
            "model": self._entity.model,
            "output": output,
            "usage": None if usage is None or usage.prompt_tokens is None else _usage(usage),
            **self._echoed,
        }


def _pieces(choice: ChunkChoice) -> list[tuple[str, str, str, list[Any], str, str]]:
    """What a chunk adds, by item: the item's key and kind, the text, log-probabilities, and a call's id and name."""
    delta, pieces = choice.delta, []
    logprobs = (choice.logprobs or {}).get("content") or []
    if thought := delta.thought():
        pieces.append(("thought", "thought", thought, [], "", ""))
    if text := flat(delta.content):
        pieces.append(("text", "text", text, logprobs, "", ""))
    if delta.refusal:
        pieces.append(("refusal", "refusal", delta.refusal, [], "", ""))
    for place, call in enumerate(delta.tool_calls or ()):
        key = f"call {place if call.index is None else call.index}"
        function = call.function
        pieces.append((key, "call", function.arguments or "", [], call.id or "", function.name or ""))
    return pieces


def _ended(status: str) -> str:
    return "completed" if status == "completed" else "incomplete"


def _usage(usage: Usage) -> dict[str, Any]:
    prompt, said = usage.prompt_tokens or 0, usage.completion_tokens or 0
    cache = {"cached_tokens": usage.cached_tokens or 0, "cache_write_tokens": usage.cache_write_tokens or 0}
    return {
        "input_tokens": prompt,
        "input_tokens_details": cache,
        "output_tokens": said,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": prompt + said,
    }


class Told:
    """A response as its events, numbered from 0; `[DONE]` ends them."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._number = 0

    def chunk(self, chunk: Chunk) -> bytes:
        """The events for a piece."""
        grown = self._answering.take(chunk)
        told = [] if self._number else self._opening()
        for item, new, text, logprobs in grown:
            told += self._added(item) if new else ()
            if text:
                more = {"logprobs": logprobs} if item.kind == "text" else {}
                told.append(self._growth(item, "delta", {"delta": text} | more))
        return b"".join(told)

    def end(self, usage: Usage) -> bytes:
        """Every item's end, then the response's."""
        told = [] if self._number else self._opening()
        status = self._answering.status()
        for item in self._answering.items.values():
            told += self._done(item, _ended(status))
        told.append(self._event(f"response.{status}", response=self._answering.response(usage)))
        return b"".join(told) + DONE

    def failure(self, error: bytes) -> bytes:
        """The response as far as it came, failed."""
        said = msgspec.json.decode(error)["error"]
        why = {"code": said["code"], "message": said["message"]}
        # The specification has these fields in the event, OpenAI sends them in an object: clients look for either.
        told = self._event("error", code=said["code"], message=said["message"], param=said["param"], error=said)
        return told + self._event("response.failed", response=self._answering.response(None, "failed", why))

    def _opening(self) -> list[bytes]:
        begun = self._answering.response(None, "in_progress")
        return [self._event("response.created", response=begun), self._event("response.in_progress", response=begun)]

    def _added(self, item: _Item) -> list[bytes]:
        told = [self._event("response.output_item.added", output_index=item.place, item=item.value("in_progress"))]
        if item.kind != "call":
            where = {"item_id": item.ident, "output_index": item.place, "content_index": 0}
            told.append(self._event("response.content_part.added", **where, part=item.part(empty=True)))
        return told

    def _growth(self, item: _Item, what: str, more: dict[str, Any]) -> bytes:
        where: dict[str, Any] = {"item_id": item.ident, "output_index": item.place}
        if item.kind == "call":
            return self._event(f"response.function_call_arguments.{what}", **where, **more)
        return self._event(f"response.{_PARTS[item.kind][0]}.{what}", **where, content_index=0, **more)

    def _done(self, item: _Item, status: str) -> list[bytes]:
        text = "".join(item.texts)
        told = []
        if item.kind == "call":
            told.append(self._growth(item, "done", {"name": item.name, "arguments": text}))
        else:
            more = {"logprobs": item.logprobs} if item.kind == "text" else {}
            told.append(self._growth(item, "done", {_PARTS[item.kind][1]: text} | more))
            where = {"item_id": item.ident, "output_index": item.place, "content_index": 0}
            told.append(self._event("response.content_part.done", **where, part=item.part()))
        told.append(self._event("response.output_item.done", output_index=item.place, item=item.value(status)))
        return told

    def _event(self, name: str, /, **fields: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return event(name, {"type": name, "sequence_number": number, **fields})
