"""However requests come, go and give up, an upstream never gets more of them at once than it may."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.gateway.turnstile import Full, Turnstile

STEPS = st.lists(st.tuples(st.sampled_from(["come", "go", "give up"]), st.integers(0, 30)), max_size=60)


@given(st.integers(1, 4), st.integers(0, 4), STEPS)
def test_places_and_queue_hold_and_everybody_gets_in_in_turn(places: int, queue: int, steps: list) -> None:
    asyncio.run(played(places, queue, steps))


async def played(places: int, queue: int, steps: list[tuple[str, int]]) -> None:
    turnstile, waiting, inside = Turnstile(places, queue), list[asyncio.Task[None]](), 0
    for step, which in steps:
        if step == "come":
            task = asyncio.create_task(turnstile.enter())
            await asyncio.sleep(0)
            if task.done():
                full = isinstance(task.exception(), Full)
                assert full == (inside == places and len(waiting) == queue)
                inside += not full
            else:
                waiting.append(task)
        elif step == "go" and inside:
            turnstile.leave(0.1)
            inside -= 1
            await asyncio.sleep(0)
            if waiting:
                await waiting.pop(0)  # the one who waited longest, and at once
                inside += 1
        elif step == "give up" and waiting:
            task = waiting.pop(which % len(waiting))
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        assert inside <= places
        assert all(not task.done() for task in waiting)
        assert not waiting or inside == places
    for _ in range(inside + len(waiting)):
        turnstile.leave(0.1)
        await asyncio.sleep(0)
    assert turnstile.empty


@pytest.mark.parametrize("gives_up_first", [True, False])
def test_a_place_that_comes_at_the_moment_of_giving_up_goes_to_the_next(gives_up_first: bool) -> None:
    async def play() -> None:
        turnstile = Turnstile(1, 2)
        await turnstile.enter()
        first, second = asyncio.create_task(turnstile.enter()), asyncio.create_task(turnstile.enter())
        await asyncio.sleep(0)
        acts = [first.cancel, lambda: turnstile.leave(0.1)]
        for act in acts if gives_up_first else reversed(acts):
            act()
        await second
        with pytest.raises(asyncio.CancelledError):
            await first
        turnstile.leave(0.1)
        assert turnstile.empty

    asyncio.run(play())


@given(st.integers(1, 5), st.integers(0, 10))
def test_the_breaker_lets_one_try_after_its_rest(limit: int, more: int) -> None:
    turnstile = Turnstile(1, 0)
    for _ in range(limit - 1):
        turnstile.failed(0.0, limit, 10.0)
    assert turnstile.shut(0.0) == 0
    for _ in range(1 + more):
        turnstile.failed(0.0, limit, 10.0)
    assert turnstile.shut(4.0) == 6.0
    assert [turnstile.shut(10.0) > 0 for _ in range(3)] == [False, True, True]
    turnstile.succeeded()
    assert turnstile.shut(10.0) == 0
