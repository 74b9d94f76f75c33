"""The rows of a batch of requests, read into one array in C, and its answer: `batch.c`, where it was compiled.

The boundary: what it reads, `columns.Reader` reads to the same numbers; what it does not read is left to that one. The
switch of everything native, `TRIMTAB_FAST_PATH=off`, switches it off.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Sequence
from ctypes import POINTER, Structure, c_char_p, c_int64, c_void_p

import msgspec
import numpy as np

from trimtab import native

SHAPES = ("dataframe_split", "dataframe_records", "inputs", "inputs named", "instances", "instances named")
"""The shapes that are read, by their numbers there; the names are those of `columns.Rows.shape`."""
MOST_PARTS = 256
FRAME_BYTES = 32
"""Most bytes of a part's answer beside its predictions."""


class _Signature(Structure):
    _fields_ = (("names", POINTER(c_char_p)), ("sizes", POINTER(c_int64)), ("width", c_int64))


class Batches:
    """Reads batches (`providers.scoring`) for a signature of 64-bit floats, by the names of its columns in order (those
    of a tensor have none), and answers them with predictions that are numbers."""

    def __init__(self, library: ctypes.CDLL, names: Sequence[str], width: int) -> None:
        self._read, self._write = library.batch_read, library.batch_write
        self._read.restype = self._write.restype = c_int64
        self._read.argtypes = [c_char_p, c_int64, c_void_p, c_int64, c_void_p, c_int64, c_void_p, c_int64]
        self._write.argtypes = [c_char_p, c_int64, c_void_p, c_int64, c_char_p]
        told = [_spelt(name) for name in names] or [None] * width
        self._names = (c_char_p * width)(*told)
        self._sizes = (c_int64 * width)(*(-1 if name is None else len(name) for name in told))
        self._signature = _Signature(self._names, self._sizes, width)
        self._width = width
        self._rows = np.empty(MOST_PARTS, np.int64)
        self._make_room(4096)

    def read(self, batch: bytes, shapes: Collection[str]) -> tuple[np.ndarray, np.ndarray] | None:
        """All rows, one request's behind the other's, and how many each request has: both are good until the next call.
        None: this is no batch, or something in it has to be read otherwise."""
        if self._numbers.size < len(batch) // 2 + 1:
            self._make_room(len(batch))
        signature, numbers, counts = self._where
        allowed = sum(1 << number for number, shape in enumerate(SHAPES) if shape in shapes)
        parts = self._read(batch, len(batch), signature, allowed, numbers, self._numbers.size, counts, MOST_PARTS)
        if parts < 1:
            return None
        counts = self._rows[:parts]
        rows = int(counts.sum())
        return self._numbers[: rows * self._width].reshape(rows, self._width), counts

    def answer(self, predicted: np.ndarray, counts: np.ndarray) -> bytes | None:
        """The answer to a batch of so many rows a request. None when it is not one number for each row."""
        if predicted.ndim != 1 or predicted.dtype.kind not in "iufb":
            return None
        told = msgspec.json.encode(predicted.tolist())
        answer = ctypes.create_string_buffer(len(told) + FRAME_BYTES * len(counts))
        written = self._write(told, len(told), counts.ctypes.data, len(counts), answer)
        return None if written < 0 else answer.raw[:written]

    def _make_room(self, numbers: int) -> None:
        self._numbers = np.empty(numbers)
        self._where = ctypes.addressof(self._signature), self._numbers.ctypes.data, self._rows.ctypes.data


def load(names: Sequence[str], width: int) -> Batches | None:
    """A reader; None where it was not compiled, or is switched off."""
    library = native.library(__file__, "batch")
    return None if library is None else Batches(library, names, width)


def _spelt(name: str) -> bytes | None:
    """A name as it stands between quotes in JSON; None when it needs an escape, which is not read here."""
    plain = name.encode()
    return plain if msgspec.json.encode(name) == b'"%b"' % plain else None
