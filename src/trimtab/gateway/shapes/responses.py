"""Open Responses (OpenAI's Responses API), `POST /v1/responses`: the request, told as a chat completion.

The boundary: items in, messages out; the answer is told by `responses_answer`. Nothing is kept between requests, so
what refers to an earlier one (`previous_response_id`, `conversation`, item references) is refused, and so are tools
that run on a provider's side. Protocol: openresponses.org/specification.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from trimtab.gateway import shapes
from trimtab.gateway.shapes import Asked, Completion, Fault, Named, Positive
from trimtab.gateway.shapes.responses_answer import Answering, Told
from trimtab.gateway.stream import Retold, read_chunk

_KEPT = ("previous_response_id", "conversation", "prompt", "background", "context_management")
"""What needs a memory that the gateway does not have."""
_SAME = ("parallel_tool_calls", "metadata", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention")
_ALSO = ("service_tier", "safety_identifier", "user")
"""These two: what chat completions call by the same name."""
_NOTED = ("client_request_id", "custom_inputs", "context", "usage_context", "max_tool_calls", "include", "store")


class Item(msgspec.Struct):
    """One item of the input, as far as the gateway reads it."""

    type: str = "message"
    role: str = "user"
    content: str | list[dict[str, Any]] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[dict[str, Any]] | None = None


class Format(msgspec.Struct):
    """The `text` of a request: what the answer should look like."""

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class Reasoning(msgspec.Struct):
    """The `reasoning` of a request."""

    effort: str | None = None
    summary: str | None = None


class Responses(Named, kw_only=True):
    """The request, as far as the gateway reads it."""

    input: str | Annotated[list[Item], msgspec.Meta(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Positive | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: Format | None = None
    reasoning: Reasoning | None = None
    metadata: dict[str, str] | None = None
    include: list[str] | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    truncation: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    store: bool | None = None
    max_tool_calls: int | None = None
    previous_response_id: str | None = None
    background: bool | None = None


KNOWN = frozenset({*Responses.__struct_fields__, *_KEPT, *_SAME, *_ALSO, *_NOTED})
_RESPONSES = msgspec.json.Decoder(Responses)


def asked(body: bytes) -> Asked:
    """A Responses request. Raises Fault 400."""
    read = shapes.read(body, _RESPONSES)
    given = shapes.given(body, KNOWN)
    for name in _KEPT:
        if name in given and bytes(given[name]) != b"false":
            message = f"{name} needs a memory of earlier requests, and none is kept here; send the whole input"
            raise Fault(400, "unsupported_parameter", message, name)
    if read.truncation not in (None, "disabled"):
        message = "truncation can only be disabled: send an input that fits"
        raise Fault(400, "unsupported_parameter", message, "truncation")
    conversation = [{"role": "system", "content": read.instructions}] if read.instructions else []
    conversation += _messages(read.input)
    fields: dict[str, Any] = {name: given[name] for name in (*_SAME, *_ALSO) if name in given}
    return Asked(
        [conversation],
        _sampling(read),
        lambda answers, request_id, entity: _render(answers, Answering(_echoed(read), request_id, entity)),
        read,
        _last_said(conversation),
        bool(read.stream),
        lambda request_id, entity: Retold(Told(Answering(_echoed(read), request_id, entity))),
        fields | _tools(read) | _format(read),
    )


def _render(answers: list[Completion], answering: Answering) -> bytes:
    answering.take(read_chunk(answers[0].raw))
    return shapes.encode(answering.response(answers[0].usage))


def _echoed(read: Responses) -> dict[str, Any]:
    """The request's own fields, which a response repeats. Those that were left out are the version's to decide."""
    text, reasoning = read.text, read.reasoning
    return {
        "background": False,
        "frequency_penalty": read.frequency_penalty or 0.0,
        "instructions": read.instructions,
        "max_output_tokens": read.max_output_tokens,
        "max_tool_calls": read.max_tool_calls,
        "metadata": read.metadata or {},
        "parallel_tool_calls": read.parallel_tool_calls is not False,
        "presence_penalty": read.presence_penalty or 0.0,
        "previous_response_id": None,
        "prompt_cache_key": read.prompt_cache_key,
        "reasoning": None if reasoning is None else {"effort": reasoning.effort, "summary": reasoning.summary},
        "safety_identifier": read.safety_identifier,
        "service_tier": read.service_tier or "default",
        "store": False,
        "temperature": read.temperature,
        "text": {"format": (text and text.format) or {"type": "text"}},
        "tool_choice": read.tool_choice or "auto",
        "tools": [{"strict": None, "description": None, "parameters": None, **tool} for tool in read.tools or ()],
        "top_logprobs": read.top_logprobs or 0,
        "top_p": read.top_p,
        "truncation": "disabled",
        "user": read.user,
    }


def _sampling(read: Responses) -> dict[str, Any]:
    same = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs")
    sampling = {name: value for name in same if (value := getattr(read, name)) is not None}
    if read.max_output_tokens is not None:
        sampling["max_tokens"] = read.max_output_tokens
    if read.top_logprobs or "message.output_text.logprobs" in (read.include or ()):
        sampling["logprobs"] = True
    return sampling


# Items to messages


def _messages(said: str | list[Item]) -> list[dict[str, Any]]:
    if isinstance(said, str):
        return [{"role": "user", "content": said}]
    messages: list[dict[str, Any]] = []
    for index, item in enumerate(said):
        where = f"input[{index}]"
        if item.type == "message":
            messages.append({"role": _role(item, where), "content": _content(item.content, where)})
        elif item.type == "function_call":
            _call(messages, item, where)
        elif item.type == "function_call_output":
            output, call = _content(item.output, f"{where}.output"), _present(item.call_id, f"{where}.call_id")
            messages.append({"role": "tool", "tool_call_id": call, "content": output})
        elif item.type != "reasoning":  # earlier thoughts are not told again
            message = f"an item of type {item.type} cannot be told to the served version"
            raise Fault(400, "unsupported_parameter", message, f"{where}.type")
    return messages


def _role(item: Item, where: str) -> str:
    if item.role not in ("system", "developer", "user", "assistant"):
        message = f"the role {item.role!r} is none of system, developer, user, assistant"
        raise Fault(400, "invalid_body", message, f"{where}.role")
    return item.role


def _present(value: str | None, where: str) -> str:
    if value is None:
        raise Fault(400, "invalid_body", f"{where} is missing", where)
    return value


def _call(messages: list[dict[str, Any]], item: Item, where: str) -> None:
    """A call joins the message of the assistant before it: calls made at once are one message in a chat."""
    function = {
        "name": _present(item.name, f"{where}.name"),
        "arguments": _present(item.arguments, f"{where}.arguments"),
    }
    call = {"id": _present(item.call_id, f"{where}.call_id"), "type": "function", "function": function}
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    messages[-1].setdefault("tool_calls", []).append(call)


def _content(content: str | list[dict[str, Any]] | None, where: str) -> str | list[dict[str, Any]]:
    """Texts alone become one text; with an image or a file among them, a list of a chat's parts."""
    if content is None:
        raise Fault(400, "invalid_body", f"{where} has no content", where)
    if isinstance(content, str):
        return content
    parts = [_part(part, f"{where}.content[{index}]") for index, part in enumerate(content)]
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _part(part: dict[str, Any], where: str) -> dict[str, Any]:
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text", "refusal"):
        text = part.get("refusal" if kind == "refusal" else "text")
        if isinstance(text, str):
            return {"type": "text", "text": text}
    elif kind == "input_image" and isinstance(part.get("image_url"), str):
        return {"type": "image_url", "image_url": {"url": part["image_url"], "detail": part.get("detail") or "auto"}}
    elif kind == "input_file":
        file = {name: part[name] for name in ("file_data", "file_id", "filename") if part.get(name)}
        return {"type": "file", "file": file}
    raise Fault(400, "invalid_body", f"a part of type {kind!r} cannot be told to the served version", where)


def _last_said(conversation: list[dict[str, Any]]) -> str | None:
    for message in reversed(conversation):
        if message["role"] == "user":
            content = message["content"]
            return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    return None


# Tools and format


def _tools(read: Responses) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if read.tools:
        fields["tools"] = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(read.tools)]
    choice = read.tool_choice
    if isinstance(choice, dict):
        if choice.get("type") != "function" or not isinstance(choice.get("name"), str):
            message = "tool_choice is a word or {type: function, name: …}"
            raise Fault(400, "unsupported_parameter", message, "tool_choice")
        choice = {"type": "function", "function": {"name": choice["name"]}}
    if choice is not None and read.tools:
        fields["tool_choice"] = choice
    return fields


def _tool(tool: dict[str, Any], where: str) -> dict[str, Any]:
    if tool.get("type") != "function" or not isinstance(tool.get("name"), str):
        message = f"a tool is {{type: function, name: …}}; one of type {tool.get('type')!r} would have to run elsewhere"
        raise Fault(400, "unsupported_parameter", message, where)
    names = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {name: tool[name] for name in names if tool.get(name) is not None}}


def _format(read: Responses) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if read.text is not None and read.text.format is not None:
        wanted = dict(read.text.format)
        kind = wanted.pop("type", None)
        if kind == "json_schema":
            fields["response_format"] = {"type": kind, "json_schema": wanted}
        elif kind == "json_object":
            fields["response_format"] = {"type": kind}
        elif kind != "text":  # text is what a version answers with unless it has a format of its own
            message = "text.format is of type text, json_object or json_schema"
            raise Fault(400, "invalid_body", message, "text.format")
    if read.text is not None and read.text.verbosity:
        fields["verbosity"] = read.text.verbosity
    if read.reasoning is not None and read.reasoning.effort:
        fields["reasoning_effort"] = read.reasoning.effort
    return fields
