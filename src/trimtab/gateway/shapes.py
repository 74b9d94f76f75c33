"""What clients send and what they get back, as values: OpenAI's chat completions, /predict, MLflow's /invocations and
feedback all become one `Asked`, and an engine's answers become one body in the shape that was asked.

The boundary: bytes in, values out and back; no connection, no clock. Everything wrong with a request is a `Fault`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from trimtab.gateway.routes import Entity
from trimtab.gateway.stream import Usage

T = TypeVar("T")
_encode = msgspec.json.Encoder().encode
_MLFLOW_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "ENDPOINT_NOT_FOUND",
    429: "REQUEST_LIMIT_EXCEEDED",
    502: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_DECIDED_BY_VERSION = ("tools", "tool_choice", "functions", "function_call", "response_format")


class Fault(Exception):
    """A request that gets an error instead of an answer. `code` is stable, `param` names the field at fault, `kind` is
    OpenAI's type of error where it is not told by the status, `headers` are complete lines."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        *,
        kind: str | None = None,
        headers: bytes = b"",
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.kind, self.headers = kind, headers

    def body(self, path: str) -> bytes:
        """The error in the envelope that clients of this path expect: MLflow's or OpenAI's."""
        if path == "/invocations":
            return _encode({"error_code": _MLFLOW_CODES.get(self.status, "BAD_REQUEST"), "message": self.message})
        kind = self.kind or ("server_error" if self.status >= 500 else "invalid_request_error")
        error = {"message": self.message, "type": kind, "code": self.code, "param": self.param}
        return _encode({"error": error})


class Part(msgspec.Struct):
    """A piece of a message's content. The engine reads text only."""

    type: Literal["text"]
    text: str


class Message(msgspec.Struct, omit_defaults=True):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part]
    name: str | None = None

    def text(self) -> str:
        """The content as one string."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class Sampling(msgspec.Struct, kw_only=True):
    """The decoding parameters a client may set for itself, in OpenAI's bounds."""

    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    logit_bias: dict[str, float] | None = None

    def chosen(self) -> dict[str, Any]:
        """The parameters that were given."""
        values = ((name, getattr(self, name)) for name in Sampling.__struct_fields__)
        return {name: value for name, value in values if value is not None}


class _Body(Sampling, kw_only=True):
    """What every question may carry besides its text."""

    model: str | None = None
    client_request_id: str | int | None = None
    user: str | None = None
    safety_identifier: str | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Chat(_Body, kw_only=True):
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    response_format: Any = None


class _Predict(_Body, kw_only=True):
    input: str


class _Split(msgspec.Struct):
    columns: list[str]
    data: list[list[Any]]


class _Invocations(_Body, kw_only=True):
    dataframe_split: _Split | None = None
    dataframe_records: list[Any] | None = None
    inputs: Any = None
    instances: Any = None
    messages: Any = None
    params: Sampling | None = None


class FeedbackBody(msgspec.Struct, kw_only=True):
    """What a client tells us about an earlier answer."""

    request_id: str | None = None
    client_request_id: str | int | None = None
    name: Annotated[str, msgspec.Meta(min_length=1)] = "label"
    value: Annotated[dict[str, Any], msgspec.Meta(min_length=1)]
    source: Literal["human", "code", "llm_judge"] = "human"


class _Reply(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Reply


class Completion(msgspec.Struct):
    """An engine's plain answer; `raw` is the body it came in."""

    choices: Annotated[list[_Choice], msgspec.Meta(min_length=1)]
    usage: Usage = msgspec.field(default_factory=Usage)
    raw: bytes = b""

    def text(self) -> str:
        """The first choice's text."""
        return self.choices[0].message.content or ""


Render = Callable[[list[Completion], str, Entity], bytes]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request in one shape: conversations to continue (one, or one for each row of a batch) and how to reply."""

    conversations: list[list[Message]]
    sampling: dict[str, Any]
    render: Render
    model: str | None
    client_request_id: str | None
    user: str | None
    stream: bool = False
    include_usage: bool = False

    def input_text(self) -> str | None:
        """The last thing the user said; None for a batch, whose rows are no single input."""
        if len(self.conversations) != 1:
            return None
        return next((m.text() for m in reversed(self.conversations[0]) if m.role == "user"), None)

    def output_text(self, answers: list[Completion]) -> str | None:
        """The answer's text; None for a batch."""
        return answers[0].text() if len(answers) == 1 else None


def chat(body: bytes) -> Asked:
    """A chat completion. Raises Fault 400."""
    asked = _read(body, _CHAT)
    for name in _DECIDED_BY_VERSION:
        if getattr(asked, name):
            raise Fault(400, "unsupported_parameter", f"{name} is part of the served version; leave it out", name)
    sampling = asked.chosen()
    if asked.max_completion_tokens is not None:
        sampling["max_tokens"] = asked.max_completion_tokens
    options = asked.stream_options or _StreamOptions()
    return _asked(asked, [asked.messages], sampling, _render_chat, bool(asked.stream), bool(options.include_usage))


def predict(body: bytes) -> Asked:
    """One text. Raises Fault 400."""
    asked = _read(body, _PREDICT)
    return _asked(asked, [[Message("user", asked.input)]], asked.chosen(), _render_predict)


def invocations(body: bytes) -> Asked:
    """MLflow's scoring protocol: rows with one text each, or a chat completion. Raises Fault 400."""
    asked = _read(body, _INVOCATIONS)
    if asked.messages is not None:
        return chat(body)
    conversations = [[Message("user", text)] for text in _rows(asked)]
    sampling = asked.chosen() | (asked.params.chosen() if asked.params else {})
    return _asked(asked, conversations, sampling, _render_predictions)


def feedback(body: bytes) -> list[FeedbackBody]:
    """One piece of feedback or a list of them. Raises Fault 400."""
    read = _read(body, _FEEDBACK)
    items = read if isinstance(read, list) else [read]
    if not items:
        raise Fault(400, "invalid_body", "the list is empty; send at least one piece of feedback")
    for item in items:
        if item.request_id is None and item.client_request_id is None:
            raise Fault(400, "invalid_body", "name the answer by request_id or client_request_id", "request_id")
    return items


def engine_request(asked: Asked, entity: Entity, conversation: list[Message]) -> bytes:
    """The body for the engine: the version's template, with the client's messages behind its own."""
    template = entity.template
    body: dict[str, Any] = {**template.params, **asked.sampling, "messages": [*template.messages, *conversation]}
    if asked.stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return _encode(body)


def completion(body: bytes) -> Completion:
    """An engine's plain answer. Raises Fault 502 when it is not one."""
    try:
        answer = _COMPLETION.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Fault(502, "engine_error", f"the engine's answer is not a chat completion: {error}") from error
    answer.raw = body
    return answer


def engine_fault(status: int, body: bytes) -> Fault:
    """What an engine's error means for the client: its own mistake (400), a busy engine (503) or a broken one (502)."""
    try:
        message = msgspec.json.decode(body)["error"]["message"]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        message = body[:200].decode(errors="replace")
    if status in (400, 413, 422):
        return Fault(400, "engine_rejected", f"the engine rejected the request: {message}")
    if status in (429, 503):
        return Fault(503, "engine_busy", f"the engine cannot take the request now: {message}")
    return Fault(502, "engine_error", f"the engine answered with status {status}: {message}")


_CHAT = msgspec.json.Decoder(_Chat)
_PREDICT = msgspec.json.Decoder(_Predict)
_INVOCATIONS = msgspec.json.Decoder(_Invocations)
_FEEDBACK = msgspec.json.Decoder(FeedbackBody | list[FeedbackBody])
_COMPLETION = msgspec.json.Decoder(Completion)


def _read(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        where = re.search(r"`\$\.?(\S*)`$", str(error))
        raise Fault(400, "invalid_body", str(error), where.group(1) if where else None) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Fault(400, "invalid_json", f"the body is not JSON: {error}") from error


def _asked(
    body: _Body,
    conversations: list[list[Message]],
    sampling: dict[str, Any],
    render: Render,
    stream: bool = False,
    include_usage: bool = False,
) -> Asked:
    ident = None if body.client_request_id is None else str(body.client_request_id)
    user = body.user or body.safety_identifier
    return Asked(conversations, sampling, render, body.model, ident, user, stream, include_usage)


def _rows(asked: _Invocations) -> list[str]:
    """The texts of a batch: plain strings, or the column `input`."""
    given = {
        "dataframe_split": _records(asked.dataframe_split) if asked.dataframe_split else None,
        "dataframe_records": asked.dataframe_records,
        "inputs": asked.inputs,
        "instances": asked.instances,
    }
    present = {name: rows for name, rows in given.items() if rows is not None}
    if len(present) != 1:
        names = ", ".join([*given, "messages"])
        raise Fault(400, "invalid_body", f"the body must contain exactly one of {names}")
    ((name, rows),) = present.items()
    if isinstance(rows, dict):
        rows = rows.get("input")
    if isinstance(rows, str):
        rows = [rows]
    if not isinstance(rows, list) or not rows:
        raise Fault(400, "invalid_body", f"{name} must hold at least one row with a text in the column input", name)
    return [_text(name, index, row) for index, row in enumerate(rows)]


def _text(name: str, index: int, row: Any) -> str:
    text = row.get("input") if isinstance(row, dict) else row
    if not isinstance(text, str):
        message = f"row {index} of {name} must be a text, or have one in the column input"
        raise Fault(400, "invalid_body", message, f"{name}[{index}]")
    return text


def _records(split: _Split) -> list[Any]:
    if "input" not in split.columns:
        message = f"the columns are {split.columns}; name the column of texts input"
        raise Fault(400, "invalid_body", message, "dataframe_split.columns")
    at = split.columns.index("input")
    return [row[at] if at < len(row) else None for row in split.data]


def _render_chat(answers: list[Completion], request_id: str, entity: Entity) -> bytes:
    return answers[0].raw


def _render_predict(answers: list[Completion], request_id: str, entity: Entity) -> bytes:
    text = answers[0].text()
    output: Any = text
    try:
        parsed = msgspec.json.decode(text)
        if isinstance(parsed, dict):
            output = parsed
    except (msgspec.DecodeError, RecursionError):
        pass  # free text
    return _encode({"output": output, "request_id": request_id, "version": entity.version})


def _render_predictions(answers: list[Completion], request_id: str, entity: Entity) -> bytes:
    return _encode({"predictions": [answer.text() for answer in answers]})
