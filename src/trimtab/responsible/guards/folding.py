"""Text as a reader sees it: compatibility forms, invisible characters and look-alikes folded, with the way back.

Each character is folded alone (NFKC, Unicode Standard Annex 15), so a text folds the same however it is cut.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

_LOOKALIKES = dict(
    zip(
        "АВЕЅІЈКМНОРСТХУаеіѕјорсухԁһӏвкмнтΑΒΕΖΗΙΚΜΝΟΡΤΥΧαοενικρτυ‘’‚‛“”„‟‐‑‒–—―−⁄∕İıƖɑɡ",
        "ABESIJKMHOPCTXYaeisjopcyxdhlbkmhtABEZHIKMNOPTYXaoevikptu''''\"\"\"\"-------//IiIag",
        strict=True,
    )
)
"""Letters of other alphabets, quotes and dashes by what they look like; İ because its lower case is two characters."""
_INVISIBLE = frozenset(
    map(
        chr,
        [
            *(0xAD, 0x34F, 0x61C, 0x115F, 0x1160, 0x180E, 0x3164, 0xFEFF, 0xFFA0),
            *range(0x200B, 0x2010),
            *range(0x202A, 0x202F),
            *range(0x2060, 0x2070),
            *range(0xFE00, 0xFE10),
            *range(0xE0100, 0xE01F0),
        ],
    )
)


class _Folds(dict[int, str]):
    """What each character becomes; filled as characters are met."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        if char in _INVISIBLE:
            folded = ""
        elif 0xE0000 <= code < 0xE0080:  # tag characters: ASCII that nobody sees
            folded = chr(code - 0xE0000) if code >= 0xE0020 else ""
        elif 0xD800 <= code < 0xE000:
            folded = char
        else:
            folded = "".join(_LOOKALIKES.get(c, c) for c in unicodedata.normalize("NFKC", char))
        self[code] = folded
        return folded


_FOLDS = _Folds()


@dataclass(frozen=True, slots=True)
class Folded:
    """A text as it is judged. `at` gives for each place of `text`, and its end, the place in the original; None: the
    same one."""

    text: str
    at: tuple[int, ...] | None = None

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The stretch of the original that a stretch of the folded text stands for."""
        if self.at is None:
            return start, end
        return self.at[start], (self.at[end - 1] + 1 if end > start else self.at[start])


def fold(text: str) -> Folded:
    """Fold a text. ASCII costs a look."""
    if text.isascii():
        return Folded(text)
    folded = text.translate(_FOLDS)
    if folded == text or all(len(_FOLDS[ord(char)]) == 1 for char in set(text)):
        return Folded(folded)
    at = [place for place, char in enumerate(text) for _ in _FOLDS[ord(char)]]
    return Folded(folded, (*at, len(text)))
