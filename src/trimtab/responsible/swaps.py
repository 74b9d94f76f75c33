"""Counterfactual twins: the same text under the name of another group. Pure; the lists of names are the caller's.

What a twin can show is limited by the lists: it tests (and, as augmentation, removes) dependence on the declared
names only, not on anything else that hints at a group.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from trimtab.errors import Fixable
from trimtab.records.training import TWIN, Case

Groups = Mapping[str, tuple[str, ...]]
"""Group name -> full names that may be swapped against those of every other group."""

_START, _END = r"(?<!\w)(?<!\w-)", r"(?!\w)(?!-\w)"  # "Ann" is a name in "Ann's" and "-Ann", not in "Anna", "Ann-Lee"
_SEPARATOR = r"[\s._-]+"  # also finds john.smith@example.org


@dataclass(frozen=True)
class Twin:
    """A text with every declared name of `group` replaced. `name` -> `replacement` is the first of the swaps."""

    text: str
    group: str
    other_group: str
    name: str
    replacement: str


def twin(text: str, groups: Groups) -> Twin | None:
    """The text under a name of another group, or None when no declared name, or no unused other name, is at hand.

    The first declared full name in the text decides the group to leave. All full names of that group are replaced,
    and their first names and surnames where they stand alone, each keeping its case; all other bytes stay. Full names
    are found in any case, lone parts only as declared or in capitals ("will" is no Will). The other group and name
    are chosen by SHA-256 of the text, so the same text and lists give the same twin everywhere, without a seed.
    Raises Fixable when the groups cannot be swapped (fewer than two, an empty one, a name in two of them).
    """
    present = _present(text, groups)
    if not present:
        return None
    name, group = next(iter(present.items()))
    leaving = [n for n, g in present.items() if g == group]
    left = "|".join(_spelling(n) for n in groups[group])
    for other, replacements in _choices(text, group, len(leaving), present, groups):
        swapped = _swap(text, dict(zip(leaving, replacements, strict=True)), groups)
        if not re.search(f"{_START}(?i:{left}){_END}", swapped):  # a new neighbour may complete an old name
            return Twin(swapped, group, other, name, replacements[0])
    return None


def augment(cases: Iterable[Case], groups: Groups) -> list[Case]:
    """The cases, then the twin of each one that has a declared name, with the same label (counterfactual data
    augmentation, Lu et al. 2020, arXiv:1807.11714). A twin's request id is the case's with `~twin` appended. A label
    value that is itself a word of the old name, such as a title, becomes the same word of the new one."""
    kept = list(cases)
    twins = ((case, twin(case.input, groups)) for case in kept)
    return [*kept, *(_twin_case(case, found) for case, found in twins if found)]


def resample(cases: Sequence[Case], groups: Groups, field: str) -> list[Case]:
    """The cases, some repeated and some left out, so that the label's `field` is independent of the group whose name
    the text declares: reweighing, as uniform sampling (Kamiran and Calders 2012).

    A group and value with n rows gets its weight times n, rounded: whole copies, and the rest by the hash of the ids.
    Texts that declare no name are a group of their own.
    """
    kept = list(cases)
    named = [next(iter(_present(case.input, groups).values()), "") for case in kept]
    values = [case.label.get(field, "") for case in kept]
    cells: dict[tuple[str, str], list[Case]] = {}
    for case, group, value in zip(kept, named, values, strict=True):
        cells.setdefault((group, value), []).append(case)
    found: list[Case] = []
    for (group, value), mine in sorted(cells.items()):
        wanted = round(named.count(group) * values.count(value) / len(kept))
        ordered = sorted(mine, key=lambda case: hashlib.sha256(case.request_id.encode()).digest())
        times, rest = divmod(wanted, len(mine))
        found += [case for number, case in enumerate(ordered) for _ in range(times + (number < rest))]
    return found


def _twin_case(case: Case, found: Twin) -> Case:
    old, new = (re.findall(r"\w+", name) for name in (found.name, found.replacement))
    words = dict(zip(old, new, strict=False)) if len(old) == len(new) else {}
    label = {field: words.get(value, value) for field, value in case.label.items()}
    return case.model_copy(update={"request_id": f"{case.request_id}{TWIN}", "input": found.text, "label": label})


def _choices(
    text: str, group: str, count: int, present: Mapping[str, str], groups: Groups
) -> Iterator[tuple[str, list[str]]]:
    """Every other group with `count` of its names not in the text yet, in the order the text's hash sets."""
    key = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    others = [g for g in groups if g != group]
    turn = key % len(others)
    for other in others[turn:] + others[:turn]:
        names = [n for n in groups[other] if n not in present]
        for shift in range(len(names) if len(names) >= count else 0):
            start = key // len(others) + shift
            yield other, [names[(start + i) % len(names)] for i in range(count)]


@lru_cache(maxsize=16)
def _compiled(groups: tuple[tuple[str, tuple[str, ...]], ...]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """A pattern with one capture group per full name, longest first, and the (name, group) behind each."""
    if len(groups) < 2:
        raise Fixable(f"the swaps declare {len(groups)} group(s) of names", "Declare at least two groups of names.")
    owners: dict[str, tuple[str, str]] = {}
    for group, names in groups:
        if not names or not all(name.split() for name in names):
            raise Fixable(f"group {group!r} of the swaps has no names or a blank one", f"Give {group!r} full names.")
        for name in names:
            key = re.sub(_SEPARATOR, " ", name).casefold().strip()
            if key in owners:
                raise Fixable(f"name {name!r} stands in the swaps twice", "List each name once, in one group.")
            owners[key] = (name, group)
    ordered = tuple(sorted(owners.values(), key=lambda owner: len(owner[0]), reverse=True))
    return f"(?i:{'|'.join(f'({_spelling(name)})' for name, _ in ordered)})", ordered


def _present(text: str, groups: Groups) -> dict[str, str]:
    """Declared full names in the text, in order of appearance, with their groups."""
    names, owners = _compiled(tuple((group, tuple(names)) for group, names in groups.items()))
    matches = re.finditer(f"{_START}{names}{_END}", text)
    return dict(owners[match.lastindex - 1] for match in matches if match.lastindex)


def _swap(text: str, swaps: Mapping[str, str], groups: Groups) -> str:
    """The text with the names that are keys of `swaps` replaced, in full and in part."""
    names, owners = _compiled(tuple((group, tuple(names)) for group, names in groups.items()))
    lone: dict[str, str] = {}
    for name, other in swaps.items():
        for part, new in ((name.split()[0], other.split()[0]), (name.split()[-1], other.split()[-1])):
            lone.setdefault(part, new)
            if len(part) > 1:
                lone.setdefault(part.upper(), new.upper())

    def replace(match: re.Match[str]) -> str:
        if match.lastindex is None:
            return lone[match.group()]
        name = owners[match.lastindex - 1][0]
        return _rewrite(match.group(), name, swaps[name]) if name in swaps else match.group()

    parts = "|".join(re.escape(part) for part in sorted(lone, key=len, reverse=True))
    return re.sub(f"{_START}(?:{names}|{parts}){_END}", replace, text)


def _rewrite(found: str, name: str, other: str) -> str:
    """`other` as `found` spells `name`: its separators, and the case of each of its words."""
    old, new = name.split(), other.split()
    pieces = re.split(f"({_SEPARATOR})", found) if len(old) == len(new) else []
    if len(pieces) != 2 * len(old) - 1:  # another number of words, or words with a separator inside
        return _cased(found, name, other)
    pieces[::2] = [_cased(*words) for words in zip(pieces[::2], old, new, strict=True)]
    return "".join(pieces)


def _cased(seen: str, declared: str, new: str) -> str:
    if seen == declared:
        return new
    return new.upper() if seen.isupper() else new.lower() if seen.islower() else new


def _spelling(name: str) -> str:
    return _SEPARATOR.join(re.escape(word) for word in name.split())
