"""MLflow's scoring protocol and Databricks', `POST /invocations` and `POST /serving-endpoints/{name}/invocations`.

The boundary: rows with one text each (`dataframe_split`, `dataframe_records`, `inputs`, `instances`) are answered here
with `{"predictions": […]}`; the keys that language models have there are other APIs' requests and answered in those
APIs' shapes: `messages` a chat completion, `prompt` a text completion, `input` a Responses request (a text, or items
as for an MLflow ResponsesAgent) or, when it is a list of texts, embeddings. Protocols: mlflow.org "Deploy MLflow Model
as a Local Inference Server", docs.databricks.com "Query serving endpoints".
"""

from __future__ import annotations

from typing import Any

import msgspec

from trimtab.gateway import shapes
from trimtab.gateway.routes import Entity
from trimtab.gateway.shapes import Asked, Completion, Fault, Sampling, chat, completions, embeddings, responses


class Split(msgspec.Struct):
    """A table: the names of its columns, and its rows."""

    columns: list[str]
    data: list[list[Any]]
    index: Any = None


class Invocations(Sampling, kw_only=True):
    """The request, in any of the shapes."""

    dataframe_split: Split | None = None
    dataframe_records: list[Any] | None = None
    inputs: Any = None
    instances: Any = None
    messages: Any = None
    prompt: Any = None
    input: Any = None
    params: Sampling | None = None
    stream: bool | None = None


_INVOCATIONS = msgspec.json.Decoder(Invocations)
_ROWS = ("dataframe_split", "dataframe_records", "inputs", "instances")
_MODELS = ("messages", "prompt", "input")


def asked(body: bytes) -> Asked:
    """Any of the shapes. Raises Fault 400."""
    read = shapes.read(body, _INVOCATIONS)
    present = [name for name in (*_ROWS, *_MODELS) if getattr(read, name) is not None]
    if len(present) != 1:
        names = ", ".join((*_ROWS, *_MODELS))
        raise Fault(400, "invalid_body", f"the body must contain exactly one of {names}")
    (name,) = present
    if name == "messages":
        return chat.asked(body)
    if name == "prompt":
        return completions.asked(body)
    if name == "input":
        texts = isinstance(read.input, list) and bool(read.input) and isinstance(read.input[0], str)
        return embeddings.asked(body) if texts else responses.asked(body)
    if read.stream:
        message = f"rows are answered at once; a stream takes one of {', '.join(_MODELS)}"
        raise Fault(400, "unsupported_parameter", message, "stream")
    sampling = read.chosen() | (read.params.chosen() if read.params else {})
    return Asked([[chat.user(text)] for text in _texts(read, name)], sampling, _render, read)


def _texts(read: Invocations, name: str) -> list[str]:
    """The texts of a batch: plain strings, or the column `input`."""
    rows: Any = _column(read.dataframe_split) if read.dataframe_split is not None else getattr(read, name)
    if isinstance(rows, dict):
        rows = rows.get("input")
    if isinstance(rows, str):
        rows = [rows]
    if not isinstance(rows, list) or not rows:
        raise Fault(400, "invalid_body", f"{name} must hold at least one row with a text in the column input", name)
    return [_text(name, index, row) for index, row in enumerate(rows)]


def _text(name: str, index: int, row: Any) -> str:
    text = row.get("input") if isinstance(row, dict) else row
    if isinstance(text, list) and len(text) == 1:  # a tensor of one column
        text = text[0]
    if not isinstance(text, str):
        message = f"row {index} of {name} must be a text, or have one in the column input"
        raise Fault(400, "invalid_body", message, f"{name}[{index}]")
    return text


def _column(split: Split) -> list[Any]:
    if "input" not in split.columns:
        message = f"the columns are {split.columns}; name the column of texts input"
        raise Fault(400, "invalid_body", message, "dataframe_split.columns")
    at = split.columns.index("input")
    return [row[at] if at < len(row) else None for row in split.data]


def _render(answers: list[Completion], request_id: str, entity: Entity) -> bytes:
    return shapes.encode({"predictions": [answer.text() for answer in answers]})
