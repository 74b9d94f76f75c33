"""The structures that Python and `fast_path.c` share, as `state.h` has them, and the functions of the library.

`fast_size` tells the sizes in C: `fast_path.load` compares them.
"""

from __future__ import annotations

import ctypes
import errno
from ctypes import POINTER, Structure, c_double, c_int, c_int32, c_int64, c_void_p

from trimtab.gateway.keys import Key
from trimtab.gateway.ledger import Reserved

SEGMENTS, DEMANDS, BUDGETS = 4096, 8, 3
HANDED, WRITTEN = 1, 2
"""What `fast_linger` returns."""
CHAT, ROWS, ONE_ROW = range(3)
"""What is asked on a route."""
SPOILED = 2
"""`Shared.blocked` when half a frame could not be cut off the journal."""
TIMED_OUT = errno.ETIMEDOUT


class Span(Structure):
    """Bytes that somebody else keeps."""

    _fields_ = (("at", c_void_p), ("size", c_int64))

    def bytes(self) -> bytes:
        """A copy."""
        return ctypes.string_at(self.at, self.size) if self.size else b""


class _Holding(Structure):
    """A structure that keeps the bytes which its spans point to."""

    def hold(self, name: str, data: bytes) -> None:
        """Point a span to these bytes."""
        setattr(self, name, self._span(data))

    def _span(self, data: bytes) -> Span:
        self._kept: list[bytes] = [*getattr(self, "_kept", ()), data]
        return Span(ctypes.cast(ctypes.c_char_p(data), c_void_p).value, len(data))


class Rate(Structure):
    """`keys.Rate`; a count of 0 is no limit."""

    _fields_ = (("count", c_int64), ("each_ns", c_int64))


class Budget(Structure):
    """`keys.Budget`; per -1: none."""

    _fields_ = (("nano_usd", c_int64), ("per", c_int64))


class Limits(Structure):
    """What a key may use, and where that is written down."""

    _fields_ = (
        ("limited", c_int64),
        ("base", c_int64),
        ("tag", c_int64),
        ("requests", Rate),
        ("tokens", Rate),
        ("budgets", Budget * BUDGETS),
    )


class Reserve(Structure):
    """`ledger.Reserved`."""

    _fields_ = (
        ("slot", c_int64),
        ("tokens", c_int64),
        ("nano_usd", c_int64),
        ("periods", c_int64 * BUDGETS),
        ("requests_full", c_int64),
        ("tokens_full", c_int64),
        ("refunded", c_int64),
    )


class Book(Structure):
    """The ledger's words, and the month of now."""

    _fields_ = (
        ("words", c_void_p),
        ("size", c_int64),
        ("fd", c_int64),
        ("month", c_int64),
        ("month_ends", c_int64),
    )


class Demand(Structure):
    """`routes.Demand`; -1: None."""

    _fields_ = (
        ("prompt_bytes", c_int64),
        ("longest", c_int64),
        ("input_price", c_int64),
        ("output_price", c_int64),
        ("questions", c_int64),
    )


class Cells(Structure):
    """Where the meter counts."""

    _fields_ = tuple(
        (name, c_int64)
        for name in ("requests", "http", "duration", "first_token", "overhead", "input", "output", "attempts")
    )


class RouteSpec(_Holding):
    """A version as callers of one route get it."""

    _fields_ = (
        ("asks", c_int64),
        ("place", c_int64),
        ("named", c_int64),
        ("priced", c_int64),
        ("price", c_int64 * 4),
        ("demanded", c_int64),
        ("demands", Demand * DEMANDS),
        ("cells", Cells),
        ("first_byte_seconds", c_double),
        ("connect_seconds", c_double),
        ("head", Span),
        ("messages", Span),
        ("row", Span),
        ("shown", Span),
        ("version", Span),
        ("names", Span * 3),
        ("params", POINTER(Span)),
        ("named_as", c_int64),
        ("params_given", c_int64),
    )

    def hold_names(self, names: list[bytes]) -> None:
        """What a request may call the model: three names at most."""
        self.named_as = len(names)
        for place, name in enumerate(names):
            self.names[place] = self._span(name)

    def hold_params(self, params: list[bytes]) -> None:
        """The version's parameters: names and values in turn."""
        self.params_given = len(params) // 2
        self.params = (Span * max(1, len(params)))(*map(self._span, params))


class CallerSpec(_Holding):
    """A client's head, and who that is."""

    _fields_ = (
        ("before", Span),
        ("after", Span),
        ("row", Span),
        ("path", Span),
        ("patience", c_double),
        ("until_ms", c_int64),
        ("limits", Limits),
    )


class Bounds(Structure):
    """Upper bounds of a histogram's buckets, rising."""

    _fields_ = (("known", c_int64), ("upper", c_double * 24))

    def take(self, bounds: tuple[float, ...]) -> None:
        """These bounds; 24 at most."""
        self.known, self.upper[: len(bounds)] = len(bounds), bounds


class Shared(Structure):
    """What both sides look at."""

    _fields_ = (
        ("most_body", c_int64),
        ("behind", c_int64),
        ("read_seconds", c_double),
        ("idle_seconds", c_double),
        ("seconds", Bounds),
        ("overhead_seconds", Bounds),
        ("journal_fd", c_int64),
        ("journal_size", c_int64),
        ("segment", c_int64),
        ("blocked", c_int64),
        ("draining", c_int64),
        ("book", Book),
        ("cells", c_void_p),
        ("counted", c_int64),
        ("written", c_int64),
        ("touched", c_int64),
        ("connections", c_int64),
        ("in_flight", c_int64),
        ("open_rows", c_int32 * SEGMENTS),
        ("date", ctypes.c_char * 48),
    )


class Counts(Structure):
    """`stream.Usage`; -1: None."""

    _fields_ = tuple((name, c_int64) for name in ("prompt", "completion", "cached", "written", "reasoning"))


class Handed(Structure):
    """What the loop gives back: a connection, and the request in progress on it."""

    _fields_ = (
        *(
            (name, c_int64)
            for name in (
                *("kind", "id", "fd", "requested", "status", "complete", "lost", "kept", "silent", "error", "done"),
                *("started", "answered"),
            )
        ),
        *((name, Span) for name in ("unread", "unsent", "request_id", "body", "head", "data", "sent", "rest")),
        *((name, c_double) for name in ("at", "began", "first_byte", "engine_seconds", "journal_seconds", "until")),
        *((name, c_int64) for name in ("at_ms", "prompt", "admitted_ns", "segment", "is_reserved")),
        ("reserved", Reserve),
        ("usage", Counts),
    )


MIRRORED: tuple[type[Structure], ...] = (Shared, RouteSpec, CallerSpec, Handed)
"""In the order of `fast_size`."""


def declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """The library, with the types of its functions said."""
    signatures = {
        "fast_new": (c_void_p, [POINTER(Shared)]),
        "fast_fd": (c_int, [c_void_p]),
        "fast_size": (c_int64, [c_int]),
        "fast_place": (c_int64, [c_void_p, ctypes.c_char_p, c_int64]),
        "fast_allow": (c_int64, [c_void_p, c_int64, c_int64, POINTER(c_int64)]),
        "fast_route": (c_void_p, [c_void_p, POINTER(RouteSpec)]),
        "fast_change": (None, [c_void_p, POINTER(c_void_p), c_int64]),
        "fast_adopt": (c_int64, [c_void_p, c_int, c_void_p, POINTER(CallerSpec), ctypes.c_char_p, c_int64]),
        "fast_poll": (c_int, [c_void_p]),
        "fast_linger": (c_int, [c_void_p, c_int, c_double]),
        "fast_tick": (None, [c_void_p]),
        "fast_drain": (None, [c_void_p]),
        "fast_cut": (None, [c_void_p]),
        "fast_next": (POINTER(Handed), [c_void_p]),
        "fast_free": (None, [c_void_p]),
    }
    for name, (returns, takes) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = returns, takes
    return library


def reserved_of(one: Reserve, key: Key | None) -> Reserved:
    """What a request holds, as the ledger knows it."""
    budgets = 0 if key is None else len(key.budgets)
    return Reserved(
        one.slot, one.tokens, one.nano_usd, one.periods[:budgets], one.requests_full, one.tokens_full, one.refunded
    )
