"""A linear model over the words of a text and the letters in them: small, quick and readable. Pure Python, no numpy.

A text's score is bias + sum(weights of its features) / sqrt(words, at least SHORT). Features of a word are itself and
its runs of three to five letters, with `^` and `$` for its ends; the rest are pairs of neighbours. What a word
contributes never changes, so it is summed once and kept: a known text costs a look for each word and each pair.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from math import exp, sqrt
from pathlib import Path

_WORD = re.compile(r"[^\W_]+|[<\[|#=]{2,}")
_CJK = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])")
LONGEST = 24
"""Letters of a word that are looked at."""
SHORT = 6
"""Words below which a text does not count as surer for being shorter."""
KEPT = 20_000
"""Words whose sums are kept."""


def words(text: str) -> list[str]:
    """The words of a text in lower case; a character of Chinese, Japanese or Korean is a word."""
    lower = text.lower()
    return _WORD.findall(lower if lower.isascii() else _CJK.sub(r" \1 ", lower))


def letters(word: str) -> Iterator[str]:
    """The features of one word."""
    marked = f"^{word[:LONGEST]}$"
    yield marked
    for size in (3, 4, 5):
        for start in range(len(marked) - size + 1):
            if size < len(marked):
                yield marked[start : start + size]


def pairs(found: list[str]) -> Iterator[str]:
    """Neighbours as features."""
    return map(" ".join, pairwise(found))


class Linear:
    """A model's weights, and the sums of the words met so far."""

    def __init__(self, weights: Mapping[str, float], bias: float) -> None:
        self._weights, self.bias = dict(weights), bias
        self._known: dict[str, float] = {}

    def score(self, text: str) -> float:
        """The log-odds of a text; the bias alone when it has no word."""
        return self.score_words(words(text))

    def score_words(self, found: list[str]) -> float:
        """The log-odds of the words of a text."""
        if not found:
            return self.bias
        known, weights = self._known, self._weights
        total = 0.0
        for word in found:
            value = known.get(word)
            if value is None:
                value = sum(weights.get(feature, 0.0) for feature in letters(word))
                if len(known) < KEPT:
                    known[word] = value
            total += value
        get = weights.get
        for pair in pairs(found):
            total += get(pair, 0.0)
        return self.bias + total / sqrt(max(len(found), SHORT))

    def chance(self, text: str) -> float:
        """The same as a probability, 0 to 1."""
        return 1 / (1 + exp(-max(-30.0, min(30.0, self.score(text)))))


def load(path: Path) -> tuple[Linear, dict[str, float]]:
    """A model from its file, and its thresholds."""
    data = json.loads(path.read_text(encoding="utf-8"))
    return Linear(data["weights"], data["bias"]), data["thresholds"]
