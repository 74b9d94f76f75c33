"""A streamed answer under guards: the engine's events in, events that may go on out, still in the engine's shape.

Each text of the answer (of each choice: content, thought, refusal, each call's arguments) is held back until a piece of
it can be judged by itself (`responsible.guards.holding`): how far depends on the guards that redact or block. Guards in
the shadow, or that only flag, look at sentences that have passed. A guard that blocks ends the stream: the last piece
before it, the finish reason content_filter, `[DONE]`; the engine is not read any further.
"""

from __future__ import annotations

from typing import Any

import msgspec

from trimtab.gateway import guarding
from trimtab.gateway.guarding import CODE, Row, Watch
from trimtab.gateway.shapes import encode
from trimtab.responsible.guards.guard_set import Check
from trimtab.responsible.guards.holding import Cut, Held

BEFORE = 240
"""Characters of what was judged already that guards of whole sentences read again."""
_ORDER: tuple[Cut, ...] = ("words", "sentences", "whole")
_FIELDS = ("content", "reasoning_content", "reasoning", "refusal")
_decode = msgspec.json.decode


class _Blocked(Exception):
    """A guard stopped the answer; `text` is what may still go."""

    def __init__(self, text: str) -> None:
        self.text = text


class _Channel:
    """One text of an answer on its way."""

    def __init__(self, looked: Watch) -> None:
        checks = [check for check in looked.outputs if check.guard.kind not in ("format", "length")]
        self._looked = looked
        self._acting = [check for check in checks if check.action in ("redact", "block")]
        self._watching = [check for check in checks if check.action not in ("redact", "block")]
        self._whole = [check for check in looked.outputs if check.guard.kind == "format"]
        self._limits = [check for check in looked.outputs if check.guard.kind == "length"]
        cut = _cut([*self._acting, *(check for check in self._whole if check.action == "block")])
        self._held = Held(cut) if cut else None
        self._passed = Held("sentences") if self._watching else None
        self._all: list[str] = []
        self._size, self._before, self._seen = 0, "", ""

    async def add(self, text: str) -> str:
        """Take a bit; returns what may go on. Raises _Blocked."""
        self._all.append(text)
        self._size += len(text)
        for check in list(self._limits):
            most = int(check.guard.params["max_chars"])
            if self._size > most:
                self._limits.remove(check)
                await self._judge([check], "x" * self._size, text[: max(0, len(text) - (self._size - most))])
        if self._passed is not None and (ready := self._passed.add(text)):
            await self._watch(ready)
        return text if self._held is None else await self._release(self._held.add(text))

    async def rest(self) -> str:
        """The text has ended: what is left of it. Raises _Blocked."""
        if self._passed is not None and (ready := self._passed.rest()):
            await self._watch(ready)
        if self._whole:
            await self._judge(self._whole, "".join(self._all), "")
            self._whole = []
        return "" if self._held is None else await self._release(self._held.rest())

    @property
    def raw(self) -> str:
        """The text as the engine said it."""
        return "".join(self._all)

    async def _release(self, ready: str) -> str:
        if not ready or not self._acting:
            return ready
        before, self._before = self._before, (self._before + ready)[-BEFORE:]
        judged = await guarding.judged_text(self._looked, self._acting, "output", ready, before)
        if judged.blocked is not None:
            self._looked.cut = judged.blocked
            raise _Blocked("")
        return judged.text

    async def _watch(self, ready: str) -> None:
        before, self._seen = self._seen, (self._seen + ready)[-BEFORE:]
        await guarding.judged_text(self._looked, self._watching, "output", ready, before)

    async def _judge(self, checks: list[Check], text: str, left: str) -> None:
        judged = await guarding.judged_text(self._looked, checks, "output", text)
        if judged.blocked is not None:
            self._looked.cut = judged.blocked
            raise _Blocked(left if self._held is None else "")


def _cut(acting: list[Check]) -> Cut | None:
    """How a text must be held back for these guards: as the most demanding one needs it."""
    cuts = [check.cut for check in acting]
    return next((cut for cut in reversed(_ORDER) if cut in cuts), None)


class GuardedStream:
    """One streamed answer. `ended`: a guard stopped it, and nothing more is to be read."""

    def __init__(self, looked: Watch) -> None:
        self._looked = looked
        self._rest = b""
        self._channels: dict[tuple[Any, ...], _Channel] = {}
        self._head: dict[str, Any] = {}
        self._told = False
        self.ended = False
        self.pieces = 0
        """Pieces that the engine sent, held back ones included."""

    def tell(self, row: Row) -> None:
        """What the row says of the stream: an engine that was cut off has not counted its tokens, so pieces count."""
        channel = self._channels.get((0, "content"))
        if self._looked.guards.keep == "raw" and channel is not None:
            row.text = channel.raw
        if row.usage.completion_tokens is None:
            row.usage = msgspec.structs.replace(row.usage, completion_tokens=self.pieces)

    async def feed(self, data: bytes) -> bytes:
        """Take what came from the engine; returns the events that may go on. Raises Fault (fail closed)."""
        data = self._rest + (data.replace(b"\r", b"") if b"\r" in data else data)
        *whole, self._rest = data.split(b"\n\n")
        told: list[bytes] = []
        for event in whole:
            if self.ended:
                break
            told.append(await self._event(event))
        return b"".join(told)

    async def _event(self, event: bytes) -> bytes:
        payload = event.removeprefix(b"data:").strip()
        if payload == b"[DONE]":
            return await self._last() + event + b"\n\n"
        if not payload.startswith(b"{"):
            return event + b"\n\n"
        try:
            read = _decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return event + b"\n\n"  # for the relay to refuse
        if not read.get("choices"):
            return event + b"\n\n"
        self._head = {name: value for name, value in read.items() if name not in ("choices", "usage")}
        kept = []
        for choice in read["choices"]:
            self.pieces += 1
            index = choice.get("index", 0)
            try:
                carried, left = await self._delta(index, choice)
            except _Blocked as blocked:
                return self._stopped(index, blocked.text)
            if left or not carried or choice.get("finish_reason") or "role" in choice["delta"]:
                kept.append(choice)
        if not kept and not read.get("usage"):
            return b""
        return b"data: %b\n\n" % encode(read | {"choices": kept})

    async def _delta(self, index: int, choice: dict[str, Any]) -> tuple[bool, bool]:
        """Put what may go on into a choice's delta. Returns whether it carried text, and whether any is left in it."""
        delta = choice.get("delta") or {}
        carried: list[bool] = []

        async def change(key: tuple[Any, ...], text: str) -> str:
            ready = await self._channel(key).add(text)
            carried.append(bool(ready))
            return ready

        for name in _FIELDS:
            if isinstance(delta.get(name), str | list):
                delta[name] = (await guarding.each_text({name: delta[name]}, lambda t, n=name: change((index, n), t)))[
                    name
                ]
        for call in delta.get("tool_calls") or ():
            function = call.get("function") or {}
            if function.get("arguments"):
                key = (index, "call", call.get("index", 0))
                function["arguments"] = await change(key, function["arguments"])
                carried[-1] = carried[-1] or bool(function.get("name"))
        if choice.get("finish_reason"):
            await self._flush(index, delta)
        if any(carried):
            self._told = True
        choice["delta"] = delta
        if "logprobs" in choice:
            choice["logprobs"] = None  # they would spell what is held back
        return bool(carried), any(carried)

    async def _flush(self, index: int, delta: dict[str, Any]) -> None:
        """The choice has ended: what is left of its texts goes into its last delta."""
        for key, channel in self._channels.items():
            if key[0] != index or not (left := await channel.rest()):
                continue
            if key[1] == "call":
                calls = delta.setdefault("tool_calls", [])
                calls.append({"index": key[2], "function": {"arguments": left}})
            else:
                before = delta.get(key[1])
                delta[key[1]] = (before if isinstance(before, str) else "") + left

    async def _last(self) -> bytes:
        """What is left when the engine ended without a finish reason."""
        told = b""
        for index in dict.fromkeys(key[0] for key in self._channels):
            delta: dict[str, Any] = {}
            try:
                await self._flush(index, delta)
            except _Blocked as blocked:
                return told + self._stopped(index, blocked.text).removesuffix(b"data: [DONE]\n\n")
            if delta:
                told += self._chunk([{"index": index, "delta": delta, "finish_reason": None}])
        return told

    def _stopped(self, index: int, text: str) -> bytes:
        """The end of a stream that a guard stopped."""
        self.ended = True
        text = text or ("" if self._told else self._looked.guards.refusal or "")
        indices = dict.fromkeys([index, *(key[0] for key in self._channels)])
        choices = [
            {"index": one, "delta": {"content": text} if text and one == index else {}, "finish_reason": CODE}
            for one in indices
        ]
        return self._chunk(choices) + b"data: [DONE]\n\n"

    def _chunk(self, choices: list[dict[str, Any]]) -> bytes:
        return b"data: %b\n\n" % encode(self._head | {"choices": choices})

    def _channel(self, key: tuple[Any, ...]) -> _Channel:
        found = self._channels.get(key)
        if found is None:
            found = self._channels[key] = _Channel(self._looked)
        return found
