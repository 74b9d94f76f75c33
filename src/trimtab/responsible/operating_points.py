"""Thresholds by group, as they decide: post-processing of a score (Hardt, Price and Srebro 2016, arXiv 1610.02413).
Pure, and light: the gateway runs it.

The group is declared with a request by the calling application; who declares none, or another, and an answer without a
score, keep the model's own answer. Where Fairlearn's solution mixes two thresholds the decision is drawn, by a keyed
hash of the question, so that the same question of the same group is always decided alike.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from trimtab.responsible import log_odds
from trimtab.responsible.log_odds import Deciding, Tokens


def deciding(thresholds: Mapping[str, Any]) -> Deciding:
    """What the score is of. `thresholds` is a `records.registry.Thresholds` as a mapping, here and below."""
    favourable = thresholds["favourable"]
    return Deciding(thresholds["field"], (favourable, thresholds["other"]), (favourable,))


def probability(point: Mapping[str, Any], score: float) -> float:
    """With which probability a score (log-odds, in nats) is decided favourably at a group's operating point."""
    return point["start"] + sum(adds for above, adds in point["steps"] if score > above)


def decided(thresholds: Mapping[str, Any], group: str | None, score: float | None, question: str) -> str | None:
    """The value that a group's thresholds decide for; None: the answer stands as it is."""
    point = thresholds["groups"].get(group)
    if point is None or score is None:
        return None
    favourable = uniform(question, thresholds["key"].encode()) < probability(point, score)
    return thresholds["favourable" if favourable else "other"]


def applied(thresholds: Mapping[str, Any], group: str | None, question: str, answer: str, tokens: Tokens) -> str:
    """An answer, a JSON object, with what the group's thresholds decide in its field."""
    about = deciding(thresholds)
    value = decided(thresholds, group, log_odds.score(answer, tokens, about), question)
    return answer if value is None else log_odds.with_value(answer, about, value)


def uniform(identity: str, key: bytes) -> float:
    """A number from 0 to below 1 for a text, unforeseeable without the key."""
    digest = hmac.new(key, identity.encode(errors="surrogatepass"), hashlib.sha256).digest()
    return int.from_bytes(digest[:6]) / 2**48
