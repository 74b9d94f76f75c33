"""An answer says and costs the same, plain or streamed, in every API's shape, however its stream was cut on the way."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trimtab.gateway import shapes
from trimtab.gateway.routes import Entity, Template
from trimtab.gateway.shapes import Asked, chat, completions, predict, responses
from trimtab.gateway.stream import DONE, Usage, total

ENTITY = Entity("m", 1, "h:1", Template())
TOOL = {"type": "function", "name": "f", "parameters": {}}
ASKED: list[Asked] = [
    chat.asked(json.dumps({"messages": [{"role": "user", "content": "x"}], "stream": True}).encode()),
    completions.asked(b'{"prompt": "x", "stream": true, "stream_options": {"include_usage": true}}'),
    responses.asked(json.dumps({"input": "x", "stream": True, "tools": [TOOL]}).encode()),
    predict.asked(b'{"input": "x", "stream": true}'),
]

texts = st.lists(st.text(min_size=1, max_size=8), max_size=6)
counts = st.integers(0, 10**6)


@st.composite
def usages(draw: st.DrawFn) -> dict[str, Any]:
    """Usage in any dialect: OpenAI's details, what Databricks puts beside the totals, or the totals alone."""
    usage: dict[str, Any] = {"prompt_tokens": draw(counts), "completion_tokens": draw(counts)}
    dialect = draw(st.sampled_from(["openai", "databricks", "plain"]))
    cached, written, thought = draw(counts), draw(counts), draw(counts)
    if dialect == "openai":
        usage["prompt_tokens_details"] = {"cached_tokens": cached, "cache_write_tokens": written}
        usage["completion_tokens_details"] = {"reasoning_tokens": thought}
    elif dialect == "databricks":
        usage |= {"cache_read_input_tokens": cached, "cache_creation_input_tokens": written}
        usage["reasoning_tokens"] = thought
    return usage


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A completion as a body and as events."""
    thoughts, said, calls = draw(texts), draw(texts), draw(st.lists(texts, max_size=3))
    finish, usage = draw(st.sampled_from(["stop", "length", "tool_calls"])), draw(usages())
    told = [{"token": text, "logprob": -1.0, "top_logprobs": [{"token": text, "logprob": -1.0}]} for text in said]
    measured = draw(st.booleans()) and bool(said)
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None}]
    deltas += [{"reasoning_content": text} for text in thoughts] + [{"content": text} for text in said]
    made = []
    for index, arguments in enumerate(calls):
        head = {"id": f"c{index}", "type": "function", "function": {"name": "f", "arguments": ""}}
        deltas.append({"tool_calls": [{"index": index, **head}]})
        deltas += [{"tool_calls": [{"index": index, "function": {"arguments": text}}]} for text in arguments]
        made.append(head | {"function": {"name": "f", "arguments": "".join(arguments)}})
    message: dict[str, Any] = {"role": "assistant", "content": "".join(said) or None}
    message |= {"reasoning_content": "".join(thoughts)} if thoughts else {}
    message |= {"tool_calls": made} if made else {}
    head: dict[str, Any] = {"id": "x", "created": 7}
    choice = {"index": 0, "finish_reason": finish, "message": message}
    whole = head | {"choices": [choice | ({"logprobs": {"content": told}} if measured else {})], "usage": usage}
    choices: list[dict[str, Any]] = [{"index": 0, "finish_reason": None, "delta": delta} for delta in deltas]
    for choice, logprob in zip(choices[1 + len(thoughts) :], told if measured else [], strict=False):
        choice["logprobs"] = {"content": [logprob]}
    chunks = [head | {"choices": [choice]} for choice in choices]
    chunks.append(head | {"choices": [{"index": 0, "finish_reason": finish, "delta": {}}]})
    chunks.append(head | {"choices": [], "usage": usage})
    line_end = draw(st.sampled_from([b"\n", b"\r\n"]))
    events = [b"data: " + json.dumps(chunk).encode() + 2 * line_end for chunk in chunks] + [DONE]
    return json.dumps(whole).encode(), events


def last_of(name: str, events: bytes) -> dict[str, Any]:
    """What an API's stream adds up to, in the shape of its plain answer, as far as both have it."""
    read = [json.loads(line[6:]) for line in events.split(b"\n") if line.startswith(b"data: {")]
    if name == "responses":
        assert [event["sequence_number"] for event in read] == list(range(len(read)))
        grown = [event for event in read if event["type"] == "response.output_text.delta"]
        parts = [item["content"][0] for item in read[-1]["response"]["output"] if item["type"] == "message"]
        assert "".join(event["delta"] for event in grown) == "".join(part["text"] for part in parts)
        measured = [one for event in grown for one in event["logprobs"]]
        assert measured == [one for part in parts for one in part["logprobs"]]
        return read[-1]["response"]
    if name == "predict":
        return read[-1]
    choices = [choice for event in read for choice in event["choices"]]
    finish = [choice["finish_reason"] for choice in choices if choice["finish_reason"]][-1]
    if name == "completions":
        measured = [choice["logprobs"] for choice in choices if choice["logprobs"]]
        logprobs = {name: [one for m in measured for one in m[name]] for name in measured[0]} if measured else None
        text = "".join(choice["text"] for choice in choices)
        return {"text": text, "finish": finish, "usage": read[-1]["usage"], "logprobs": logprobs}
    calls: dict[int, str] = {}
    for choice in choices:
        for call in choice["delta"].get("tool_calls", []):
            calls[call["index"]] = calls.get(call["index"], "") + call["function"].get("arguments", "")
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    return {"text": text, "finish": finish, "calls": list(calls.values())}


def of_plain(name: str, body: dict[str, Any]) -> dict[str, Any]:
    if name in ("responses", "predict"):
        return body
    choice = body["choices"][0]
    if name == "completions":
        told = {"finish": choice["finish_reason"], "usage": body["usage"], "logprobs": choice["logprobs"]}
        return {"text": choice["text"], **told}
    calls = [call["function"]["arguments"] for call in choice["message"].get("tool_calls", [])]
    return {"text": choice["message"]["content"] or "", "finish": choice["finish_reason"], "calls": calls}


@given(answers(), st.lists(st.integers(0, 6000)))
def test_plain_and_streamed_are_one_answer(answer: tuple[bytes, list[bytes]], cuts: list[int]) -> None:
    body, stream = answer[0], b"".join(answer[1])
    at = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    plain = shapes.completion(body)
    for name, asked in zip(["chat", "completions", "responses", "predict"], ASKED, strict=True):
        relay = asked.tell("r", ENTITY)
        sent = b"".join(relay.feed(stream[start:end]) for start, end in pairwise(at))
        assert relay.done
        assert relay.usage == plain.usage
        assert relay.said(sent)[0] == plain.text() == asked.output_text([plain])
        rendered = json.loads(asked.render([plain], "r", ENTITY))
        assert last_of(name, sent + relay.last()) == of_plain(name, rendered)


@given(usages())
def test_every_dialect_of_usage_is_understood(usage: dict[str, Any]) -> None:
    read = shapes.completion(json.dumps({"choices": [{"message": {}}], "usage": usage}).encode()).usage
    details = usage.get("prompt_tokens_details", {})
    assert read.cached_tokens == details.get("cached_tokens", usage.get("cache_read_input_tokens"))
    assert read.cache_write_tokens == details.get("cache_write_tokens", usage.get("cache_creation_input_tokens"))
    thought = usage.get("completion_tokens_details", {}).get("reasoning_tokens", usage.get("reasoning_tokens"))
    assert read.reasoning_tokens == thought


def test_a_batch_costs_the_sum_and_unknown_stays_unknown() -> None:
    whole = total([Usage(1, 2, cached_tokens=3), Usage(10, 20)])
    assert (whole.prompt_tokens, whole.completion_tokens, whole.cached_tokens) == (11, 22, 3)
    assert whole.reasoning_tokens is None
