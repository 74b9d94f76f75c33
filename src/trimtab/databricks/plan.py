"""Desired resources as values → compare with what is there → changes → apply. The one mechanism of the annex.

It knows no vendor: a `Kind` says how resources of a kind are read, made, changed and deleted. Nothing is deleted or
changed that Trimtab has not marked as its own, except containers that it only uses (a catalog, a resource group).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from trimtab.databricks.wire import Request, Wire
from trimtab.errors import Fixable

Json = dict[str, Any]
Call = Callable[[], object]
Tell = Callable[[str], None]

IDENTITIES = ("name", "task_key", "served_entity_name", "environment_key", "job_cluster_key", "key", "user_email")
"""Fields by which the items of a list are told apart, whatever their order."""


@dataclass(frozen=True)
class Resource:
    """One thing that should be there.

    `body`: what is asked for, as the vendor's API names it; fields that are not in it are left to the vendor.
    `given`: what the kind needs beside it, never compared (a local path, a mark).
    """

    kind: str
    name: str
    body: Json = field(default_factory=dict)
    given: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """How resources of one kind are read and written; each Call makes one write.

    `read` gives what is there in the shape of the body, or None. `fixed`: paths that no update can change.
    `kept`: why what is there must not be deleted, or "". `mine`: whether Trimtab made what is there; one that it did
    not make is changed only if the kind `shares`. `wait` returns when the resource is usable.
    """

    read: Callable[[Resource], Json | None]
    create: Callable[[Resource], Sequence[Call]]
    change: Callable[[Resource, Json, Sequence[str]], Sequence[Call]]
    delete: Callable[[Resource, Json], Sequence[Call]]
    mine: Callable[[Resource, Json], bool]
    kept: Callable[[Resource, Json], str] = lambda resource, there: ""
    wait: Callable[[Resource, Tell], None] = lambda resource, tell: None
    fixed: tuple[str, ...] = ()
    shares: bool = False


@dataclass(frozen=True)
class Difference:
    """One field that is not as it should be: dotted path, what is there, what is wanted."""

    path: str
    have: Any
    want: Any


@dataclass(frozen=True)
class Change:
    """What is to be done about one resource, and the requests that do it."""

    resource: Resource
    action: Literal["create", "change", "delete", "keep"]
    there: Json | None = None
    differences: tuple[Difference, ...] = ()
    requests: tuple[Request, ...] = ()
    note: str = ""


def differences(want: Any, have: Any, path: str = "") -> Iterator[Difference]:
    """Fields of `want` that `have` lacks or has otherwise. What only `have` has is no difference, except in lists."""
    if isinstance(want, Mapping) and isinstance(have, Mapping):
        for key, value in want.items():
            yield from differences(value, have.get(key), f"{path}.{key}".removeprefix("."))
    elif isinstance(want, list | tuple) and isinstance(have, list | tuple):
        yield from _list_differences(list(want), list(have), path)
    elif want != have:
        yield Difference(path, have, want)


def plan(wire: Wire, kinds: Mapping[str, Kind], desired: Sequence[Resource]) -> list[Change]:
    """What it takes to have every desired resource, in order. Raises Fixable for what cannot be changed in place."""
    return [_planned(wire, kinds[resource.kind], resource) for resource in desired]


def plan_removal(wire: Wire, kinds: Mapping[str, Kind], desired: Sequence[Resource]) -> list[Change]:
    """What it takes to remove what was made of these, the last first. What Trimtab did not make is kept."""
    changes = []
    for resource in reversed(desired):
        kind = kinds[resource.kind]
        there = kind.read(resource)
        if there is None:
            continue
        note = kind.kept(resource, there) if kind.mine(resource, there) else "Trimtab did not make it"
        if note:
            changes.append(Change(resource, "keep", there, note=note))
            continue
        requests = wire.rehearse(kind.delete(resource, there))
        changes.append(Change(resource, "delete", there, requests=requests))
    return changes


def apply(kinds: Mapping[str, Kind], changes: Sequence[Change], tell: Tell) -> None:
    """Make the changes in order and wait for each. What was done stays done when a later one fails."""
    todo = [change for change in changes if change.action != "keep"]
    for number, change in enumerate(todo, start=1):
        resource, kind = change.resource, kinds[change.resource.kind]
        label = f"{number}/{len(todo)} {resource.kind} {resource.name}"
        tell(f"{label}: {change.action}…")
        for call in _calls(kind, change):
            call()
        if change.action != "delete":
            kind.wait(resource, lambda text, label=label: tell(f"{label}: {text}"))


def _calls(kind: Kind, change: Change) -> Sequence[Call]:
    if change.action == "create":
        return kind.create(change.resource)
    there = change.there or {}
    if change.action == "delete":
        return kind.delete(change.resource, there)
    return kind.change(change.resource, there, [difference.path for difference in change.differences])


def _planned(wire: Wire, kind: Kind, resource: Resource) -> Change:
    there = kind.read(resource)
    if there is None:
        return Change(resource, "create", requests=wire.rehearse(kind.create(resource)))
    found = tuple(differences(resource.body, there))
    if not found:
        return Change(resource, "keep", there)
    if not kind.shares and not kind.mine(resource, there):
        message = f"there is a {resource.kind} {resource.name} that Trimtab did not make"
        raise Fixable(message, "give yours another name in trimtab.yaml, or remove that one first")
    for difference in found:
        if difference.path.startswith(kind.fixed):
            place = f"{resource.kind} {resource.name}: {difference.path}"
            message = f"{place} is {difference.have}, cannot be changed to {difference.want}"
            raise Fixable(message, "write the value that is there into trimtab.yaml, or choose another name")
    calls = kind.change(resource, there, [difference.path for difference in found])
    return Change(resource, "change", there, found, wire.rehearse(calls))


def _list_differences(want: list[Any], have: list[Any], path: str) -> Iterator[Difference]:
    for identity in IDENTITIES:
        ours = [item.get(identity) for item in want if isinstance(item, Mapping)]
        theirs = {item.get(identity): item for item in have if isinstance(item, Mapping)}
        if not ours or len(ours) < len(want) or None in ours or len(set(ours)) < len(ours):
            continue
        for item in want:
            yield from differences(item, theirs.pop(item[identity], None), f"{path}[{item[identity]}]")
        for name, extra in theirs.items():
            yield Difference(f"{path}[{name}]", extra, None)
        return
    if len(want) != len(have):
        yield Difference(path, have, want)
        return
    for index, (ours, theirs) in enumerate(zip(want, have, strict=True)):
        yield from differences(ours, theirs, f"{path}[{index}]")
