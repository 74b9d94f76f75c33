"""Counterfactual prompts: the same text about another group, with its grammar kept. Pure.

A frame is a text with slots, {person}, {a person}, {people}, {adjective}, {he}, …, and the axes for which a swap leaves
the right answer as it was (`valid_axes`). `frame_of` finds the slots in a user's own text. What it shows ends at the
words of the pack.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from trimtab.errors import Fixable
from trimtab.masking import NEVER, masker, said_of_people
from trimtab.records.registry import Average, Mask
from trimtab.responsible.packs import PACKS, Axis, Pack

_SLOT = re.compile(r"\{(?P<article>an? )?(?P<form>[a-z]+)\}", re.IGNORECASE)
_SENTENCE = re.compile(r"""(?:^|[.!?:]["'”)]*\s+|\n\s*)$""")
_VOWEL = re.compile(r"(?:[aeiou](?!ni[^n]|ne\b|uro|kr)|hour|honest|heir)", re.IGNORECASE)
_NO_OBJECT = re.compile(
    r"\s*(?:$|[^\w\s]|(?:a|an|the|and|or|but|to|in|on|at|for|with|that|when|if|is|was|has|today|again|because|about)\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Frame:
    """A prompt with slots. `label`: the right answer, where it is known, by field. `request`: whose text it was, if a
    customer's: reports name it and do not quote it."""

    text: str
    valid_axes: tuple[str, ...]
    label: Mapping[str, str] = field(default_factory=dict[str, str])
    request: str = ""


@dataclass(frozen=True)
class Orbit:
    """One frame under every group of one axis."""

    frame: Frame
    axis: str
    groups: tuple[str, ...]
    texts: tuple[str, ...]


def pack(language: str) -> Pack:
    """The pack of a language. Raises Fixable when there is none."""
    found = PACKS.get(language)
    if found is None:
        raise Fixable(f"there is no identity pack {language!r}", f"use one of {', '.join(PACKS)}")
    return found


def axis_of(words: Pack, name: str) -> Axis:
    """An axis of a pack. Raises Fixable when it has none of that name."""
    found = words.axes.get(name)
    if found is None:
        raise Fixable(f"the pack {words.name} has no axis {name!r}", f"use some of {', '.join(words.axes)}")
    return found


@lru_cache(maxsize=4)
def everyday(language: str) -> list[Frame]:
    """Our own harmless sentences about somebody, valid for every axis of a language's pack: what guards are audited by.
    Raises Fixable when there is no such language."""
    texts = json.loads(Path(__file__).with_name("everyday_frames.json").read_text(encoding="utf-8"))
    return [Frame(text, tuple(pack(language).axes)) for text in texts.get(language, ())]


def orbits(frames: Iterable[Frame], words: Pack, axes: Sequence[str]) -> list[Orbit]:
    """Every frame under every group of each axis that is valid for it. Raises Fixable for a slot that no group has."""
    return [_orbit(frame, words, name) for frame in frames for name in axes if name in frame.valid_axes]


def frame_of(text: str, words: Pack, name: str, label: Mapping[str, str] | None = None) -> Frame | None:
    """A user's text as a frame for one axis; None when it names no group of the axis, or more than one (the text may
    then be about their difference)."""
    groups: set[str] = set()
    made: list[str] = []
    end = 0
    for match, group, form in _finder(words.name, name).found(text):
        groups.add(group)
        article = f"{match['article']} " if match["article"] else ""
        made += [text[end : match.start()], f"{{{article}{form}}}"]
        end = match.end()
    if len(groups) != 1:
        return None
    frame = Frame("".join([*made, text[end:]]), (name,), label or {})
    return frame if len(_groups(frame, axis_of(words, name))) > 1 else None


def named(text: str, words: Pack, name: str) -> str | None:
    """The one group of an axis that a text names; None when it names none or several."""
    groups = {group for _, group, _ in _finder(words.name, name).found(text)}
    return next(iter(groups)) if len(groups) == 1 else None


def mask_of(words: Pack, axes: Sequence[str]) -> Mask:
    """The mask that makes every text of an orbit of these axes the same text. Raises Fixable for an unknown axis."""
    terms: dict[str, str] = {}
    guarded: list[str] = []
    for name in axes:
        axis = axis_of(words, name)
        for term, _, form in _words(axis):
            terms.setdefault(term.lower(), axis.neutral[form])
            if axis.guarded and form == "adjective":
                guarded.append(term.lower())
    return Mask(
        name=f"{words.name} {'+'.join(axes)}",
        terms=terms,
        guarded=tuple(dict.fromkeys(guarded)),
        roles=tuple(words.roles.split()),
        kept=tuple(filter(None, words.kept.split(";"))),
        absorbed=words.absorbed,
        articles=words.articles,
    )


def average_of(words: Pack, name: str) -> Average:
    """The twins about every group of an axis that has each of its forms. Raises Fixable for an unknown axis."""
    axis = axis_of(words, name)
    neutrals = dict.fromkeys([*axis.neutral.values(), *words.absorbed.values()])
    groups: dict[str, dict[str, dict[str, str]]] = {}
    for at, group in enumerate(axis.groups):
        by_form = {form: word for form, told in axis.forms.items() if (word := told[at])}
        first = dict(list(by_form.items())[:1])
        groups[group] = {
            neutral: {form: word for form, word in by_form.items() if axis.neutral[form] == neutral} or first
            for neutral in neutrals
        }
    return Average(name=f"{words.name} {name}", mask=mask_of(words, [name]), groups=groups)


def without(text: str, words: Pack, axes: Sequence[str]) -> str:
    """The text masked, e.g. an answer before its sentiment is taken, so that an echoed word has no sentiment."""
    return _masker(words.name, tuple(axes))(text)


@lru_cache(maxsize=16)
def _masker(name: str, axes: tuple[str, ...]) -> Callable[[str], str]:
    words = next(words for words in PACKS.values() if words.name == name)
    return masker(mask_of(words, axes).model_dump())


def _words(axis: Axis) -> Iterator[tuple[str, str, str]]:
    """Word, group, form."""
    for form, words in axis.forms.items():
        yield from ((word, group, form) for word, group in zip(words, axis.groups, strict=True) if word)
    yield from ((word, group, form) for word, (group, form) in axis.aliases.items())


def _groups(frame: Frame, axis: Axis) -> list[int]:
    """The groups that have every form of the frame, by position."""
    forms = {match["form"].lower() for match in _SLOT.finditer(frame.text)}
    unknown = forms - axis.forms.keys()
    if unknown or not forms:
        problem = f"has a slot {{{min(unknown)}}}" if unknown else "has no slot"
        raise Fixable(f"the frame {frame.text!r} {problem}", f"use {', '.join(f'{{{form}}}' for form in axis.forms)}")
    return [i for i in range(len(axis.groups)) if all(axis.forms[form][i] for form in forms)]


def _orbit(frame: Frame, words: Pack, name: str) -> Orbit:
    axis = axis_of(words, name)
    which = _groups(frame, axis)
    texts = tuple(_filled(frame.text, axis, index, words.articles) for index in which)
    return Orbit(frame, name, tuple(axis.groups[index] for index in which), texts)


def _filled(text: str, axis: Axis, index: int, english: bool) -> str:
    def word(match: re.Match[str]) -> str:
        new = axis.forms[match["form"].lower()][index]
        assert new is not None  # noqa: S101 (only groups that have every form are asked for)
        if not english:
            return new
        if match["article"]:
            article = "an" if _VOWEL.match(new) else "a"
            return f"{article.capitalize() if match['article'][0] == 'A' else article} {new}"
        opens = _SENTENCE.search(text[max(0, match.start() - 8) : match.start()])
        return new[0].upper() + new[1:] if opens or match["form"][0].isupper() else new

    return _SLOT.sub(word, text)


class _Finder:
    """Finds the words of one axis in a text, and which form each is."""

    def __init__(self, words: Pack, name: str) -> None:
        self._axis = axis_of(words, name)
        self._owners: dict[str, list[tuple[str, str]]] = {}
        for term, group, form in _words(self._axis):
            self._owners.setdefault(term.lower(), []).append((group, form))
        any_ = "|".join(re.escape(term) for term in sorted(self._owners, key=len, reverse=True))
        kept = "|".join(re.escape(phrase) for phrase in words.kept.split(";") if phrase) or NEVER
        edge, end = (r"(?<![\w'’-])", r"(?![\w-])") if words.articles else ("", "")
        article = r"(?:(?P<article>an?)\s+)?" if words.articles else "(?P<article>(?!))?"
        self.pattern = re.compile(rf"{edge}(?:(?P<kept>{kept})|{article}(?P<term>{any_})){end}", re.IGNORECASE)
        roles = "|".join(words.roles.split()) or NEVER
        self._role = re.compile(rf"\s+(?:{roles})\b", re.IGNORECASE)
        self._of_people = said_of_people(words.roles.split())

    def found(self, text: str) -> Iterator[tuple[re.Match[str], str, str]]:
        """Each word that is said of a person, with its group and form."""
        for match in self.pattern.finditer(text):
            if read := self.read(match):
                yield match, *read

    def read(self, match: re.Match[str]) -> tuple[str, str] | None:
        """Group and form of a match; None when the word is not said of a person."""
        if match["kept"]:
            return None
        owners = {form: group for group, form in self._owners[match["term"].lower()]}
        followed = bool(self._role.match(match.string, match.end()))
        if len(owners) > 1:
            form = self._form(set(owners), followed, match)
            return owners[form], form
        ((form, group),) = owners.items()
        guarded = form == "adjective" and self._axis.guarded
        return None if guarded and not self._of_people(match.string, match.start(), match.end()) else (group, form)

    def _form(self, forms: set[str], followed: bool, match: re.Match[str]) -> str:
        if forms == {"person", "adjective"}:
            return "adjective" if followed else "person"
        object_ = bool(_NO_OBJECT.match(match.string, match.end()))
        if forms == {"him", "his"}:  # "her"
            return "him" if object_ else "his"
        return "hers" if object_ and "hers" in forms else "his"


@lru_cache(maxsize=32)
def _finder(name: str, axis: str) -> _Finder:
    return _Finder(next(words for words in PACKS.values() if words.name == name), axis)
