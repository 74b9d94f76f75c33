"""The rows of a request as one array, read straight from its JSON by a model's signature.

The boundary: bytes in, a NumPy array out, or None when the body is anything but rows of plain numbers in the columns
that the signature names; then MLflow's own way is taken, and MLflow's own error is the answer. No DataFrame is built:
that, and enforcing the schema on it, is nearly all that MLflow's scoring server does for a small model.
"""

from __future__ import annotations

import operator
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np

_TYPES: dict[str, tuple[Any, Any]] = {
    "double": (float, np.float64),
    "float": (float, np.float32),
    "long": (Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)], np.int64),
    "integer": (Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)], np.int32),
}
"""MLflow's numeric column types, as JSON and as NumPy have them. No booleans: pandas makes objects of them."""
SHAPES = ("dataframe_split", "dataframe_records", "inputs", "instances")


class Rows(NamedTuple):
    """Rows of one request, and the shape that they came in: a key of the body, and whether rows were named or lists."""

    array: np.ndarray
    shape: str


class Column(NamedTuple):
    """One column of a signature."""

    name: str
    type: str


class Reader:
    """Reads bodies for one signature. Raises ValueError when its columns are not all numbers."""

    def __init__(self, columns: list[Column]) -> None:
        unknown = [column for column in columns if column.type not in _TYPES]
        if unknown or not columns or len({column.name for column in columns}) != len(columns):
            raise ValueError(f"not columns of numbers: {unknown or columns}")
        self.names = [column.name for column in columns]
        self.width = len(columns)
        """Numbers in a row."""
        types = [_TYPES[column.type] for column in columns]
        self.dtype = np.result_type(*(dtype for _, dtype in types))
        if self.dtype != np.float32 and any(dtype is np.float32 for _, dtype in types):
            raise ValueError("32-bit floats among others: a column is rounded to them first")
        fields = [(f"c{number}", python) for number, (python, _) in enumerate(types)]
        renamed = {name: column.name for (name, _), column in zip(fields, columns, strict=True)}
        self._named: Any = msgspec.defstruct("Named", fields, rename=renamed)
        self._lists: Any = msgspec.defstruct("Lists", [(name, list[python]) for name, python in fields], rename=renamed)
        self._row: Any = tuple[tuple(python for python, _ in types)]  # pyright: ignore[reportInvalidTypeArguments]
        self.alike = len({column.type for column in columns}) == 1
        cells = list[self._row] if self.alike else list[tuple[Any, ...]]
        split: Any = msgspec.defstruct("Split", [("columns", list[str]), ("data", cells), ("index", Any, None)])
        self._split_type, either = split, self._named | self._row
        body: Any = msgspec.defstruct(
            "Body",
            [
                ("dataframe_split", split | None, None),
                ("dataframe_records", list[self._named] | None, None),
                ("inputs", self._lists | list[either] | None, None),
                ("instances", list[either] | None, None),
                ("params", msgspec.Raw, msgspec.Raw(b"null")),
            ],
        )
        self._decode = msgspec.json.Decoder(body).decode
        self._present = operator.attrgetter(*SHAPES)

    def read(self, body: bytes) -> Rows | None:
        """The rows of a body, or None."""
        try:
            told = self._decode(body)
            if bytes(told.params) not in (b"null", b"{}"):
                return None
            given = zip(SHAPES, self._present(told), strict=True)
            (found,) = [(name, value) for name, value in given if value is not None]
            return self._array(*found)
        except (msgspec.DecodeError, ValueError, OverflowError, RecursionError):
            return None

    def write(self, array: np.ndarray) -> dict[str, bytes]:
        """The same rows as a body in every shape, by the names that `Rows.shape` has."""
        data, names = array.tolist(), self.names
        records = [dict(zip(names, row, strict=True)) for row in data]
        columns = dict(zip(names, map(list, zip(*data, strict=True)), strict=True))
        bodies: dict[str, Any] = {
            "dataframe_split": {"dataframe_split": {"columns": names, "data": data}},
            "dataframe_records": {"dataframe_records": records},
            "inputs": {"inputs": data},
            "inputs named": {"inputs": records},
            "inputs columns": {"inputs": columns},
            "instances": {"instances": data},
            "instances named": {"instances": records},
        }
        return {shape: msgspec.json.encode(body) for shape, body in bodies.items()}

    def _array(self, shape: str, value: Any) -> Rows | None:
        if isinstance(value, self._split_type):
            return self._split(value)
        if isinstance(value, self._lists):
            columns = msgspec.structs.astuple(value)
            if len({len(column) for column in columns}) != 1 or not columns[0]:
                return None
            return Rows(np.array(columns, self.dtype).T, f"{shape} columns")
        kinds = {type(row) for row in value}
        if kinds == {tuple}:
            return Rows(np.array(value, self.dtype), shape)
        if kinds != {self._named}:
            return None  # none at all, or of both kinds
        named = shape if shape == "dataframe_records" else f"{shape} named"
        return Rows(np.array([msgspec.structs.astuple(row) for row in value], self.dtype), named)

    def _split(self, split: Any) -> Rows | None:
        width, data = self.width, split.data
        if split.index is not None or not data or len(split.columns) != width:
            return None
        if split.columns != self.names:
            if sorted(split.columns) != sorted(self.names) or any(len(row) != width for row in data):
                return None
            order = operator.itemgetter(*map(split.columns.index, self.names))
            data = [order(row) for row in data]
        if not self.alike:
            data = msgspec.convert(data, list[self._row])
        return Rows(np.array(data, self.dtype), "dataframe_split")


class TensorReader:
    """Reads bodies for a signature of one unnamed tensor of rows, e.g. float64 (-1, 4). ValueError: it is another."""

    def __init__(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        if len(shape) != 2 or shape[0] != -1 or not 0 < shape[1] <= 4096 or dtype.kind not in "fi":
            raise ValueError(f"not rows of numbers: {dtype} {shape}")
        python = float if dtype.kind == "f" else int
        self.dtype, self.width = dtype, shape[1]
        self.names, self.alike = list[str](), True
        rows = list[list[python]]
        fields = [(name, rows | None, None) for name in ("inputs", "instances")]
        body: Any = msgspec.defstruct("Body", [*fields, ("params", msgspec.Raw, msgspec.Raw(b"null"))])
        self._decode = msgspec.json.Decoder(body).decode

    def read(self, body: bytes) -> Rows | None:
        """The rows of a body, or None."""
        try:
            told = self._decode(body)
            if bytes(told.params) not in (b"null", b"{}") or (told.inputs is None) == (told.instances is None):
                return None
            shape = "inputs" if told.inputs is not None else "instances"
            array = np.array(told.inputs or told.instances, self.dtype)
        except (msgspec.DecodeError, ValueError, OverflowError, RecursionError):
            return None
        return Rows(array, shape) if array.ndim == 2 and array.shape[1] == self.width else None

    def write(self, array: np.ndarray) -> dict[str, bytes]:
        """The same rows as a body in every shape."""
        return {shape: msgspec.json.encode({shape: array.tolist()}) for shape in ("inputs", "instances")}
