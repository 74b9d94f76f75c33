"""Rows read without a DataFrame: the numbers that were sent, in the signature's order, or nothing at all."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.registry.columns import Column, Reader, TensorReader

TYPES = {"double": np.float64, "long": np.int64, "integer": np.int32}
names = st.lists(st.sampled_from(["a", "b c", "ü", "c0", "params"]), min_size=1, max_size=5, unique=True)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[Column], list[list[Any]]]:
    columns = [Column(name, draw(st.sampled_from(sorted(TYPES)))) for name in draw(names)]
    cells = {
        "double": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53),
        "long": st.integers(-(2**53), 2**53),
        "integer": st.integers(-(2**31), 2**31 - 1),
    }
    row = st.tuples(*(cells[column.type] for column in columns)).map(list)
    return columns, draw(st.lists(row, min_size=1, max_size=4))


@settings(max_examples=40)
@given(tables(), st.randoms())
def test_every_shape_gives_the_same_numbers_in_the_order_of_the_signature(table: Any, random: Any) -> None:
    columns, data = table
    reader, order = Reader(columns), [column.name for column in columns]
    expected = np.array(data, dtype=np.result_type(*(TYPES[column.type] for column in columns)))
    for shape, body in reader.write(expected).items():
        if expected.dtype != np.float64 or all(column.type == "double" for column in columns):
            rows = reader.read(body)
            assert rows is not None, body
            assert (rows.shape, rows.array.dtype) == (shape, expected.dtype)
            np.testing.assert_array_equal(rows.array, expected)
    shuffled = random.sample(range(len(order)), len(order))
    split = {"columns": [order[at] for at in shuffled], "data": [[row[at] for at in shuffled] for row in data]}
    rows = reader.read(json.dumps({"dataframe_split": split, "params": {}}).encode())
    assert rows is not None
    np.testing.assert_array_equal(rows.array, expected)


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [[1.5, 2, 3]]},  # a column too many
        {"inputs": [[1.5]]},
        {"inputs": []},
        {"inputs": [[1.5, 2], {"x": 1.5, "n": 2}]},
        {"inputs": {"x": [1.5, 2.5], "n": [2]}},  # columns of unequal length
        {"inputs": [["1.5", 2]]},
        {"inputs": [[1.5, 2.5]]},  # no whole number
        {"inputs": [[1.5, None]]},
        {"inputs": [[1.5, True]]},
        {"inputs": [[1.5, 2**63]]},
        {"instances": [[1.5, 2]], "inputs": [[1.5, 2]]},
        {"dataframe_records": [{"x": 1.5}]},
        {"dataframe_split": {"columns": ["x", "y"], "data": [[1.5, 2]]}},
        {"dataframe_split": {"columns": ["n", "x"], "data": [[2, 1.5], [2]]}},
        {"dataframe_split": {"columns": ["x", "x", "n"], "data": [[1.5, 1.5, 2]]}},
        {"inputs": [[1.5, 2]], "params": {"a": 1}},
        {},
        [],
    ],
)
def test_anything_else_is_left_to_mlflow(body: Any) -> None:
    assert Reader([Column("x", "double"), Column("n", "long")]).read(json.dumps(body).encode()) is None


def test_what_is_no_json_is_left_to_mlflow_too() -> None:
    reader = Reader([Column("x", "double")])
    for body in (b"", b"{", b"\xff", b'{"inputs": [[NaN]]}', b'{"inputs": [[1e999]]}', b'{"a":' * 5000):
        assert reader.read(body) is None


@pytest.mark.parametrize(
    "columns",
    [
        [],
        [Column("a", "string")],
        [Column("a", "double"), Column("a", "double")],
        [Column("a", "float"), Column("b", "double")],
        [Column("a", "boolean")],
    ],
)
def test_a_signature_of_anything_but_numbers_has_no_reader(columns: list[Column]) -> None:
    with pytest.raises(ValueError, match=r"numbers|floats"):
        Reader(columns)


def test_a_tensor_of_rows_is_read_and_no_other() -> None:
    reader = TensorReader(np.dtype("float32"), (-1, 2))
    rows = reader.read(b'{"inputs": [[1, 2.5], [3, 4]]}')
    assert rows is not None
    assert rows.array.dtype == np.float32
    np.testing.assert_array_equal(rows.array, [[1, 2.5], [3, 4]])
    for body in (b'{"inputs": [[1]]}', b'{"inputs": [[1, 2], [3]]}', b'{"inputs": []}', b'{"instances": [["a", 1]]}'):
        assert reader.read(body) is None
    with pytest.raises(ValueError, match="not rows"):
        TensorReader(np.dtype("float32"), (-1, 2, 2))
