"""The cards of the guards: how well each was measured, by benchmarks/responsible/guard_cards.py on public data.

A card speaks of a guard as it was set when it was measured. Of one that is set otherwise, or that learned from the
user's own texts, it says nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from trimtab.responsible import pii
from trimtab.responsible.guards import secrets

OUTSIDE = "found outside every annotated span"
"""What stands beside the kinds on the card of personal data, and is no recall."""


class Recall(NamedTuple):
    """What a guard found of what it was to find, all kinds together; what it found least of; kinds never measured."""

    found: int
    of: int
    weakest: str
    unmeasured: tuple[str, ...] = ()


@cache
def every() -> dict[str, dict[str, Any]]:
    """All cards, by the guard's kind (and setting, in brackets)."""
    return json.loads(Path(__file__).with_name("cards.json").read_text(encoding="utf-8"))["guards"]


def recall(kind: str, params: Mapping[str, Any]) -> Recall | None:
    """What the card says of a guard with these parameters; None when it does not speak of it."""
    rows = {name: row for name, row in _rows(kind, params).items() if name != OUTSIDE and row["n"]}
    wanted = _wanted(kind, params)
    measured = {name: row for name, row in rows.items() if not wanted or name in wanted}
    if not measured:
        return None
    weakest = min(measured, key=lambda name: (measured[name]["k"] / measured[name]["n"], -measured[name]["n"]))
    told = f"{weakest} {measured[weakest]['k']} of {measured[weakest]['n']}"
    found, of = (sum(row[key] for row in measured.values()) for key in ("k", "n"))
    return Recall(found, of, told, tuple(sorted(wanted - measured.keys())))


def _rows(kind: str, params: Mapping[str, Any]) -> Mapping[str, Mapping[str, int]]:
    if kind == "topics" or any(params.get(name) for name in ("threshold", "words", "allow_words")):
        return {}
    name = "injection (rules)" if kind == "injection" and not params.get("model", True) else kind
    return every().get(name, {}).get("recall", {})


def _wanted(kind: str, params: Mapping[str, Any]) -> frozenset[str]:
    """The kinds that it is to find; empty: all that its card has."""
    default = {"pii": pii.PERSONAL, "secrets": secrets.KINDS, "names": ("person",)}
    return frozenset(params.get("find") or default.get(kind, ()))
