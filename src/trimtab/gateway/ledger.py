"""What each key has used: a small file that all gateways of a project map into memory and change under one lock.

The boundary: numbers in, numbers out; what a request is, and what a client is told, is known in `limits`.

A key has a slot of 16 little words of 64 bits: two token buckets (each the time at which it would be full again, GCRA)
and what was spent in this hour, day and month. A request reserves before it is asked and settles when it has ended:

- Concurrency: every change is made under an exclusive flock, so the gateways of one machine share one truth.
- kill -9: a word is stored in one piece, the kernel keeps the file and gives the lock back. What a killed gateway had
  reserved stays spent: budget is never given back twice, and no spending is lost.
- Power cut: a thread syncs the file once a second while it changes; at most that second is lost.
- Clock set back: a new period only ever begins forwards, so no budget comes back.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import sys
import threading
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import msgspec

from trimtab.gateway.keys import Budget, Key, Rate

SLOT_WORDS = 16
GROW_SLOTS = 256
SYNC_SECONDS = 1.0
_TAG, _REQUESTS, _TOKENS, _REFUNDED, _SPENT = 0, 1, 2, 3, 4
_PLACES = {"hour": _SPENT, "day": _SPENT + 2, "month": _SPENT + 4}
_SECOND = 1_000_000_000
_WRAP = 2**62  # what was refunded is only ever compared, so it may start over


class Reserved(msgspec.Struct, frozen=True):
    """What an admitted request holds until it ends. Times and waits are in ns."""

    slot: int
    tokens: int
    nano_usd: int
    periods: list[int]
    """The period that each of the key's budgets was charged in."""
    requests_full: int
    tokens_full: int
    """When the buckets would be full again, as this request left them."""
    refunded: int


class Refused(NamedTuple):
    """Why a request may not go on now: `requests`, `tokens` or a budget's period. `wait` None: it never may."""

    what: str
    wait: int | None


class Ledger:
    """An open ledger. Call it from one thread; any number of processes may have it open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._map: mmap.mmap | None = None
        self._words, self._size = memoryview(b"").cast("q"), 0
        self._dirty, self._stop = threading.Event(), threading.Event()
        self._synced = True  # False from a first change until the thread goes to sync it
        self._thread = threading.Thread(target=self._sync, name="trimtab-ledger", daemon=True)
        self._thread.start()

    def reserve(self, key: Key, now: int, tokens: int, nano_usd: int) -> Reserved | Refused:
        """Take a request, its tokens and its money at once, or nothing of it. `now` is epoch ns."""
        base = self._slot(key)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            return self._reserve(key, base, now, tokens, nano_usd)
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            self.changed()

    def settle(self, key: Key, reserved: Reserved, now: int, tokens: int, nano_usd: int) -> None:
        """Put what a request used in the place of what it had reserved. Call it once."""
        if key.tokens is None and not key.budgets:
            return
        base = self._slot(key)
        words = self._words
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            if words[base] != _tag(key.id):
                return  # the file was begun anew meanwhile
            if key.tokens is not None:
                self._settle_tokens(key.tokens, base, reserved, now, tokens)
            more = nano_usd - reserved.nano_usd
            for budget, period in zip(key.budgets, reserved.periods, strict=False):
                at = base + _PLACES[budget.per]
                if more > 0 or words[at] == period:
                    words[at + 1] += more
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            self.changed()

    def spent(self, key: Key, budget: Budget, now: int) -> int:
        """Nano-USD spent and reserved in the period of a moment."""
        at = self._slot(key) + _PLACES[budget.per]
        words = self._words
        return words[at + 1] if words[at - at % SLOT_WORDS] == _tag(key.id) and words[at] >= _period(budget, now) else 0

    def full_at(self, key: Key) -> tuple[int, int]:
        """When (epoch ns) the buckets of requests and of tokens would be full again."""
        base, words = self._slot(key), self._words
        return words[base + _REQUESTS], words[base + _TOKENS]

    # The fast path

    @property
    def mapped(self) -> object:
        """What the words are in: another one when the file has grown."""
        return self._map

    def words(self) -> tuple[int, int, int]:
        """Where the words are in memory, how many there are, and the descriptor whose flock they are changed under."""
        if self._map is None:
            return 0, 0, self._fd
        return ctypes.addressof(ctypes.c_char.from_buffer(self._map)), self._size, self._fd

    def changed(self) -> None:
        """Have the file synced, soon: its words were changed."""
        if self._synced:
            self._synced = False
            self._dirty.set()

    def close(self) -> None:
        """Sync and release."""
        self._stop.set()
        self._dirty.set()
        self._thread.join()
        self._words.release()
        if self._map is not None:
            self._map.close()
        os.close(self._fd)

    def _reserve(self, key: Key, base: int, now: int, tokens: int, nano_usd: int) -> Reserved | Refused:
        words, tag = self._words, _tag(key.id)
        if words[base] != tag:
            for word in range(base + 1, base + SLOT_WORDS):
                words[word] = 0
            words[base] = tag
        requests_full = tokens_full = 0
        if (rate := key.requests) is not None:
            requests_full, wait = _take(words[base + _REQUESTS], now, rate, 1)
            if wait != 0:
                return Refused("requests", wait)
        if (rate := key.tokens) is not None:
            tokens_full, wait = _take(words[base + _TOKENS], now, rate, tokens)
            if wait != 0:
                return Refused("tokens", wait)
        charged: list[tuple[int, int, int]] = []  # where, in which period, what is spent in it then
        for budget in key.budgets:
            at, period, spent = base + _PLACES[budget.per], _period(budget, now), nano_usd
            if words[at] >= period:
                period, spent = words[at], nano_usd + words[at + 1]
            if spent > budget.nano_usd:
                wait = None if nano_usd > budget.nano_usd else _period_end(budget, now) - now
                return Refused(budget.per, wait)
            charged.append((at, period, spent))
        # Nothing is refused from here on. Killed in between, it has taken too much rather than too little.
        for at, period, spent in charged:
            words[at + 1] = spent
            words[at] = period
        if requests_full:
            words[base + _REQUESTS] = requests_full
        if tokens_full:
            words[base + _TOKENS] = tokens_full
        periods = [period for _, period, _ in charged]
        return Reserved(base, tokens, nano_usd, periods, requests_full, tokens_full, words[base + _REFUNDED])

    def _settle_tokens(self, rate: Rate, base: int, reserved: Reserved, now: int, tokens: int) -> None:
        """More than reserved is a debt, of two buckets at most. Less is given back, as far as the bucket has not
        refilled over it: a full one cannot hold the difference, or a later burst would be larger than the limit."""
        words, each = self._words, rate.each_ns
        owed = (tokens - reserved.tokens) * each
        if owed > 0:
            full_at = max(words[base + _TOKENS], now) + owed
            words[base + _TOKENS] = min(full_at, now + 2 * rate.count * each)
            return
        since = (words[base + _REFUNDED] - reserved.refunded) % _WRAP
        refund = min(-owed, max(0, reserved.tokens_full - now - since))
        words[base + _REFUNDED] = (words[base + _REFUNDED] + refund) % _WRAP
        words[base + _TOKENS] -= refund

    def _slot(self, key: Key) -> int:
        """Where a key's words begin; the file grows when they are not there yet."""
        base = key.slot * SLOT_WORDS
        if base >= self._size:
            self._grow((key.slot // GROW_SLOTS + 1) * GROW_SLOTS * SLOT_WORDS * 8)
        return base

    def _grow(self, size: int) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            os.posix_fallocate(self._fd, 0, size)  # room on the disk now: a store into a hole of a full one kills
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        self._words.release()
        if self._map is not None:
            self._map.close()
        self._map = mmap.mmap(self._fd, os.fstat(self._fd).st_size)
        self._words = memoryview(self._map).cast("q")
        self._size = len(self._words)

    def _sync(self) -> None:
        while not self._stop.is_set():
            self._dirty.wait()
            self._dirty.clear()
            self._synced = True
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                print(f"the ledger {self._path} is not synced: {error}", file=sys.stderr, flush=True)
            self._stop.wait(SYNC_SECONDS)


def _take(full_at: int, now: int, rate: Rate, amount: int) -> tuple[int, int | None]:
    """A bucket after `amount` was taken, and 0; or how long to wait until it holds as much (None: it never does).

    The bucket holds `count` and gains `count` in each `seconds`. A level beyond one that could be owed honestly comes
    from a clock that was set back; it is cut.
    """
    each = rate.each_ns
    size = rate.count * each
    level = amount * each
    if full_at > now:
        level += min(full_at - now, 2 * size)
    if amount > rate.count:
        return full_at, None
    return (now + level, 0) if level <= size else (full_at, level - size)


def left(rate: Rate, full_at: int, now: int) -> int:
    """How much a bucket holds."""
    return max(0, rate.count + (now - full_at) // rate.each_ns) if full_at > now else rate.count


def place_of(key: Key) -> tuple[int, int]:
    """Where a key's words begin, and what stands in the first one."""
    return key.slot * SLOT_WORDS, _tag(key.id)


@lru_cache(4096)
def _tag(key_id: str) -> int:
    """What says in a slot whose it is."""
    return int.from_bytes(blake2b(key_id.encode(), digest_size=8).digest(), signed=True) | 1


def _period(budget: Budget, now: int) -> int:
    """The number of the calendar period (UTC) of a moment."""
    if budget.per == "month":
        moment = datetime.fromtimestamp(now // _SECOND, UTC)
        return moment.year * 12 + moment.month
    return now // ((3600 if budget.per == "hour" else 86400) * _SECOND)


def _period_end(budget: Budget, now: int) -> int:
    if budget.per == "month":
        moment = datetime.fromtimestamp(now // _SECOND, UTC)
        year, month = (moment.year + 1, 1) if moment.month == 12 else (moment.year, moment.month + 1)
        return int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * _SECOND
    return (_period(budget, now) + 1) * (3600 if budget.per == "hour" else 86400) * _SECOND
