"""Plan and apply, without any vendor: laws of the comparison, and what a plan refuses. No rung: it is our own code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.databricks import plan
from trimtab.databricks.plan import Call, Json, Kind, Resource
from trimtab.databricks.wire import Request, Wire, blotted
from trimtab.errors import Fixable

LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
BODIES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@given(BODIES)
def test_nothing_differs_from_itself(body: Any) -> None:
    assert list(plan.differences(body, body)) == []


@given(BODIES, BODIES)
def test_what_differs_is_found_and_what_the_vendor_adds_is_not(want: Any, have: Any) -> None:
    def covered(want: Any, have: Any) -> bool:
        if isinstance(want, dict) and isinstance(have, dict):
            return all(covered(value, have.get(key)) for key, value in want.items())
        if isinstance(want, list) and isinstance(have, list):
            return len(want) == len(have) and all(covered(w, h) for w, h in zip(want, have, strict=True))
        return want == have

    assert (list(plan.differences(want, have)) == []) == covered(want, have)


def test_items_with_a_name_are_compared_by_it_whatever_their_order() -> None:
    want = [{"name": "a", "share": 90}, {"name": "b", "share": 10}]
    have = [{"name": "c", "share": 0}, {"name": "b", "share": 10, "state": "READY"}, {"name": "a", "share": 100}]
    found = list(plan.differences({"routes": want}, {"routes": have}))
    assert [(one.path, one.have, one.want) for one in found] == [
        ("routes[a].share", 100, 90),
        ("routes[c]", {"name": "c", "share": 0}, None),
    ]


class Shelf:
    """A kind whose things are in a dict; its writes go over a wire."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.things: dict[str, Json] = {}

    def kind(self, **more: Any) -> dict[str, Kind]:
        def put(resource: Resource) -> Sequence[Call]:
            def send() -> None:
                self.wire.write(Request("PUT", resource.name, resource.body))
                self.things[resource.name] = {**resource.body, "mine": True}

            return [send]

        def remove(resource: Resource) -> Sequence[Call]:
            def send() -> None:
                self.wire.write(Request("DELETE", resource.name))
                del self.things[resource.name]

            return [send]

        kind = Kind(
            read=lambda r: self.things.get(r.name),
            create=put,
            change=lambda r, there, paths: put(r),
            delete=lambda r, there: remove(r),
            mine=lambda r, there: there.get("mine", False),
            **more,
        )
        return {"thing": kind}


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 3)), min_size=1, max_size=4))
def test_a_plan_sends_nothing_and_after_it_is_applied_the_next_one_is_empty(bodies: list[Json]) -> None:
    shelf = Shelf()
    kinds = shelf.kind()
    desired = [Resource("thing", str(number), body) for number, body in enumerate(bodies)]
    changes = plan.plan(shelf.wire, kinds, desired)
    assert shelf.things == {}
    assert [change.action for change in changes] == ["create"] * len(desired)
    plan.apply(kinds, changes, lambda text: None)
    assert shelf.wire.requests == [request for change in changes for request in change.requests]
    assert {change.action for change in plan.plan(shelf.wire, kinds, desired)} == {"keep"}
    plan.apply(kinds, plan.plan_removal(shelf.wire, kinds, desired), lambda text: None)
    assert shelf.things == {}


def test_what_somebody_else_made_is_neither_changed_nor_removed() -> None:
    shelf = Shelf()
    shelf.things["x"] = {"size": 1}
    with pytest.raises(Fixable, match="did not make"):
        plan.plan(shelf.wire, shelf.kind(), [Resource("thing", "x", {"size": 2})])
    (change,) = plan.plan_removal(shelf.wire, shelf.kind(), [Resource("thing", "x")])
    assert (change.action, change.note) == ("keep", "Trimtab did not make it")


def test_what_cannot_change_in_place_is_refused_before_anything_is_sent() -> None:
    shelf = Shelf()
    shelf.things["x"] = {"location": "north", "mine": True}
    with pytest.raises(Fixable, match="location is north, cannot be changed to west"):
        plan.plan(shelf.wire, shelf.kind(fixed=("location",)), [Resource("thing", "x", {"location": "west"})])


def test_a_secret_is_never_shown() -> None:
    assert blotted({"scope": "s", "values": [{"string_value": "hush"}]}) == {
        "scope": "s",
        "values": [{"string_value": "***"}],
    }
