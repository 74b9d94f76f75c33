"""What clients send and what they get back, as values: every API's request becomes one `Asked`, and an engine's answers
become one body, or one stream of events, in the shape that was asked. One module an API; here is what they share.

The boundary: bytes in, values out and back; no connection, no clock. Everything wrong with a request is a `Fault`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from trimtab import averaging, masking
from trimtab.gateway.routes import Entity, Own
from trimtab.gateway.stream import Content, Relay, Usage, flat
from trimtab.providers.log_probabilities import tokens_of
from trimtab.responsible import log_odds, operating_points
from trimtab.store.journal import Attempt

T = TypeVar("T")
encode = msgspec.json.Encoder().encode
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
Operation = Literal["chat/completions", "embeddings", "invocations", "invocations/csv", "invocations/parquet"]
"""What an engine is asked to do: the end of its path. Rows go to an MLflow model's engine in one of three formats."""


class Fault(Exception):
    """A request that gets an error instead of an answer. `code` is stable, `param` names the field at fault, `kind` is
    OpenAI's type of error where it is not told by the status, `headers` are complete lines."""

    upstream_status: int | None = None
    """What the upstream answered, when this is about its answer."""
    retry_after: float | None = None
    """Seconds after which the same request may succeed."""
    attempts: tuple[Attempt, ...] = ()
    """What was tried."""

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
        tried = {"attempts": [msgspec.structs.asdict(one) for one in self.attempts]} if self.attempts else {}
        if path.endswith("/invocations"):
            code = _MLFLOW_CODES.get(self.status, "BAD_REQUEST")
            return encode({"error_code": code, "message": self.message, **tried})
        kind = self.kind or ("server_error" if self.status >= 500 else "invalid_request_error")
        error = {"message": self.message, "type": kind, "code": self.code, "param": self.param, **tried}
        return encode({"error": error})


# What is asked

NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


class Named(msgspec.Struct, kw_only=True):
    """Whom a question is for and from, in every API."""

    model: str | None = None
    client_request_id: str | int | None = None
    user: str | None = None
    safety_identifier: str | None = None


class Sampling(Named, kw_only=True):
    """The decoding parameters a client may set for itself, in OpenAI's bounds."""

    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    max_tokens: Positive | None = None
    seed: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | list[str] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    logit_bias: dict[str, float] | None = None

    def chosen(self) -> dict[str, Any]:
        """The parameters that were given."""
        values = ((name, getattr(self, name)) for name in SAMPLING)
        return {name: value for name, value in values if value is not None}


SAMPLING = tuple(name for name in Sampling.__struct_fields__ if name not in Named.__struct_fields__)


class StreamOptions(msgspec.Struct):
    """OpenAI's `stream_options`."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


# What engines answer


class _Reply(msgspec.Struct):
    content: Content = None


class _Choice(msgspec.Struct):
    message: _Reply


class Completion(msgspec.Struct):
    """An engine's plain answer; `raw` is the body it came in."""

    choices: Annotated[list[_Choice], msgspec.Meta(min_length=1)]
    usage: Usage = msgspec.field(default_factory=Usage)
    raw: bytes = b""

    def text(self) -> str:
        """The first choice's text."""
        return flat(self.choices[0].message.content)


class _Embedded(msgspec.Struct):
    data: Annotated[list[Any], msgspec.Meta(min_length=1)]
    usage: Usage = msgspec.field(default_factory=Usage)


Render = Callable[[list[Completion], str, Entity], bytes]
"""The body of a plain answer, from the engine's answers, the request id and the version."""
Tell = Callable[[str, Entity], Relay]
"""The relay of a streamed answer, from the request id and the version."""


def as_it_comes(request_id: str, entity: Entity) -> Relay:
    """The engine's own events, less the usage that only the gateway asked for."""
    return Relay()


class Asked(msgspec.Struct, eq=False):
    """A request in one shape: conversations to continue (one, or one for each row of a batch) and how to reply.

    `sampling` is the client's to choose. `fields` goes to the engine too, but the version's own value of one stands:
    see `check`. Messages are values or the JSON they came in.
    """

    conversations: list[list[Any]]
    sampling: dict[str, Any]
    render: Render
    named: Named
    input: str | None = None
    """The last thing the user said; None for a batch, whose rows are no single input."""
    stream: bool = False
    tell: Tell = as_it_comes
    """How a stream of events is told; it is one when `stream` is set."""
    fields: dict[str, Any] | None = None
    operation: Operation = "chat/completions"
    group: str | None = None
    """The group that the calling application declares, for thresholds that decide by it; it is kept nowhere."""
    rows: bytes | None = None
    """Rows for an MLflow model, as they came; None: a question for a language model."""

    @property
    def model(self) -> str | None:
        """The model that was asked for."""
        return self.named.model

    @property
    def client_request_id(self) -> str | None:
        """The client's own id of this request."""
        return None if self.named.client_request_id is None else str(self.named.client_request_id)

    @property
    def user(self) -> str | None:
        """Who the client says is asking."""
        return self.named.user or self.named.safety_identifier

    def input_text(self) -> str | None:
        """The last thing the user said; None for a batch."""
        return self.input

    def output_text(self, answers: list[Completion]) -> str | None:
        """The answer's text; None for a batch, and for vectors."""
        return answers[0].text() if len(answers) == 1 and self.operation == "chat/completions" else None


def check(asked: Asked, entity: Entity) -> None:
    """Raise Fault 400 for a field that is part of the version: its answer format, its adapters; and for what this kind
    of model cannot be asked."""
    if (asked.rows is not None) != (entity.protocol == "mlflow"):
        message = "the served version is an MLflow model: ask it at /predict or /invocations"
        if asked.rows is not None:
            message = "the served version is a language model now: ask it again"
        raise Fault(400, "not_supported", message)
    if entity.whole:
        _check_whole(asked, entity)
    for name in asked.fields or ():
        if name in entity.template.params:
            raise Fault(400, "unsupported_parameter", f"{name} is part of the served version; leave it out", name)


def _check_whole(asked: Asked, entity: Entity) -> None:
    """Raises Fault 400 for what has no majority, or no one score: a stream, several choices, tools, chance; and for
    log-probabilities of an answer that thresholds may have changed."""
    decides = entity.thresholds is not None
    for name, wanted in (
        ("stream", asked.stream),
        ("n", asked.sampling.get("n", 1) != 1),
        ("temperature", asked.sampling.get("temperature", 0) != 0),
        ("tools", bool((asked.fields or {}).get("tools"))),
        ("logprobs", decides and {"logprobs", "top_logprobs"} & asked.sampling.keys()),
    ):
        if wanted:
            how = "by thresholds on its score" if decides else "by the vote of several questions"
            message = f"the served version answers {how}, without {name}; leave it out"
            raise Fault(400, "unsupported_parameter", message, name)
    if decides and asked.group is not None and len(asked.conversations) > 1:
        raise Fault(400, "not_supported", "a declared group is that of one question: send the rows one by one")


def as_read(entity: Entity, conversation: list[Any]) -> list[list[Any]]:
    """The conversations that a version reads for one: it through the masks, or all of its counterfactual twins."""
    if entity.twins is None and not entity.masked:
        return [conversation]
    masked = _masked(entity.template.masks, conversation)
    return [masked] if entity.twins is None else list(entity.twins(masked))


def questions(asked: Asked, entity: Entity, conversation: list[Any]) -> list[tuple[Own, list[Any]]]:
    """What a version is asked for one conversation: all that it reads for it, under each order of its labels."""
    own = entity.own if asked.operation == "chat/completions" else entity.own[:1]
    return [(order, read) for read in as_read(entity, conversation) for order in own]


def growth(asked: Asked, entity: Entity) -> int:
    """By how many bytes at most a version reads more than was sent, in one question for each conversation: a neutral
    word, or that of another group, may be longer than the one it stands for."""
    if entity.twins is None and not entity.masked:
        return 0
    sent = [len(encode([msgspec.json.decode(encode(one)) for one in told])) for told in asked.conversations]
    read = [max(len(encode(one)) for one in as_read(entity, told)) for told in asked.conversations]
    return sum(max(0, after - before) for after, before in zip(read, sent, strict=True))


def vote(answers: list[Completion], usage: Usage) -> Completion:
    """The answer that most questions got, with the tokens that all of them took."""
    chosen = answers[averaging.agreed([one.text() for one in answers])]
    told = msgspec.json.decode(chosen.raw)
    counts = msgspec.to_builtins(usage)
    for name in ("prompt_tokens", "completion_tokens"):
        if name in told.get("usage", {}) and counts.get(name) is not None:
            told["usage"][name] = counts[name]
    if "total_tokens" in told.get("usage", {}):
        told["usage"]["total_tokens"] = (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)
    return Completion(chosen.choices, usage, encode(told))


def engine_request(asked: Asked, entity: Entity, own: Own, conversation: list[Any]) -> bytes:
    """The body for the engine: the version's template, with a conversation as it is read behind it (`questions`)."""
    if asked.rows is not None:
        return asked.rows
    if asked.operation == "embeddings":
        return encode(asked.fields)
    template = entity.template
    body: dict[str, Any] = {**(asked.fields or {}), **template.params, **own.params, **asked.sampling}
    body["messages"] = [*own.messages, *conversation]
    if "max_completion_tokens" in template.params and "max_tokens" in body:  # the older name is refused by some models
        body["max_completion_tokens"] = body.pop("max_tokens")
    if _by_group(asked, entity):
        body |= {"logprobs": True, "top_logprobs": log_odds.TOPS}
    if asked.stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return encode(body)


def _by_group(asked: Asked, entity: Entity) -> bool:
    """Whether thresholds decide the answer: those of a group that was declared, and that they know."""
    told = entity.thresholds
    return told is not None and asked.group in told["groups"] and asked.operation == "chat/completions"


def decided(asked: Asked, entity: Entity, answer: Completion) -> Completion:
    """An answer as the thresholds of the declared group decide it, without the log-probabilities that only we asked
    for."""
    if not _by_group(asked, entity):
        return answer
    told = msgspec.json.decode(answer.raw)
    choice, thresholds = told["choices"][0], entity.thresholds
    assert thresholds is not None  # noqa: S101 (there are some, of this group)
    question = encode(asked.conversations[0]).decode() if asked.input is None else asked.input
    said, tokens = answer.text(), tokens_of(choice)
    kept = operating_points.applied(thresholds, asked.group, question, said, tokens)
    if kept != said:
        choice["message"]["content"] = kept
    choice.pop("logprobs", None)
    return completion(encode(told))


def _masked(masks: msgspec.Raw, conversation: list[Any]) -> list[Any]:
    """A client's messages as the version may read them: without words for groups of people, if it was so registered."""
    messages = [msgspec.json.decode(encode(message)) for message in conversation]
    for mask in _masks(bytes(masks)):
        messages = [masking.masked_message(message, mask) for message in messages]
    return messages


@lru_cache(maxsize=64)
def _masks(told: bytes) -> list[Callable[[str], str]]:
    return [masking.masker(lexicon) for lexicon in msgspec.json.decode(told)]


def completion(body: bytes, operation: Operation = "chat/completions") -> Completion:
    """An engine's plain answer. Raises Fault 502 when it is not one."""
    if operation.startswith("invocations"):
        return Completion([], Usage(), body)
    try:
        if operation == "embeddings":
            usage = _EMBEDDED.decode(body).usage
            return Completion([], Usage(usage.prompt_tokens), body)
        answer = _COMPLETION.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        what = "list of embeddings" if operation == "embeddings" else "chat completion"
        raise Fault(502, "engine_error", f"the engine's answer is not a {what}: {error}") from error
    answer.raw = body
    return answer


def engine_fault(status: int, body: bytes) -> Fault:
    """What an engine's error means for the client: its own mistake (400), a busy engine (503) or a broken one (502)."""
    try:
        said = msgspec.json.decode(body)
        message = str(said["error"]["message"] if "error" in said else said["message"])
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        message = body[:200].decode(errors="replace")
    if status in (400, 413, 422):
        fault = Fault(400, "engine_rejected", f"the engine rejected the request: {message}")
    # Not 501 to the client too: clients try again after any 5xx, and this will never work. llama.cpp says 501 of
    # embeddings, and 500 of images.
    elif status == 501 or (status == 500 and " is not supported" in message):
        status, fault = 400, Fault(400, "not_supported", f"the served version cannot do this: {message}")
    elif status in (429, 503):
        fault = Fault(503, "engine_busy", f"the engine cannot take the request now: {message}")
    else:
        fault = Fault(502, "engine_error", f"the engine answered with status {status}: {message}")
    fault.upstream_status = status
    return fault


# Reading bodies

_COMPLETION = msgspec.json.Decoder(Completion)
_EMBEDDED = msgspec.json.Decoder(_Embedded)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """A body as a value. Raises Fault 400, with the place of the mistake."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        where = re.search(r"`\$\.?(\S*)`$", str(error))
        raise Fault(400, "invalid_body", str(error), where.group(1) if where else None) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Fault(400, "invalid_json", f"the body is not JSON: {error}") from error


def given(body: bytes, known: frozenset[str]) -> dict[str, msgspec.Raw]:
    """The fields of a body as they came, without those that are null. Raises Fault 400 for one that is not `known`:
    dropping it would be a lie, and passing it on would let a client reach into the engine."""
    fields = read(body, _FIELDS)
    if b"null" in body:
        fields = {name: value for name, value in fields.items() if bytes(value) != b"null"}
    if not fields.keys() <= known:
        name = min(fields.keys() - known)
        raise Fault(400, "unknown_parameter", f"unknown parameter {name!r}; leave it out", name)
    return fields
