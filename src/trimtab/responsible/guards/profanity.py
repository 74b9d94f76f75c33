"""Swear words and slurs, found word by word. Pure; the list is ours (profanity.json) and an identity is never on it.

Words are compared whole, in lower case, with digits and signs read as the letters they stand for ("sh1t", "a$$") and
stretched letters pulled together ("fuuuck"). A text of ordinary words costs one look at a set for each of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import NamedTuple

_WORD = re.compile(r"[^\W_][\w@$!*]*[\w@$*]|[@$][\w@$!*]+")
_SIGNS = re.compile(r"[013457@$!*](?:(?<=[a-z].)[013457@$!*]*[a-z]|(?<=[@$])[a-z]|(?<=[$*])[$*])")
_STRETCHED = tuple(letter * 3 for letter in "aeioushkt")
_TRIPLE = re.compile(r"([a-z])\1\1")
_SPACELESS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
"""Letters of Chinese and Japanese, whose words stand inside a text."""
_LETTERS = str.maketrans("013457@$!", "oieastasi")
_APART = str.maketrans(dict.fromkeys(".,;:!?()[]{}<>\"'/\\|-_+=#%&`~\n\r\t", " "))


class Found(NamedTuple):
    """One word: text[start:end]; `kind` is the language of its list."""

    kind: str
    start: int
    end: int


@cache
def _lists() -> tuple[dict[str, str], frozenset[str], dict[str, str]]:
    """Words by their language, the words alone, and those of a script without spaces, found inside a text."""
    data = json.loads(Path(__file__).with_name("profanity.json").read_text(encoding="utf-8"))
    words = {word: language for language, listed in data["words"].items() for word in listed}
    return words, frozenset(words), {word: language for language, listed in data["inside"].items() for word in listed}


def find(text: str, more: Collection[str] = (), allowed: Collection[str] = ()) -> list[Found]:
    """Profane words of a text, by position. `more` are words of the user's own, `allowed` are let pass; both in lower
    case."""
    words, known, inside = _lists()
    lower = text.lower()
    tokens = set(lower.translate(_APART).split())
    if not tokens.isdisjoint(known) or not tokens.isdisjoint(more) or _disguised(lower):
        found = [
            Found(kind, match.start(), match.end())
            for match in _WORD.finditer(lower)
            if (kind := _kind(match[0], words, more)) and match[0] not in allowed
        ]
    else:
        found = []
    if not lower.isascii():
        for word, language in {**inside, **{word: "own" for word in more if _SPACELESS.search(word)}}.items():
            if word in lower and word not in allowed:
                found += [Found(language, m.start(), m.end()) for m in re.finditer(re.escape(word), lower)]
    return found


def _disguised(lower: str) -> bool:
    """Whether a word may be written with signs for letters, or stretched."""
    for letters in _STRETCHED:
        if letters in lower:
            return True
    return _SIGNS.search(lower) is not None


def _kind(word: str, words: dict[str, str], more: Collection[str]) -> str | None:
    if word in words:
        return words[word]
    if word in more:
        return "own"
    if word.isalpha() and not _TRIPLE.search(word):
        return None
    plain = word.translate(_LETTERS)
    if "*" in plain:
        form = re.compile(re.escape(plain).replace(r"\*", "[a-z]"))
        return next((words[known] for known in words if len(known) == len(plain) and form.fullmatch(known)), None)
    pulled = re.sub(r"([a-z])\1+", r"\1", plain)
    return words.get(plain) or next(
        (words[known] for known in (pulled, re.sub(r"([a-z])\1{2,}", r"\1\1", plain)) if known in words), None
    )
