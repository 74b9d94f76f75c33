"""Counterfactual averaging: a question is asked about every group of an axis, and the answers vote.

The set of twins is worked out from the masked text (`masking`), so that it is the same set in the same order whichever
group was named: what the vote says cannot depend on the declared term. The price is one question a group. Only whole
answers of labels can be counted; free text has no majority. Pure, and light: the gateway runs it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trimtab.masking import masked_message, masker

_OPEN, _CLOSE = "\ue000", "\ue001"
_SLOT = re.compile(
    rf"(?:(?<![\w'’-])(?P<article>[Aa])(?P<space>\s+))?{_OPEN}(?P<word>[^{_CLOSE}]*){_CLOSE}(?=(?P<tail>[\s-]*\w*))"
)
_SENTENCE = re.compile(r"""(?:^|[.!?:]["'”)]*\s+|\n\s*)$""")
_VOWEL = re.compile(r"(?:[aeiou](?!ni[^n]|ne\b|uro|kr)|hour|honest|heir)", re.IGNORECASE)

Twins = Callable[[Sequence[Mapping[str, Any]]], list[list[dict[str, Any]]]]
"""From a conversation to its twins."""


def twins(average: Mapping[str, Any]) -> Twins:
    """How a conversation becomes its twins, one a group; the conversation alone where it names no group.

    `average` is a `records.registry.Average` as a mapping. A group without a form that the text needs is
    told by another of its words.
    """
    mask = {**average["mask"]}
    for name in ("terms", "absorbed"):
        mask[name] = {word: f"{_OPEN}{neutral}{_CLOSE}" for word, neutral in mask[name].items()}
    slotted = masker(mask)
    fills: list[Callable[[str], str]] = [_filler(average, words) for words in average["groups"].values()]

    def made(conversation: Sequence[Mapping[str, Any]]) -> list[list[dict[str, Any]]]:
        plain = [masked_message(message, _unmarked) for message in conversation]
        framed = [masked_message(message, slotted) for message in plain]
        if framed == plain:
            return [plain]
        return [[masked_message(message, fill) for message in framed] for fill in fills]

    return made


def agreed(answers: Sequence[str]) -> int:
    """The position of the answer that most twins got; of answers with as many votes the first by text, and of equal
    answers the first. Raises ValueError when there is none."""
    votes = Counter(answers)
    return min(range(len(answers)), key=lambda at: (-votes[answers[at]], answers[at], at))


def _unmarked(text: str) -> str:
    """Nobody but us may write a slot."""
    return text.replace(_OPEN, "").replace(_CLOSE, "")


def _filler(average: Mapping[str, Any], words: Mapping[str, Mapping[str, str]]) -> Callable[[str], str]:
    roles, english = frozenset(average["mask"]["roles"]), average["mask"]["articles"]

    def filled(found: re.Match[str]) -> str:
        forms, article = words[found["word"]], found["article"]
        noun = found["tail"].strip(" -").lower()
        form = "adjective" if noun in roles or noun.removesuffix("s") in roles or not article else "person"
        word = forms.get(form) or next(iter(forms.values()))
        if not english:
            return f"{article or ''}{found['space'] or ''}{word}"
        if article:
            return f"{article}{'n' if _VOWEL.match(word) else ''}{found['space']}{word}"
        opens = _SENTENCE.search(found.string[max(0, found.start() - 8) : found.start()])
        return word[0].upper() + word[1:] if opens else word

    return lambda text: _SLOT.sub(filled, text)
