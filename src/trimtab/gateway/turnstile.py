"""How many requests an upstream gets at once, and whether it gets any: a bounded queue and a circuit breaker.

The boundary: counts and clocks of one upstream in one process; no connection is known here. Times are the event loop's,
in seconds. A request takes a place (`enter`), gives it back (`leave`), and the one who judges attempts says how it
went (`succeeded`, `failed`, `rest`).
"""

from __future__ import annotations

import asyncio
import math
from collections import deque

SMOOTHING = 0.1
"""Weight of the newest request in the running mean of how long a place is held."""


class Full(Exception):
    """Nobody else may wait for this upstream. `retry_after`: seconds until a place in the queue should be free."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("too many requests are waiting for it")
        self.retry_after = retry_after


class Turnstile:
    """One upstream's places, queue and breaker."""

    __slots__ = (
        *("_failures", "_lent", "_places", "_queue", "_resting_until", "_seconds", "_taken", "_trying", "_waiting"),
    )

    def __init__(self, places: int, queue: int) -> None:
        self._places, self._queue = places, queue
        self._taken = self._lent = 0  # places given out here, and places in use on the fast path
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._seconds = 0.0
        self._failures = 0
        self._resting_until = 0.0
        self._trying = False

    def resize(self, places: int, queue: int) -> None:
        """Take other limits; who is in stays in."""
        self._places, self._queue = places, queue

    @property
    def empty(self) -> bool:
        """Whether nobody is in and nobody waits."""
        return not self._taken and not self._lent and not self._waiting

    def free(self) -> bool:
        """Take a place if one is free and nobody waits for it: the same as `enter`, for the common case."""
        if self._taken + self._lent < self._places and not self._waiting:
            self._taken += 1
            return True
        return False

    def free_at_once(self) -> bool:
        """The same, where the breaker has nothing to say either: `shut` need not be asked."""
        if self._resting_until or self._waiting or self._taken + self._lent >= self._places:
            return False
        self._taken += 1
        return True

    async def enter(self) -> None:
        """Take a place, in the order of arrival. Raises Full at once when the queue is as long as it may be."""
        if self.free():
            return
        if len(self._waiting) >= self._queue:
            raise Full(self._expected(len(self._waiting) + 1))
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._pass_on()  # the place came at the moment the request was given up
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise

    def leave(self, seconds: float) -> None:
        """Give the place back, after so long."""
        self._seconds += SMOOTHING * (seconds - self._seconds) if self._seconds else seconds
        if self._waiting:
            self._pass_on()
        else:
            self._taken -= 1

    def _pass_on(self) -> None:
        while self._waiting and self._taken + self._lent <= self._places:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)  # the place stays taken
                return
        self._taken -= 1

    def _expected(self, ahead: int) -> float:
        return max(1.0, math.ceil(ahead * self._seconds / self._places))

    # The fast path

    def spare(self) -> int:
        """Places that may be in use elsewhere now, those that are included."""
        return 0 if self._resting_until or self._waiting else max(0, self._places - self._taken)

    def lend(self, places: int, succeeded: bool) -> None:
        """So many places are in use elsewhere now, and whether any request there `succeeded` meanwhile."""
        self._lent = places
        if succeeded:
            self.succeeded()
        while self._waiting and self._taken + self._lent < self._places:
            self._taken += 1
            self._pass_on()

    # The breaker

    def shut(self, now: float) -> float:
        """Seconds it is not to be asked; 0: it may be. Behind a row of failures, one request at a time may try."""
        if not self._resting_until:
            return 0.0
        if now < self._resting_until:
            return self._resting_until - now
        if self._failures:
            if self._trying:
                return 1.0
            self._trying = True
        else:
            self._resting_until = 0.0
        return 0.0

    def succeeded(self) -> None:
        """It answered, with whatever: the breaker closes."""
        if self._failures or self._trying or self._resting_until:
            self._failures, self._resting_until, self._trying = 0, 0.0, False

    def failed(self, now: float, limit: int, seconds: float) -> None:
        """It did not answer, or answered that it is broken; `limit` times in a row open the breaker for `seconds`."""
        self._failures += 1
        self._trying = False
        if self._failures >= limit:
            self._resting_until = now + seconds

    def rest(self, until: float) -> None:
        """It asks to be left alone (Retry-After)."""
        self._trying = False
        self._resting_until = max(self._resting_until, until)

    def gave_up(self) -> None:
        """An attempt ended without a judgement, e.g. because the client hung up."""
        self._trying = False
