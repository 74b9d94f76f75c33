"""Option rotation: a prompt lists labels in one order, and a model may like a place in that list. So it is asked under
several orders, and the answers vote.

The orders are cyclic shifts of the sorted labels, spread evenly: with three of them each label stands once in each
third of the list, and three is the least that can outvote one order. They begin at the sorted labels, so that the same
questions are asked however the file lists them: no answer can depend on that. Pure, and light.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

ROTATIONS = 3
"""Questions for one; as many as there are labels where those are fewer."""

T = TypeVar("T")
Fields = Mapping[str, Sequence[str]]
"""The values that each field of an answer may take."""
_BETWEEN = re.compile(r"(?:[\s,;:/|、，；：。.\"'`“”‘’「」*()（）\[\]{}<>•–—-]|\bor\b|\band\b|或者?|和|\d+[.)])+")
_LINE = re.compile(r"[ \t]*(?:[*•–—-][ \t]+|\d+[.)][ \t]*)?")
_LETTER = r"[^\W\u2e80-\uffff]"
"""Of a script that sets spaces between words."""
_DRESS = re.compile(r"[\"'`“「*(（\[<_]*")


def rotated(options: Sequence[T], shift: int) -> tuple[T, ...]:
    """A cyclic order of the options."""
    return (*options[shift:], *options[:shift])


def orders(system: str, fields: Fields, rotate: Sequence[str]) -> list[tuple[str, dict[str, tuple[str, ...]]]]:
    """The prompts that are asked, each with the values of its fields in the same order. `rotate`: which fields."""
    count = min(ROTATIONS, max(len(fields[name]) for name in rotate))
    found: list[tuple[str, dict[str, tuple[str, ...]]]] = []
    for number in range(count):
        text, values = system, {name: tuple(told) for name, told in fields.items()}
        for name in rotate:
            values[name] = _order(sorted(fields[name]), number, count)
            text = _reordered(text, fields[name], number, count)
        found.append((text, values))
    return found


def lists(text: str, values: Sequence[str]) -> bool:
    """Whether a text lists more than half of some values, and two at least: in a row, or one a line with what is said
    of it."""
    return next(_lists(text, values), None) is not None


def _order(options: Sequence[T], number: int, count: int) -> tuple[T, ...]:
    return rotated(options, number * len(options) // count)


def _reordered(text: str, values: Sequence[str], number: int, count: int) -> str:
    """The text with each of its lists in another order; what stands between the values stays where it is."""
    for places in list(_lists(text, values)):  # an order moves nothing outside its list
        said = _order([text[a:b] for a, b in sorted(places, key=lambda at: text[at[0] : at[1]])], number, count)
        pieces, end = list[str](), places[0][0]
        for (start, stop), piece in zip(places, said, strict=True):
            pieces += [text[end:start], piece]
            end = stop
        text = text[: places[0][0]] + "".join(pieces) + text[end:]
    return text


def _lists(text: str, values: Sequence[str]) -> Iterator[list[tuple[int, int]]]:
    """Where the values of each list stand; those of a list of lines are the lines, without their bullets."""
    any_ = "|".join(map(_word, sorted(values, key=len, reverse=True)))
    found = [(match[0], match.span()) for match in re.finditer(any_, text)]
    lines = [(word, line) for word, (start, _) in found if (line := _line(text, start))]
    taken: list[list[tuple[int, int]]] = []
    for run in sorted([*_runs(text, found, values), *_runs(text, lines, values)], key=len, reverse=True):
        if all(run[-1][1] <= other[0][0] or other[-1][1] <= run[0][0] for other in taken):
            taken.append(run)
    yield from taken


def _runs(
    text: str, found: Sequence[tuple[str, tuple[int, int]]], values: Sequence[str]
) -> list[list[tuple[int, int]]]:
    runs: list[dict[str, tuple[int, int]]] = []
    end = -1
    for word, (start, stop) in found:
        if not runs or word in runs[-1] or not _BETWEEN.fullmatch(text, end, start):
            runs.append({})
        runs[-1][word] = (start, stop)
        end = stop
    return [list(run.values()) for run in runs if len(run) > max(1, len(values) // 2)]


def _word(value: str) -> str:
    """A value where it stands alone; one in a script that sets no spaces has no edges."""
    before = rf"(?<!{_LETTER})(?<!-)" if re.match(_LETTER, value) else ""
    return f"{before}{re.escape(value)}" + (rf"(?!{_LETTER}|-)" if re.match(_LETTER, value[-1]) else "")


def _line(text: str, at: int) -> tuple[int, int] | None:
    """The line that a value at a place begins, without its bullet; None when something else does."""
    bullet = _LINE.match(text, text.rfind("\n", 0, at) + 1)
    assert bullet is not None  # noqa: S101 (it may be empty)
    end = text.find("\n", at)
    return (bullet.end(), len(text) if end < 0 else end) if _DRESS.fullmatch(text, bullet.end(), at) else None
