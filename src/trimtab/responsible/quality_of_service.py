"""Quality of service by group, on live traffic, without labels: whom does the service fail more often? Pure.

The unit is the caller, where callers come back: their requests are no independent evidence. Script and language are
those of the text, which says nothing about who wrote it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.evaluation import clusters
from trimtab.records.responsible import Policy
from trimtab.responsible import gate
from trimtab.responsible.gate import Gap

TEST = "each group's rate against all others': Newcombe 1998, or a bootstrap over callers where callers come back; Holm"
LIMITS = "Differences may have other causes than the group, such as what a group asks about."
METRICS = ("refusal", "guard_block", "error", "invalid_format", "slow", "thumbs_down")
SLOW = 0.9
"""A request is slow beyond this quantile of everybody's latencies."""
_SCRIPTS = (
    "LATIN",
    "CJK",
    "HIRAGANA",
    "KATAKANA",
    "HANGUL",
    "CYRILLIC",
    "ARABIC",
    "DEVANAGARI",
    "GREEK",
    "HEBREW",
    "THAI",
)
_FUNCTION_WORDS = {
    "english": "the and is of to in that it for you my was with have this are not on me what how can i do does please",
    "german": "der die das und ist nicht ich zu mit ein eine den von sie es auf für wie was mein kann bitte habe wir",
    "french": "le la les et est pas je de un une des vous que pour dans ce qui mon ma avec sur comment puis bonjour",
    "spanish": "el la los y es no de que en un una por para mi con se lo como está puedo cómo qué gracias del al",
    "italian": "il la che di e non un una per mi con sono è come ho posso del della gli le grazie questo ma si",
    "portuguese": "o a os e não de que em um uma para meu minha com se por como está posso do da obrigado você eu",
    "dutch": "de het een en is niet ik van te dat op voor met mijn kan hoe wat zijn heb dit er aan naar wij",
    "polish": "i w nie na się z to jest że do jak mój moje czy dla proszę mam o po za ale co jestem",
    "turkish": "ve bir bu için de da ne mi nasıl benim var yok ile çok daha gibi ama değil lütfen olarak",
}
"""Words that a language cannot do without, of those that write in Latin letters."""
_CALLED = {"HIRAGANA": "japanese", "KATAKANA": "japanese", "CJK": "chinese"}


_LANGUAGES = {name: frozenset(words.split()) for name, words in _FUNCTION_WORDS.items()}


@dataclass(frozen=True)
class Served:
    """One request: who asked (pseudonym), the groups it belongs to by attribute, and how it went. None: not known."""

    caller: str
    groups: Mapping[str, str]
    refusal: bool | None = None
    guard_block: bool | None = None
    error: bool | None = None
    invalid_format: bool | None = None
    seconds: float | None = None
    thumbs_down: bool | None = None


def script(text: str) -> str:
    """The script most of a text's letters are in: latin, chinese, japanese (any kana), cyrillic, …; none: "other"."""
    counts: Counter[str] = Counter()
    for letter in text[:500]:
        if letter.isalpha():
            first = unicodedata.name(letter, "").split(" ")[0]
            counts[_CALLED.get(first, first.lower()) if first in _SCRIPTS else "other"] += 1
    if counts["japanese"]:
        return "japanese"
    return max(counts, key=lambda name: counts[name]) if counts else "other"


def language(text: str) -> str:
    """The language of a text: by its script, and in Latin letters by the function words that it has most of. Without at
    least two, or between two languages that have as many: "undecided"."""
    written = script(text)
    if written != "latin":
        return written
    words = re.findall(r"[^\W\d_]+", text[:500].lower())
    counts = {name: sum(word in known for word in words) for name, known in _LANGUAGES.items()}
    best = max(counts, key=lambda name: counts[name])
    decided = counts[best] >= 2 and list(counts.values()).count(counts[best]) == 1
    return best if decided else "undecided"


def gaps(rows: Sequence[Served], policy: Policy) -> list[Gap]:
    """Every metric, for every attribute that any row has, of every group against the rest."""
    limit = float(np.quantile([r.seconds for r in rows if r.seconds is not None] or [0.0], SLOW))
    found: list[Gap] = []
    for attribute in dict.fromkeys(name for row in rows for name in row.groups):
        mine = [row for row in rows if attribute in row.groups]
        for metric in METRICS:
            known = [(row, value) for row in mine if (value := _value(row, metric, limit)) is not None]
            if known:
                found += _metric(metric, attribute, known, policy)
    return found


def _value(row: Served, metric: str, limit: float) -> bool | None:
    if metric == "slow":
        return None if row.seconds is None else row.seconds > limit
    value: bool | None = getattr(row, metric)
    return value


def _metric(metric: str, attribute: str, known: Sequence[tuple[Served, bool]], policy: Policy) -> list[Gap]:
    counts: dict[str, tuple[int, int]] = {}
    callers: dict[str, set[str]] = {}
    for row, value in known:
        group = policy.merged.get(f"{attribute}={row.groups[attribute]}", row.groups[attribute])
        k, n = counts.get(group, (0, 0))
        counts[group] = (k + value, n + 1)
        callers.setdefault(group, set()).add(row.caller)
    plain = gate.against_rest(metric, attribute, counts)
    if len({row.caller for row, _ in known}) == len(known):
        return plain
    return [_clustered(gap, known, attribute, len(callers[gap.group]), policy) for gap in plain]


def _clustered(gap: Gap, known: Sequence[tuple[Served, bool]], attribute: str, callers: int, policy: Policy) -> Gap:
    """The gap with the bootstrap's interval; where a side never varies the bootstrap is blind, and each caller is
    counted once instead (an event is any event of the caller's)."""
    inside = [
        policy.merged.get(f"{attribute}={row.groups[attribute]}", row.groups[attribute]) == gap.group
        for row, _ in known
    ]
    values = [float(value) for _, value in known]
    sides = [{v for v, i in zip(values, inside, strict=True) if i is side} for side in (True, False)]
    if all(len(side) > 1 for side in sides):
        names = [row.caller for row, _ in known]
        draws = clusters.difference_draws(values, inside, names, resamples=policy.resamples, seed=policy.seed)
        made = gate.resampled(gap.metric, gap.attribute, gap.group, gap.value, gap.rest, callers, draws)
        return gate.mirroring(made, gap.mirrored)
    ever: dict[tuple[bool, str], bool] = {}
    for (row, value), member in zip(known, inside, strict=True):
        ever[member, row.caller] = ever.get((member, row.caller), False) or value
    counts = {
        name: (sum(v for (m, _), v in ever.items() if m is member), sum(m is member for m, _ in ever))
        for name, member in ((gap.group, True), ("", False))
    }
    (once,) = [g for g in gate.against_rest(gap.metric, gap.attribute, counts) if g.group == gap.group]
    return gate.mirroring(once, gap.mirrored)
