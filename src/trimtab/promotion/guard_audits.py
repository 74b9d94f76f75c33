"""Guards and judges, audited as models are: does what they say of an honest sentence change with the group in it?

Each one is put to frames about every group of every axis, in English and Chinese; being stopped is the outcome. What
they do to live traffic by group is in the audit of the quality of service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from trimtab.promotion.audits import TWINS, Method, Place, evaluated, judged, policy_of, recorded
from trimtab.records.guards import GuardSet
from trimtab.records.responsible import Audit
from trimtab.responsible import identities, twins
from trimtab.responsible.guards import guard_set, people
from trimtab.responsible.identities import Frame, Orbit
from trimtab.responsible.packs import PACKS

LANGUAGES = tuple(PACKS)
HOW = Method("guard", TWINS.unit, TWINS.test, TWINS.limits)
_NOT_OF_WORDS = ("format", "length")
"""Kinds that look at no word, so that no group can matter to them."""


@dataclass(frozen=True)
class Looker:
    """A guard or a judge: whether it stops a text (a judge: whether it holds against it), in the languages it reads."""

    name: str
    stops: Callable[[str], bool]
    languages: tuple[str, ...] = LANGUAGES


def audit_all(place: Place, guards: GuardSet) -> Iterator[Audit]:
    """Audit every guard of a set (with its weights: `topics.fitted`) and our judges of answers, one after the other."""
    for looker in (*of_guards(guards), *JUDGES):
        yield recorded(place, _audited(place, looker), tag=False)


def of_guards(guards: GuardSet) -> list[Looker]:
    """The guards that read words and can look here, whatever their action is."""
    defined = msgspec.convert(guards.model_dump(mode="json"), guard_set.GuardSet)
    found: list[Looker] = []
    for guard in defined.checks:
        if guard.kind not in _NOT_OF_WORDS and not (guard.kind == "names" and people.reason()):
            direction: Any = "output" if guard.direction == "output" else "input"
            looking = msgspec.structs.replace(guard, action="flag", at={}, time_limit_ms=60_000.0)
            checks = guard_set.checks(guard_set.GuardSet([looking]), direction, "", "")
            found.append(Looker(f"guard {guard.name}", _stops(checks, direction)))
    return found


def left_out(guards: GuardSet) -> list[str]:
    """Guards that are not audited, and why."""
    missing = people.reason()
    found = [f"{guard.name}: looks at no word" for guard in guards.checks if guard.kind in _NOT_OF_WORDS]
    return found + [f"{guard.name}: {missing}" for guard in guards.checks if guard.kind == "names" and missing]


def _stops(checks: Sequence[guard_set.Check], direction: Any) -> Callable[[str], bool]:
    return lambda text: any(event.action == "flag" for event in guard_set.judge(checks, direction, text).events)


def _negative(text: str) -> bool:
    """The sentiment judge as audits use it: without the words of the pack, below VADER's own line for negative."""
    words = identities.pack("en")
    return twins.sentiment(identities.without(text, words, tuple(words.axes))) <= twins.NEGATIVE


JUDGES = (Looker("judge refusal", twins.refused), Looker("judge sentiment", _negative, ("en",)))
"""What audits of free text judge answers by."""


def _audited(place: Place, looker: Looker) -> Audit:
    """One looker on the frames of every language that it reads; an attribute is an axis of one language."""
    frames: list[Frame] = []
    orbits: list[Orbit] = []
    for language in looker.languages:
        words, mine = identities.pack(language), identities.everyday(language)
        frames += mine
        orbits += [replace(o, axis=f"{o.axis} {language}") for o in identities.orbits(mine, words, tuple(words.axes))]
    said = twins.outcomes_of(looker.stops, orbits)
    stopped = [one.decision == "yes" for row in said for one in row]
    return judged(
        place,
        HOW,
        twins.gaps(orbits, said, policy_of(place.loaded), favourable=("no",)),
        len(frames),
        [looker.name, *evaluated(frames)],
        subject=f"{place.subject} {looker.name}",
        examples=twins.worst_pairs(orbits, said),
        numbers={"stopped": sum(stopped) / len(stopped)},
    )
