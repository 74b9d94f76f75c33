"""The guards of a version, ready to look: definitions in, and for a text what may go on, what was found, what stops it.

A definition is plain (`Guard`, as `records.guards` writes it into the routes file); `checks` makes of a set those that
look at one direction of one path and route. `judge` runs them over a text. Nothing here waits, logs or counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import msgspec

from trimtab.responsible import pii
from trimtab.responsible.guards import answer_format, injection, people, profanity, secrets
from trimtab.responsible.guards.folding import fold
from trimtab.responsible.guards.holding import Cut
from trimtab.responsible.guards.linear import Linear

Direction = Literal["input", "output"]
Action = Literal["allow", "redact", "block", "flag", "shadow"]
BLOCK = 8192
"""Characters that are looked at between two looks at the clock."""


class Guard(msgspec.Struct, frozen=True):
    """One guard as the routes file has it; mirrors `records.guards.Guard`, which explains it."""

    name: str
    kind: str
    direction: str = "both"
    action: Action = "shadow"
    at: dict[str, Action] = {}
    on_error: Literal["open", "closed"] = "open"
    time_limit_ms: float = 50.0
    params: dict[str, Any] = {}


class GuardSet(msgspec.Struct, frozen=True):
    """A version's guards; mirrors `records.guards.GuardSet`. `sha256` is the content's hash, stamped on rows."""

    checks: list[Guard] = []
    keep: Literal["raw", "redacted"] = "redacted"
    refusal: str | None = None
    sha256: str = ""


class Found(NamedTuple):
    """What a guard found: a kind, and where in the folded text; start == end: the text as a whole."""

    kind: str
    start: int
    end: int


class Event(NamedTuple):
    """One guard's word on one text. `found` are kinds in order, joined by commas; `times` how many there were."""

    name: str
    direction: Direction
    action: str
    found: str
    times: int
    seconds: float


Look = Callable[[str], Sequence[Any]]
"""From a folded text to what was found there: (kind, start, end)."""


class Check(NamedTuple):
    """A guard that looks, with the action that is meant for this place."""

    guard: Guard
    action: Action
    look: Look
    cut: Cut
    slow: bool


@dataclass(slots=True)
class Judged:
    """A text after its guards: `text` may go on, `kept` is what may be stored, `blocked` the event that stops it."""

    text: str
    kept: str
    events: list[Event] = field(default_factory=list[Event])
    blocked: Event | None = None
    failed: str | None = None
    """A guard that could not decide and is to fail closed."""


class _TooLate(Exception):
    """A guard took longer than it may."""


_CUTS: dict[str, Cut] = {
    **dict.fromkeys(("pii", "secrets", "profanity"), "words"),
    **dict.fromkeys(("injection", "topics", "names"), "sentences"),
    **dict.fromkeys(("format", "length"), "whole"),
}
SPANS = frozenset({"pii", "secrets", "profanity", "names"})
"""Kinds of guards that know where; only they can redact."""


def checks(guards: GuardSet, direction: Direction, path: str, route: str) -> list[Check]:
    """The guards that look in this direction here. `at` may name the path or the route, the path first."""
    found: list[Check] = []
    for guard in guards.checks:
        if guard.direction in (direction, "both"):
            action = guard.at.get(path) or guard.at.get(route) or guard.action
            if action != "allow":
                found.append(Check(guard, action, _look(guard), _CUTS[guard.kind], guard.kind == "names"))
    return found


def judge(found: Sequence[Check], direction: Direction, text: str, before: str = "") -> Judged:
    """Look at a text with these guards. `before` is what stood before it, for guards that read whole sentences."""
    folded = fold(text)
    judged = Judged(text, text)
    out: list[tuple[int, int, str]] = []
    kept: list[tuple[int, int, str]] = []
    for check in found:
        begun = time.perf_counter()
        try:
            pieces = _looked(check, folded.text, before)
        except Exception as error:
            seconds = time.perf_counter() - begun
            reason = "time_limit" if isinstance(error, _TooLate) else type(error).__name__
            judged.events.append(Event(check.guard.name, direction, "error", reason, 1, seconds))
            if check.guard.on_error == "closed" and check.action != "shadow":
                judged.failed = judged.failed or check.guard.name
            continue
        seconds = time.perf_counter() - begun
        if not pieces:
            judged.events.append(Event(check.guard.name, direction, "", "", 0, seconds))
            continue
        kinds = ",".join(dict.fromkeys(piece.kind for piece in pieces))
        event = Event(check.guard.name, direction, check.action, kinds, len(pieces), seconds)
        judged.events.append(event)
        spans = [(*folded.span(p.start, p.end), p.kind) for p in pieces if p.end > p.start]
        if check.action == "redact":
            out += spans
        if check.action in ("redact", "block"):
            kept += spans
        if check.action == "block":
            judged.blocked = judged.blocked or event
    if out:
        judged.text = masked(text, out)
    if kept:
        judged.kept = masked(text, kept)
    return judged


def pieces(check: Check, text: str) -> list[tuple[str, str]]:
    """What a check finds in a text, as it is written there, with its kind."""
    folded = fold(text)
    spans = [(*folded.span(piece.start, piece.end), piece.kind) for piece in check.look(folded.text)]
    return [(text[start:end], kind) for start, end, kind in spans if end - start > 2]


def masked(text: str, spans: list[tuple[int, int, str]]) -> str:
    """A text with stretches replaced by their kind in brackets; of overlapping ones the first, and the longer, stands
    for all."""
    pieces: list[str] = []
    at = 0
    for start, end, kind in sorted(spans, key=lambda span: (span[0], -span[1])):
        if start >= at:
            pieces += [text[at:start], f"[{kind}]"]
        at = max(at, end)
    return "".join([*pieces, text[at:]])


def _looked(check: Check, text: str, before: str) -> Sequence[Any]:
    if check.cut != "words":
        return check.look(before + text if check.guard.kind == "injection" else text)
    if len(text) <= BLOCK or check.guard.kind == "secrets":  # a private key is longer than blocks overlap
        return check.look(text)
    return _in_blocks(check, text)


def _in_blocks(check: Check, text: str) -> list[Found]:
    """A long text in overlapping blocks, with a look at the clock between them. Raises _TooLate."""
    until = time.perf_counter() + check.guard.time_limit_ms / 1000
    found: list[Found] = []
    start, overlap = 0, BLOCK // 4
    while start < len(text):
        if time.perf_counter() > until:
            raise _TooLate
        edge = start + BLOCK if start + BLOCK < len(text) else len(text)
        for piece in check.look(text[start:edge]):
            place = Found(piece.kind, piece.start + start, piece.end + start)
            if (not found or place.start >= found[-1].end) and (place.end < edge or edge == len(text)):
                found.append(place)
        if edge == len(text):
            break
        start = edge - overlap
    return found


# One way to look for each kind of guard


def _look(guard: Guard) -> Look:
    return _LOOKS[guard.kind](guard.params)


def _pii(params: dict[str, Any]) -> Look:
    kinds = frozenset(params.get("find") or pii.PERSONAL)
    return lambda text: pii.find(text, kinds)


def _secrets(params: dict[str, Any]) -> Look:
    kinds = frozenset(params.get("find") or secrets.KINDS)
    return lambda text: secrets.find(text, kinds)


def _profanity(params: dict[str, Any]) -> Look:
    more, allowed = frozenset(params.get("words", ())), frozenset(params.get("allow_words", ()))
    return lambda text: profanity.find(text, more, allowed)


def _injection(params: dict[str, Any]) -> Look:
    model, beyond = bool(params.get("model", True)), float(params.get("threshold", 0.0))

    def look(text: str) -> list[Found]:
        seen = injection.look(text, model, beyond)
        return [Found(seen.kind, 0, 0)] if seen else []

    return look


def _topics(params: dict[str, Any]) -> Look:
    model, threshold = Linear(params["weights"], params["bias"]), float(params["threshold"])
    return lambda text: [Found("off_topic", 0, 0)] if model.score(text) < threshold else []


def _format(params: dict[str, Any]) -> Look:
    def look(text: str) -> list[Found]:
        wrong = answer_format.problem(text, params.get("schema"))
        return [Found(wrong, 0, 0)] if wrong else []

    return look


def _length(params: dict[str, Any]) -> Look:
    most = int(params["max_chars"])
    return lambda text: [Found("too_long", 0, 0)] if len(text) > most else []


def _names(params: dict[str, Any]) -> Look:
    kinds = tuple(params.get("find") or ("person",))
    return lambda text: people.find(text, kinds)


_LOOKS: dict[str, Callable[[dict[str, Any]], Look]] = {
    "pii": _pii,
    "secrets": _secrets,
    "injection": _injection,
    "profanity": _profanity,
    "topics": _topics,
    "format": _format,
    "length": _length,
    "names": _names,
}
KINDS = tuple(_LOOKS)
