"""A text that grows, cut into pieces that can be judged by themselves: what a guard would find in the whole, it finds
in the pieces. So a streamed answer may leave bit by bit, and never half of what would have been taken out.

Two ways to cut. `words`: behind a word, when nothing near could be part of something with a form (a digit, a sign of
keys and addresses, a word that announces a number, a long run of letters). `sentences`: behind a sentence.
"""

from __future__ import annotations

import re
from typing import Literal

Cut = Literal["words", "sentences", "whole"]

LONGEST = 16_384
"""Characters that are held back at most; then they are judged as they are."""
LONG_SENTENCE = 1000
"""A sentence longer than this is cut behind a word."""
NEAR = 40
"""Characters before a cut that must be harmless."""
_GAP = re.compile(r"\s+|[。，！？；、]")
_NEARBY = re.compile(
    r"[\d@+()=:_/€£$₹¥#*]|--|www\.|\S{20}|\b(?:phone|tel|mobile|cell|call|ring|whatsapp|number|office|fax|order|invoice"
    r"|ticket|tracking|parcel|ref|rs|inr|usd|eur|gbp|ssn|social|bsn|sofinummer|burger|nhs|cpf|steuer|tax|idnr|tin"
    r"|pesel|aadh?aar|uidai|ahv|avs|nir|sécu|securite)",
    re.IGNORECASE,
)
"""What may be part of, or announce, a thing that a guard takes out."""
_SENTENCE = re.compile(r"(?:[.!?]+[\"')\]]*(?=\s)|[。！？]|\n)\s*")


class Held:
    """What came of a text and was not judged yet."""

    def __init__(self, cut: Cut) -> None:
        self._cut: Cut = cut
        self._text = ""

    def add(self, text: str) -> str:
        """Take the next bit; returns what may be judged now, often nothing."""
        self._text += text
        end = safe(self._text, self._cut)
        ready, self._text = self._text[:end], self._text[end:]
        return ready

    def rest(self) -> str:
        """What is left when the text has ended."""
        ready, self._text = self._text, ""
        return ready


def safe(text: str, cut: Cut) -> int:
    """Where a text that may go on can be cut: everything before is judged the same with and without what follows."""
    if len(text) > LONGEST:
        return len(text)
    if cut == "whole":
        return 0
    limit = len(text)
    opened = text.rfind("-----BEGIN ")
    if opened >= 0 and "-----END" not in text[opened:]:
        limit = opened
    if cut == "sentences":
        ends = [match.end() for match in _SENTENCE.finditer(text, 0, limit) if match.end() < len(text)]
        if ends:
            return _calm_before(text, ends)
        if limit < LONG_SENTENCE:
            return 0
    return _calm_before(text, [match.end() for match in _GAP.finditer(text, 0, limit)])


def _calm_before(text: str, ends: list[int]) -> int:
    """The last of these places with nothing near it that could be part of something, 0 without one."""
    for end in reversed(ends):
        following = _GAP.search(text, end)
        if following is None or following.start() == end:
            continue  # the next word may still grow
        start = max(0, end - NEAR)
        word = text.rfind(" ", 0, start) + 1 if start else 0
        if _NEARBY.search(text, max(word, start - 200), following.start()) is None:
            return end
    return 0
