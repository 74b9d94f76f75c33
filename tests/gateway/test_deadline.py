"""A deadline is kept, and is not mistaken for a client that hangs up."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from trimtab.gateway.deadline import Deadlines, until


def in_loop(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


async def within(seconds: float, work: float) -> str:
    with until(Deadlines(), asyncio.get_running_loop().time() + seconds):
        await asyncio.sleep(work)
    return "in time"


def test_what_is_late_ends_and_what_is_not_goes_on() -> None:
    async def scenario() -> None:
        many = [within(0.01, 60) for _ in range(100)] + [within(60, 0.1) for _ in range(100)]
        ends = await asyncio.gather(*many, return_exceptions=True)
        assert [type(end) for end in ends] == [TimeoutError] * 100 + [str] * 100

    in_loop(scenario())


def test_a_task_goes_on_after_its_deadline_as_if_it_had_never_been_cancelled() -> None:
    async def scenario() -> None:
        with pytest.raises(TimeoutError):
            await within(0.01, 60)
        assert await within(60, 0.01) == "in time"
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    in_loop(scenario())


def test_who_is_cancelled_by_others_is_cancelled() -> None:
    async def scenario() -> None:
        task = asyncio.create_task(within(60, 60))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    in_loop(scenario())


def test_an_error_of_the_work_is_its_own() -> None:
    async def scenario() -> None:
        with pytest.raises(ZeroDivisionError), until(Deadlines(), asyncio.get_running_loop().time() - 1):
            raise ZeroDivisionError

    in_loop(scenario())
    in_loop(scenario())  # another event loop has a timer of its own
