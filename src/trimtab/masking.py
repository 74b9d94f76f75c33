"""Identity masking: every declared term becomes one neutral word, so that no answer can depend on which term it was.

Two texts that differ only in declared terms of the same form have the same masked text, whatever the model: the share
of decisions that flip is exactly zero. It removes dependence on declared terms only. Names that are not declared,
dialect and all other hints stay. Pure, and light: the gateway runs it on every message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

NEVER = r"(?!)"
SEEN_BEFORE = 40
"""Characters before an adjective in which its subject is looked for."""
_SENTENCE = re.compile(r"""(?:^|[.!?:]["'”)]*\s+|\n\s*)$""")
_SOMEBODY = (
    r"\b(?:I am|I['’]m|(?:he|she|who)(?: is| was|['’]s)|(?:they|we|you|who)(?: are| were|['’]re)"
    r"|(?:{roles})\s+(?:is|are|was|were))(?: not| also| both| openly)*\s+$"
)


def masker(lexicon: Mapping[str, Any]) -> Callable[[str], str]:
    """The function that masks a text. `lexicon` is a `records.registry.Mask` as a mapping:

    terms: each declared term and its neutral word, both in lower case. guarded: terms of several meanings ("black",
    "straight"), which count only beside a plain one, before a word of `roles`, or after "I am", "she is" and the like.
    kept: phrases that hold a declared word and mean nobody ("Black Friday", 其他): they stay.
    absorbed: nouns that fall into the neutral word before them ("Muslim person"), each with the word it makes of it.
    articles: whether words stand apart and "a" or "an" goes with them, as in English.
    """
    terms = {_plain(term): neutral for term, neutral in lexicon["terms"].items()}
    absorbed = {_plain(noun): neutral for noun, neutral in lexicon["absorbed"].items()}
    if not terms:
        return lambda text: text
    kept = _any(lexicon["kept"]) or NEVER
    if not lexicon["articles"]:
        run = re.compile(f"(?P<kept>{kept})|(?:{_any(terms)})+(?:{_any(absorbed) or NEVER})?")
        last = re.compile(f"({_any([*absorbed, *terms])})$")
        made = {**absorbed, **terms}
        return lambda text: run.sub(lambda found: found["kept"] or made[_last(last, found[0])], text)
    return _english(terms, absorbed, {_plain(term) for term in lexicon["guarded"]}, lexicon["roles"], kept)


def _english(
    terms: Mapping[str, str], absorbed: Mapping[str, str], guarded: set[str], roles: Sequence[str], kept: str
) -> Callable[[str], str]:
    one = f"(?:{_any(terms)})"
    edge, end = r"(?<![\w'’-])", r"(?![\w-])"
    pattern = re.compile(
        rf"{edge}(?P<kept>{kept}){end}|{edge}(?:(?P<article>an?)(?P<space>\s+))?(?P<run>{one}{end}(?:[\s-]+{one}{end})*)"
        rf"(?:[\s-]+(?P<tail>{_any(absorbed) or NEVER}){end})?",
        re.IGNORECASE,
    )
    of_people = said_of_people(roles)
    each = re.compile(f"{one}{end}", re.IGNORECASE)

    def replaced(match: re.Match[str]) -> str:
        if match["kept"]:
            return match[0]
        found = [_plain(term) for term in each.findall(match["run"])]
        text, tail = match.string, match["tail"]
        if guarded.issuperset(found) and not tail and not of_people(text, match.start(), match.end()):
            return match[0]
        neutral = absorbed[_plain(tail)] if tail else terms[found[-1]]
        if match["article"]:
            article = "an" if neutral[0] in "aeiou" else "a"
            whole = article + match["space"] + neutral
            return whole[0].upper() + whole[1:] if match["article"][0] == "A" else whole
        opens = _SENTENCE.search(text[max(0, match.start() - 8) : match.start()])
        return neutral[0].upper() + neutral[1:] if opens else neutral

    return lambda text: pattern.sub(replaced, text)


def through(lexicons: Sequence[Mapping[str, Any]], messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Chat messages after every mask, in order."""
    masks = [masker(lexicon) for lexicon in lexicons]
    found = [dict(message) for message in messages]
    for mask in masks:
        found = [masked_message(message, mask) for message in found]
    return found


def said_of_people(roles: Sequence[str]) -> Callable[[str, int, int], bool]:
    """Whether the adjective text[start:end] is said of a person: a role stands behind it, or somebody "is" it."""
    role = re.compile(rf"[\s-]+(?:[\w'’-]+[\s-]+)?(?:{_any(roles) or NEVER})(?![\w-])", re.IGNORECASE)
    subject = re.compile(_SOMEBODY.format(roles=_any(roles) or NEVER), re.IGNORECASE)
    return lambda text, start, end: bool(
        role.match(text, end) or subject.search(text[max(0, start - SEEN_BEFORE) : start])
    )


def masked_message(message: Mapping[str, Any], mask: Callable[[str], str]) -> dict[str, Any]:
    """A chat message with its text masked: a string, or the texts among its parts. What is no text stays as it is."""
    content: Any = message.get("content")
    if isinstance(content, str):
        return {**message, "content": mask(content)}
    if isinstance(content, list):
        parts: list[Any] = [*content]
        return {**message, "content": [_masked_part(part, mask) for part in parts]}
    return dict(message)


def _masked_part(part: Any, mask: Callable[[str], str]) -> Any:
    if not isinstance(part, dict):
        return part
    given: dict[str, Any] = {**part}
    text = given.get("text")
    return {**given, "text": mask(text)} if isinstance(text, str) else given


def _plain(word: str) -> str:
    return re.sub(r"[\s-]+", " ", word).lower()


def _last(pattern: re.Pattern[str], run: str) -> str:
    found = pattern.search(run)
    return found[1] if found else run


def _any(words: Iterable[str]) -> str:
    """Longest first; spaces and hyphens are the same."""
    ordered = sorted(words, key=len, reverse=True)
    return "|".join(r"[\s-]+".join(re.escape(piece) for piece in re.split(r"[\s-]+", word)) for word in ordered)
