"""OpenAI's chat completions, `POST /v1/chat/completions`: the engine's own shape, so that everything passes through.

The boundary: what OpenAI documents goes to the engine as it came; messages and decoding parameters are checked first.
Protocol: platform.openai.com/docs/api-reference/chat.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from trimtab.gateway import shapes
from trimtab.gateway.routes import Entity
from trimtab.gateway.shapes import Asked, Completion, Fault, Positive, Sampling, StreamOptions
from trimtab.gateway.stream import Relay

_EXTRAS = frozenset({"logprobs", "top_logprobs", "top_k", "min_p", "repeat_penalty", "repetition_penalty"})
"""What else a client may set though the version has a value of its own. The last four are not OpenAI's but engines'."""
_TYPED = frozenset(shapes.SAMPLING)
SAMPLING = _EXTRAS | _TYPED
_OWN = frozenset({"messages", "model", "client_request_id", "max_completion_tokens", "stream", "stream_options"})
"""What the gateway reads and answers for itself."""
NOTED = frozenset({"usage_context"})
"""Databricks' note on a request: kept in the row with the body, nothing for an engine."""
PASSED = frozenset(
    {
        *("audio", "function_call", "functions", "metadata", "modalities", "moderation", "parallel_tool_calls"),
        *("prediction", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning_effort"),
        *("response_format", "safety_identifier", "service_tier", "store", "thinking", "tool_choice", "tools", "user"),
        *("verbosity", "web_search_options"),
    }
)
"""What OpenAI documents besides (and `thinking`, which Databricks does): passed on as it came."""
KNOWN = SAMPLING | _OWN | NOTED | PASSED


class Part(msgspec.Struct):
    """A piece of a message's content. Only texts are read; an image, audio or a file passes through."""

    type: str
    text: str | None = None

    def __post_init__(self) -> None:
        if self.type == "text" and self.text is None:
            raise ValueError("a part of type text needs a text")


class Message(msgspec.Struct):
    """One message of a conversation, as far as the gateway reads it."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[Part], msgspec.Meta(min_length=1)] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    function_call: dict[str, Any] | None = None
    refusal: str | None = None
    audio: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.content is None and self.role != "assistant":
            raise ValueError(f"a message of role {self.role} needs content")
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("a message of role tool needs a tool_call_id")

    def text(self) -> str:
        """The content's texts as one."""
        if isinstance(self.content, list):
            return "".join(part.text or "" for part in self.content if part.type == "text")
        return self.content or ""


class Chat(Sampling, kw_only=True):
    """The request, as far as the gateway checks it."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    max_completion_tokens: Positive | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    functions: list[dict[str, Any]] | None = None
    function_call: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None


_CHAT = msgspec.json.Decoder(Chat)
_MESSAGES = msgspec.json.Decoder(list[msgspec.Raw])


def asked(body: bytes) -> Asked:
    """A chat completion. Raises Fault 400."""
    read = shapes.read(body, _CHAT)
    fields = shapes.given(body, KNOWN)
    sampling: dict[str, Any] = {}
    passed: dict[str, Any] = {}
    for name, value in fields.items():
        if name in _OWN:
            continue
        if name in _TYPED:
            sampling[name] = getattr(read, name)
        elif name in _EXTRAS:
            sampling[name] = value
        elif name in PASSED:
            passed[name] = value
    if read.max_completion_tokens is not None:
        sampling["max_tokens"] = read.max_completion_tokens
    if read.stream_options is not None and not read.stream:
        raise Fault(400, "invalid_body", "stream_options goes with stream: true only; leave it out", "stream_options")
    return Asked(
        [_MESSAGES.decode(fields["messages"])],
        sampling,
        _render,
        read,
        last_said(read.messages),
        bool(read.stream),
        _with_usage if read.stream_options and read.stream_options.include_usage else shapes.as_it_comes,
        passed,
    )


def _with_usage(request_id: str, entity: Entity) -> Relay:
    return Relay(include_usage=True)


def last_said(messages: list[Message]) -> str | None:
    """The last thing the user said."""
    for message in reversed(messages):
        if message.role == "user":
            return message.text()
    return None


def user(text: str) -> dict[str, str]:
    """A text as the message of a user."""
    return {"role": "user", "content": text}


def _render(answers: list[Completion], request_id: str, entity: Entity) -> bytes:
    return answers[0].raw
