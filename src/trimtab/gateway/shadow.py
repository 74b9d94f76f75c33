"""Shadow traffic: which requests are copied to another version, and what that may cost in a day.

The boundary: draws, counts and owns the tasks; what a copy does is the caller's. A copy starts after the caller's last
byte was handed over, at most IN_FLIGHT at once: what comes meanwhile is not copied, for nothing may wait for a shadow.
The day's budget is a file beside the journal that every worker appends to, so that it holds over restarts.
"""

from __future__ import annotations

import asyncio
import os
import random
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from trimtab.gateway.routes import Shadow
from trimtab.providers.prices import NANO

IN_FLIGHT = 4
"""Copies in progress at once, for each worker."""

_SPENT = struct.Struct("<IIQ")  # requests, tokens, nano-USD


class Spent(NamedTuple):
    """What a copy took."""

    tokens: int = 0
    nano_usd: int = 0


class Shadows:
    """The copies of one worker."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tasks: set[asyncio.Task[None]] = set()
        self._day, self._fd, self._read = "", -1, 0
        self._requests = self._tokens = self._nano_usd = 0

    @property
    def busy(self) -> bool:
        """Whether a copy is in progress."""
        return bool(self._tasks)

    def offer(self, limits: Shadow, copy: Callable[[], Awaitable[Spent]]) -> None:
        """Perhaps start a copy; `copy` returns what it took. When it is not this request's turn, costs a draw."""
        if random.random() * 100 >= limits.percent or len(self._tasks) >= IN_FLIGHT:  # noqa: S311 (a sample)
            return
        with suppress(OSError):  # what cannot be counted is not spent
            self._look()
            if self._requests >= limits.requests_per_day or self._tokens >= limits.tokens_per_day:
                return
            if limits.usd_per_day is not None and self._nano_usd >= limits.usd_per_day * NANO:
                return
            self._spend(1, Spent())
            task = asyncio.get_running_loop().create_task(self._run(copy))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Cut the copies in progress."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def _run(self, copy: Callable[[], Awaitable[Spent]]) -> None:
        spent = await copy()
        with suppress(OSError):
            self._spend(0, spent)

    def _spend(self, requests: int, spent: Spent) -> None:
        os.write(self._fd, _SPENT.pack(requests, min(spent.tokens, 2**32 - 1), min(spent.nano_usd, 2**64 - 1)))

    def _look(self) -> None:
        """Read what all workers have spent today since the last look."""
        day = time.strftime("%Y%m%d", time.gmtime())
        if day != self._day:
            if self._fd >= 0:
                os.close(self._fd)
            path = self._folder / f"shadow-usd-{day}.spent"
            self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._day, self._read = day, 0
            self._requests = self._tokens = self._nano_usd = 0
        data = os.pread(self._fd, 2**24, self._read)
        whole = len(data) - len(data) % _SPENT.size
        for requests, tokens, nano_usd in _SPENT.iter_unpack(data[:whole]):
            self._requests += requests
            self._tokens += tokens
            self._nano_usd += nano_usd
        self._read += whole
