"""Deadlines for many requests at once, kept by one timer: `with until(when): …` raises TimeoutError when it is late.

What asyncio.timeout_at does, for a tenth of its CPU: it starts and cancels a timer of the event loop each time, here
whoever is late is looked for every 50 ms. The boundary: a clock and tasks; what is waited for is the caller's.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

TICK = 0.05
"""Seconds that a deadline may be missed by."""

_running: dict[asyncio.AbstractEventLoop, set[until]] = {}


class until:
    """The block is cancelled once the event loop's clock is past `when`, and raises TimeoutError instead."""

    __slots__ = ("_cancelling", "_late", "_task", "_when")

    def __init__(self, when: float) -> None:
        self._when, self._late = when, False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (only tasks can be cancelled, and all that waits here is in one)
        self._task, self._cancelling = task, task.cancelling()
        loop = task.get_loop()
        if loop not in _running:
            _running[loop] = set()
            loop.call_later(TICK, _tick, loop)
        _running[loop].add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _running[self._task.get_loop()].discard(self)
        # Cancelled by nobody else meanwhile: else that is what happened.
        if self._late and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def look(self, now: float) -> None:
        """Cancel the task, once, if it is late."""
        if self._when < now and not self._late:
            self._late = True
            self._task.cancel()


def _tick(loop: asyncio.AbstractEventLoop) -> None:
    now = loop.time()
    for one in [*_running[loop]]:
        one.look(now)
    if _running[loop]:
        loop.call_later(TICK, _tick, loop)
    else:
        del _running[loop]
