"""A version's guards at work: on a question before its row is opened, on an answer before the caller has it.

The boundary: what is found and what that means is in `responsible.guards`; here it is applied to requests and answers,
counted, and kept for the row. A version without guards never comes here. Blocked questions get an error 400 with the
code content_filter, as Azure OpenAI's do (learn.microsoft.com, "Content filtering"), or the version's refusal; blocked
answers end with the finish reason content_filter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, Protocol

import msgspec

from trimtab.gateway import shapes
from trimtab.gateway.meter import Meter
from trimtab.gateway.routes import Entity
from trimtab.gateway.shapes import Asked, Completion, Fault
from trimtab.gateway.stream import Usage
from trimtab.responsible.guards import guard_set
from trimtab.responsible.guards.guard_set import Check, Direction, Event, GuardSet, Judged
from trimtab.store.journal import GuardEvent, Opened

CODE = "content_filter"
MOST_SETS = 256
"""Sets of checks kept ready, one for each set of guards, path and route."""
_UNTRUSTED = ("user", "tool", "function")
"""Whose messages may try to take over the model."""
_decode = msgspec.json.decode
_Change = Callable[[str], Awaitable[str]]


class Row(Protocol):
    """What is looked at of `answer.Row`."""

    asked: Asked
    opened: Opened
    entity: Entity
    route: Any
    text: str | None
    usage: Usage
    guarded: Watch | None


@dataclass(slots=True)
class Watch:
    """One request under its version's guards: who looks, and what was found so far."""

    guards: GuardSet
    meter: Meter
    inputs: list[Check]
    outputs: list[Check]
    found: dict[tuple[str, Direction, str], tuple[dict[str, None], int]] = field(default_factory=dict)
    blocked: Event | None = None
    """What stopped the question."""
    fault: Fault | None = None
    """Why the question cannot go on: a guard that fails closed could not decide."""
    cut: Event | None = None
    """What stopped the answer."""
    names: list[tuple[str, str]] = field(default_factory=list)

    def note(self, judged: Judged) -> None:
        """Count what guards said of one text. Raises Fault when one could not decide and is to fail closed."""
        for event in judged.events:
            self.meter.guarded(event.name, event.direction, event.action, event.seconds)
            if event.action:
                key: tuple[str, Direction, str] = (event.name, event.direction, event.action)
                kinds, count = self.found.setdefault(key, ({}, 0))
                kinds |= dict.fromkeys(event.found.split(","))
                self.found[key] = (kinds, count + event.times)
        if judged.failed:
            raise Fault(503, "guard_unavailable", f"the guard {judged.failed} could not decide, and nothing passes it")

    @property
    def stopped(self) -> bool:
        """Whether the question may not go on."""
        return self.blocked is not None or self.fault is not None

    def events(self) -> tuple[GuardEvent, ...]:
        """What the row says."""
        told = self.found.items()
        return tuple(GuardEvent(*key, ",".join(kinds), count) for key, (kinds, count) in told)

    def headers(self) -> bytes:
        """What the caller is told; nothing of guards in the shadow."""
        told = dict.fromkeys((name, action) for name, _, action in self.found if action not in ("shadow", "error"))
        said = ", ".join(f"{name}={action}" for name, action in told)
        return b"x-trimtab-guards: %b\r\n" % said.encode() if said else b""


_ready: dict[tuple[str, str, str], tuple[list[Check], list[Check]]] = {}


def watch(meter: Meter, entity: Entity, path: str, route: str) -> Watch | None:
    """The watch over a request to a version, None when nothing looks. Made once for each set, path and route."""
    guards = entity.guards
    if guards is None:
        return None
    key = (guards.sha256, path, route)
    both = _ready.get(key)
    if both is None:
        if len(_ready) >= MOST_SETS:
            _ready.clear()
        both = guard_set.checks(guards, "input", path, route), guard_set.checks(guards, "output", path, route)
        _ready[key] = both
        for check in (*both[0], *both[1]):
            if check.slow:  # its language model loads for seconds: begin before the first text waits for it
                _threads().submit(check.look, "")
    return Watch(guards, meter, *both)


# The question


async def question(meter: Meter, row: Row) -> None:
    """Look at a question before its row is opened: what may not go on is taken out of it, and of what is kept."""
    looked = watch(meter, row.entity, row.opened.path, row.route)
    row.guarded = looked
    if looked is None or not looked.inputs:
        return
    asked = row.asked
    reading, fields = _Reading(looked), asked.fields
    try:
        conversations = [await reading.conversation(messages) for messages in asked.conversations]
        if asked.operation == "embeddings" and fields and "input" in fields:
            fields = fields | {"input": await reading.value(fields["input"])}
        reading.length()
    except Fault as fault:
        looked.fault = fault
        if looked.guards.keep == "redacted":  # nobody knows what is in it
            row.opened = msgspec.structs.replace(row.opened, request=shapes.encode({"withheld": fault.message}))
            asked.input = None
        return
    if not reading.changed:
        return
    row.asked = msgspec.structs.replace(asked, conversations=conversations, fields=fields)
    if looked.guards.keep == "redacted":
        row.opened = msgspec.structs.replace(row.opened, request=reading.kept(row.opened.request))
        row.asked.input = None if asked.input is None else reading.kept_text(asked.input)


async def again(meter: Meter, row: Row) -> None:
    """The request goes to another version than it was looked at for: that one's guards look too. Raises Fault."""
    before = row.guarded
    if before is not None and row.entity.guards is not None and before.guards.sha256 == row.entity.guards.sha256:
        fresh = watch(meter, row.entity, row.opened.path, row.route)
        if fresh is not None:  # the route may change what is meant
            before.inputs, before.outputs = fresh.inputs, fresh.outputs
        return
    await question(meter, row)
    if before is not None:
        if row.guarded is None:
            row.guarded = Watch(before.guards, meter, [], [])
        row.guarded.found = before.found | row.guarded.found
    if row.guarded is not None and row.guarded.stopped:
        raise refused(row.guarded)


def refused(looked: Watch) -> Fault:
    """The error for a question that may not go on."""
    event = looked.blocked
    if looked.fault is not None or event is None:
        return looked.fault or Fault(503, "guard_unavailable", "a guard could not decide")
    return Fault(400, CODE, f"the guard {event.name} stopped the request ({event.found}); change it and send it again")


def refusal(looked: Watch, row: Row) -> bytes | None:
    """The version's refusal as the body, or the events, of an answer; None when it has none. `row.text` is it too."""
    asked, told = row.asked, looked.guards.refusal
    if told is None or looked.fault is not None or asked.operation == "embeddings":
        return None
    row.text = told
    choice = {"index": 0, "message": {"role": "assistant", "content": told}, "finish_reason": CODE, "logprobs": None}
    head = {"id": row.opened.request_id, "created": row.opened.at_ms // 1000, "model": row.entity.model}
    if not asked.stream:
        usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        body = head | {"object": "chat.completion", "choices": [choice], "usage": usage}
        answer = shapes.completion(shapes.encode(body))
        return asked.render([answer] * len(asked.conversations), row.opened.request_id, row.entity)
    choice["delta"] = choice.pop("message")
    chunk = shapes.encode(head | {"object": "chat.completion.chunk", "choices": [choice]})
    relay = asked.tell(row.opened.request_id, row.entity)
    return relay.feed(b"data: %b\n\ndata: [DONE]\n\n" % chunk) + relay.last()


def outcome(looked: Watch | None) -> Literal["ok", "blocked"]:
    """How an answer that came whole has ended."""
    return "ok" if looked is None or looked.cut is None else "blocked"


class _Reading:
    """One question being read."""

    def __init__(self, looked: Watch) -> None:
        self._looked = looked
        per_text = [check for check in looked.inputs if check.guard.kind not in ("injection", "topics", "length")]
        attacks = [check for check in looked.inputs if check.guard.kind == "injection"]
        self._plain, self._untrusted = per_text, [*per_text, *attacks]
        self._last = [*self._untrusted, *(check for check in looked.inputs if check.guard.kind == "topics")]
        acting = [check for check in per_text if check.action in ("redact", "block") and not check.slow]
        unhurried = [msgspec.structs.replace(check.guard, time_limit_ms=60_000.0) for check in acting]
        self._spans = [check._replace(guard=guard) for check, guard in zip(acting, unhurried, strict=True)]
        self._size = 0
        self._checks: list[Check] = []
        self.changed = False

    async def conversation(self, messages: list[Any]) -> list[Any]:
        """A conversation's messages, changed where something was taken out."""
        read = [_decode(m) if isinstance(m, msgspec.Raw) else m for m in messages]
        roles = [message.get("role") for message in read]
        last = len(roles) - 1 - roles[::-1].index("user") if "user" in roles else -1
        told: list[Any] = []
        for place, (message, given) in enumerate(zip(read, messages, strict=True)):
            self._checks = (
                self._last if place == last else self._untrusted if roles[place] in _UNTRUSTED else self._plain
            )
            changed = await each_text(message, self._change)
            told.append(given if changed is message else changed)
        return told

    async def value(self, given: Any) -> Any:
        """A value whose texts are all the user's."""
        self._checks = self._last
        read = _decode(given) if isinstance(given, msgspec.Raw) else given
        if isinstance(read, str):
            return await self._change(read)
        return [await self._change(one) if isinstance(one, str) else one for one in read]

    def length(self) -> None:
        """The whole request against its limit, all texts together."""
        limits = [check for check in self._looked.inputs if check.guard.kind == "length"]
        if limits:
            judged = guard_set.judge(limits, "input", "x" * self._size)
            self._looked.note(judged)
            self._looked.blocked = self._looked.blocked or judged.blocked

    def kept(self, body: bytes) -> bytes:
        """A request's body as rows may hold it: every text in it read again."""
        return shapes.encode(_mapped(_decode(body), self.kept_text))

    def kept_text(self, text: str) -> str:
        """A text as rows may hold it."""
        kept = guard_set.judge(self._spans, "input", text).kept
        for name, kind in self._looked.names:
            kept = kept.replace(name, f"[{kind}]")
        return kept

    async def _change(self, text: str) -> str:
        self._size += len(text)
        judged = await judged_text(self._looked, self._checks, "input", text)
        self._looked.blocked = self._looked.blocked or judged.blocked
        self.changed = self.changed or judged.kept != text
        return judged.text


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    if isinstance(value, dict):
        return {name: _mapped(item, change) for name, item in value.items()}
    return value


# The answer


async def answers(row: Row, looked: Watch, given: list[Completion]) -> list[Completion]:
    """Look at plain answers; returns what the caller may have. `row.text` is what the row may hold of it."""
    if not looked.outputs:
        return given
    told = [await _answer(looked, one) for one in given]
    if looked.guards.keep == "redacted":
        row.text = row.asked.output_text(told)
    return told


async def _answer(looked: Watch, given: Completion) -> Completion:
    if not given.choices:
        return given
    read = _decode(given.raw)
    changed = False
    for choice in read["choices"]:
        cut: list[Event] = []

        async def change(text: str, cut: list[Event] = cut) -> str:
            judged = await judged_text(looked, looked.outputs, "output", text)
            cut += [judged.blocked] if judged.blocked else []
            return judged.text

        message = await each_text(choice["message"], change)
        if cut:
            looked.cut = cut[0]
            message = {"role": "assistant", "content": looked.guards.refusal or ""}
            choice["finish_reason"] = CODE
        if message is not choice["message"]:
            choice["message"], choice["logprobs"], changed = message, None, True
    return shapes.completion(shapes.encode(read)) if changed else given


# Texts


async def judged_text(looked: Watch, checks: list[Check], direction: Direction, text: str, before: str = "") -> Judged:
    """Judge one text; guards that take long do so in a thread. Everything is counted. Raises Fault (fail closed)."""
    slow = [check for check in checks if check.slow]
    judged = guard_set.judge([c for c in checks if not c.slow] if slow else checks, direction, text, before)
    looked.note(judged)
    for check in slow:
        if judged.blocked is None:
            await _judged_slowly(looked, check, direction, judged)
    return judged


async def _judged_slowly(looked: Watch, check: Check, direction: Direction, judged: Judged) -> None:
    seconds = check.guard.time_limit_ms / 1000
    job = asyncio.get_running_loop().run_in_executor(_threads(), guard_set.judge, [check], direction, judged.text)
    try:
        async with asyncio.timeout(seconds):
            more = await job
    except TimeoutError:
        event = Event(check.guard.name, direction, "error", "time_limit", 1, seconds)
        closed = check.guard.on_error == "closed" and check.action != "shadow"
        more = Judged(judged.text, judged.text, [event], None, check.guard.name if closed else None)
    looked.note(more)
    if more.kept != judged.text:
        looked.names += guard_set.pieces(check, judged.text)
    untouched = judged.kept == judged.text
    judged.text, judged.blocked = more.text, more.blocked
    judged.kept = more.kept if untouched else judged.kept


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2, "trimtab-guard")


async def each_text(message: dict[str, Any], change: _Change) -> dict[str, Any]:
    """A message with every text in it changed: content, thoughts, refusal, arguments of calls. The same object when
    nothing was."""
    told = dict(message)
    for name in ("content", "reasoning_content", "reasoning", "refusal"):
        value = message.get(name)
        if isinstance(value, str) and value:
            told[name] = await change(value)
        elif isinstance(value, list):
            told[name] = [await _part(part, change) for part in value]
    calls = message.get("tool_calls")
    if calls:
        told["tool_calls"] = [await _call(call, change) for call in calls]
    if isinstance(message.get("function_call"), dict):
        told["function_call"] = (await _call({"function": message["function_call"]}, change))["function"]
    return message if told == message else told


async def _part(part: Any, change: _Change) -> Any:
    if not isinstance(part, dict):
        return part
    if isinstance(part.get("text"), str):
        return part | {"text": await change(part["text"])}
    if isinstance(part.get("summary"), list):  # a thinking model's, at Databricks
        return part | {"summary": [await _part(one, change) for one in part["summary"]]}
    return part


async def _call(call: dict[str, Any], change: _Change) -> dict[str, Any]:
    function = call.get("function") or {}
    if not isinstance(function.get("arguments"), str):
        return call
    return call | {"function": function | {"arguments": await change(function["arguments"])}}
