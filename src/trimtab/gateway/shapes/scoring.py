"""Rows for an MLflow model: what `/invocations` and `/predict` carry when one is served; and rows in CSV for any model.

The boundary: a body goes to the engine as it came, in JSON, CSV or Parquet, and so does the answer, which is read on
`/predict` only. What the rows must be is the model's to say: its signature is in the engine. For a language model the
texts of a CSV are read here, from the column `input` or the only one. Protocol: mlflow.org, "Deploy MLflow Model as a
Local Inference Server".
"""

from __future__ import annotations

import csv
import io
from typing import Any

import msgspec

from trimtab.gateway import shapes
from trimtab.gateway.routes import Entity
from trimtab.gateway.shapes import Asked, Completion, Fault, Named, Operation, invocations

CSV, PARQUET = "text/csv", "application/vnd.apache.parquet"
BATCH = "invocations/batch"
"""The end of the path to which the fast path sends rows of several requests together (`providers.scoring`)."""
_OPERATIONS: dict[str, Operation] = {CSV: "invocations/csv", PARQUET: "invocations/parquet"}


class Invoked(Named, kw_only=True):
    """What the gateway reads of a JSON body; the rest is the engine's."""

    stream: bool | None = None


class Row(Named, kw_only=True):
    """`POST /predict` of one row: named (an object), in the signature's order (a list), or a single value."""

    input: msgspec.Raw
    params: msgspec.Raw = msgspec.Raw(b"")


class _Predictions(msgspec.Struct):
    predictions: msgspec.Raw


_INVOKED = msgspec.json.Decoder(Invoked)
_ROW = msgspec.json.Decoder(Row)
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_PREDICTIONS = msgspec.json.Decoder(_Predictions)


def asked(body: bytes, content_type: bytes, scores: bool) -> Asked:
    """A scoring request in any format. `scores`: an MLflow model is served. Raises Fault 400 or 415."""
    media = _media(content_type)
    if not scores:
        return _texts(body) if media == CSV else invocations.asked(body) if media != PARQUET else _refuse_parquet()
    if media in _OPERATIONS:
        return Asked([[]], {}, _as_it_came, Named(), operation=_OPERATIONS[media], rows=body)
    read = shapes.read(body, _INVOKED)
    if read.stream:
        raise Fault(400, "unsupported_parameter", "rows are answered at once; leave stream out", "stream")
    return Asked([[]], {}, _as_it_came, read, operation="invocations", rows=body)


def is_json(content_type: bytes) -> bool:
    """Whether a body of this type is read as JSON, which is everything but CSV and Parquet."""
    return content_type.decode("latin-1").lower().partition(";")[0].strip() not in _OPERATIONS


def predict(body: bytes) -> Asked:
    """One row. Raises Fault 400."""
    read = shapes.read(body, _ROW)
    row, params = bytes(read.input), bytes(read.params)
    shape = b"dataframe_records" if row.startswith(b"{") else b"inputs"
    rows = b'{"%b":[%b]%b}' % (shape, row, b',"params":%b' % params if params else b"")
    return Asked([[]], {}, _one, read, operation="invocations", rows=rows)


def _media(content_type: bytes) -> str:
    """The type of a body that is not JSON; whatever else is said is taken for JSON. Raises Fault 415."""
    media, _, parameters = content_type.decode("latin-1").lower().partition(";")
    charset = parameters.strip().removeprefix("charset=").strip('"')
    if media.strip() in _OPERATIONS and charset not in ("", "utf-8"):
        raise Fault(415, "unsupported_media_type", f"{charset} is not read here; send UTF-8")
    return media.strip()


def _texts(body: bytes) -> Asked:
    """The texts of a CSV for a language model, with the answers of its other rows."""
    try:
        read = csv.DictReader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
        columns = list(read.fieldnames or ())
        column = "input" if "input" in columns or len(columns) != 1 else columns[0]
        texts = [row.get(column) for row in read]
    except (UnicodeDecodeError, csv.Error) as error:
        raise Fault(400, "invalid_body", f"the body is not CSV in UTF-8: {error}") from error
    if column not in columns:
        raise Fault(400, "invalid_body", f"the columns are {columns}; name the column of texts input")
    return invocations.asked(shapes.encode({"inputs": texts}))


def _refuse_parquet() -> Asked:
    message = "texts are read from JSON or CSV here, not from Parquet; MLflow models take it"
    raise Fault(415, "unsupported_media_type", message)


def _as_it_came(answers: list[Completion], request_id: str, entity: Entity) -> bytes:
    return answers[0].raw


def _one(answers: list[Completion], request_id: str, entity: Entity) -> bytes:
    """The only prediction; all of what the model said where that is not a list of one."""
    try:
        output: Any = _PREDICTIONS.decode(answers[0].raw).predictions
        if bytes(output).startswith(b"["):
            several = _LIST.decode(output)
            output = several[0] if len(several) == 1 else output
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Fault(502, "engine_error", f"the engine's answer holds no predictions: {error}") from error
    return shapes.encode({"output": output, "request_id": request_id, "version": entity.version})
