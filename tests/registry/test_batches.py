"""Rows that are read in C are the numbers that are read without it, or they are left alone; so are the answers."""

from __future__ import annotations

import ctypes
import json
import struct
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.native import build
from trimtab.providers.scoring import parts
from trimtab.registry import batches
from trimtab.registry.batches import SHAPES, Batches
from trimtab.registry.columns import Column, Reader, TensorReader

SOURCE = build.ROOMS / "registry" / "batch.c"
pytestmark = pytest.mark.skipif(not build.library_of(SOURCE).exists(), reason="it was not compiled: no C compiler")
NAMES = ["a", "b c", "ü"]
READER = Reader([Column(name, "double") for name in NAMES])
DIGITS = st.text("0123456789", min_size=1, max_size=25)
NUMBER = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(2**80), 2**80).map(str),
    st.tuples(st.sampled_from(["", "-"]), DIGITS, st.sampled_from(["", ".", "e", "E-", ".0e+"]), DIGITS).map("".join),
    st.sampled_from(["-0", "0.0", "1e999", "1e-999", "4.9e-324", "9007199254740993", "1.7976931348623159e308", "01"]),
)
ROW = st.lists(NUMBER, min_size=3, max_size=3)


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Batches:
    """The same source, every undefined operation an abort."""
    to = tmp_path_factory.mktemp("batch") / "batch.so"
    assert build.compiled(SOURCE, "-fsanitize=undefined", "-fno-sanitize-recover", to=to) == ""
    return Batches(ctypes.CDLL(str(to)), NAMES, len(NAMES))


def batch(*bodies: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(body)) + body for body in bodies)


@st.composite
def spelled(draw: st.DrawFn) -> bytes:
    """A body in one of the shapes, its names perhaps in another order, and now and then with bytes changed."""
    table, shape = draw(st.lists(ROW, min_size=1, max_size=3)), draw(st.sampled_from([*SHAPES, "inputs columns"]))
    names = draw(st.sampled_from([NAMES, NAMES, NAMES, NAMES[::-1], NAMES[:2], [*NAMES, "d"]]))
    comma = draw(st.sampled_from([",", ", ", "\n,"]))
    quoted = [json.dumps(name, ensure_ascii=draw(st.booleans())) for name in names]
    listed = "[" + comma.join("[" + comma.join(row) + "]" for row in table) + "]"
    named = (
        "["
        + comma.join("{" + comma.join(f"{n}:{v}" for n, v in zip(quoted, r, strict=False)) + "}" for r in table)
        + "]"
    )
    split = f'{{"columns":[{comma.join(quoted)}]{comma}"data":{listed}}}'
    key, _, kind = shape.partition(" ")
    value = split if key == "dataframe_split" else named if kind == "named" or key == "dataframe_records" else listed
    body = f'{{"{key}":{value}{draw(st.sampled_from(["", "", "", f"{comma}"]))}}}'.encode()
    if draw(st.integers(0, 3)) == 0:
        at, poison = (
            draw(st.integers(0, len(body))),
            draw(st.sampled_from([b"", b",", b"]", b"{", b"1", b"null", b"\xff"])),
        )
        body = body[:at] + poison + body[at + draw(st.integers(0, 2)) :]
    return body


@settings(max_examples=600, deadline=None)
@given(st.lists(spelled(), min_size=1, max_size=3))
def test_what_it_reads_is_what_is_read_without_it(native: Batches, bodies: list[bytes]) -> None:
    read = native.read(batch(*bodies), SHAPES)
    if read is None:
        return
    rows, counts = read
    expected = [READER.read(body) for body in bodies]
    assert all(one is not None for one in expected), bodies
    assert counts.tolist() == [len(one.array) for one in expected if one is not None]
    np.testing.assert_array_equal(rows, np.concatenate([one.array for one in expected if one is not None]))
    assert np.array_equal(np.signbit(rows), np.signbit(np.concatenate([one.array for one in expected if one])))


def test_the_usual_spellings_are_read(native: Batches) -> None:
    array = np.array([[1.5, -2, 3e-7], [4, 5, 6.25]])
    for shape, body in READER.write(array).items():
        read = native.read(batch(body, body), SHAPES)
        assert (read is not None) == (shape in SHAPES), shape
        if read is not None:
            np.testing.assert_array_equal(read[0], np.concatenate([array, array]))
            assert native.read(batch(body), [one for one in SHAPES if one != shape]) is None
    tensor = batches.load([], 3)
    assert tensor is not None
    body = TensorReader(np.dtype(np.float64), (-1, 3)).write(array)["inputs"]
    read = tensor.read(batch(body), SHAPES)
    assert read is not None
    np.testing.assert_array_equal(read[0], array)
    assert tensor.read(batch(READER.write(array)["dataframe_split"]), SHAPES) is None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.lists(st.binary(max_size=8), max_size=3))
def test_no_bytes_are_taken_for_a_batch_that_are_none(native: Batches, noise: bytes, bodies: list[bytes]) -> None:
    assert native.read(noise, SHAPES) is None or parts(noise) is not None
    assert parts(batch(*bodies)) == bodies
    assert parts(batch(*bodies) + b"\1\0\0\0") is None


NUMBERS = st.lists(st.integers(1, 4), min_size=1, max_size=5).flatmap(
    lambda counts: st.tuples(
        st.just(counts),
        st.lists(st.floats() | st.integers(-9, 9).map(float), min_size=sum(counts), max_size=sum(counts)),
    )
)


@settings(max_examples=200, deadline=None)
@given(NUMBERS, st.sampled_from([np.float64, np.float32, np.int64, np.bool_]))
def test_every_request_gets_its_own_predictions(native: Batches, told: Any, dtype: Any) -> None:
    counts, values = told
    predicted = np.array(values) if dtype == np.float64 else np.nan_to_num(values).clip(-9, 9).astype(dtype)
    answer = native.answer(predicted, np.array(counts))
    assert answer is not None
    whole, at = list(read_answers(answer)), 0
    assert len(whole) == len(counts)
    for count, body in zip(counts, whole, strict=True):
        assert body == msgspec.json.encode({"predictions": predicted[at : at + count].tolist()})
        at += count
    assert native.answer(predicted[:-1], np.array(counts)) is None
    assert native.answer(np.array([[1.0]]), np.array([1])) is None
    assert native.answer(np.array(["a"]), np.array([1])) is None


def read_answers(answer: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(answer):
        status, size = struct.unpack_from("<HI", answer, at)
        assert status == 200
        yield answer[at + 6 : at + 6 + size]
        at += 6 + size
