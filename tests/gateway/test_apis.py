"""Every API: what passes through, what is translated, what is refused and how, and how its streams end."""

from __future__ import annotations

import json
from typing import Any

import httpx
import msgspec
import openai
import pytest
from gateway_place import Place, chat, entity, until

import plain_http
from trimtab.gateway import shapes
from trimtab.gateway.routes import Entity, Template
from trimtab.gateway.shapes import Fault, responses
from trimtab.gateway.shapes import chat as chats

TEXT = "My parcel is late."
LONG = " ".join(f"word{i}" for i in range(400))
TOOL = {"name": "f", "parameters": {"type": "object"}, "strict": True}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}


def engine_body(asked: shapes.Asked, **params: Any) -> dict[str, Any]:
    """What the engine would be asked."""
    held = {name: shapes.encode(value) for name, value in params.items()}
    template = Template(params={name: msgspec.Raw(value) for name, value in held.items()})
    entity = Entity("m", 1, "h:1", template)
    return json.loads(shapes.engine_request(asked, entity, entity.own[0], asked.conversations[0]))


# chat


def test_what_openai_documents_reaches_the_engine_as_it_came() -> None:
    given = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "See"}, IMAGE], "name": "ana"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c", "content": "found"},
        ],
        "tools": [{"type": "function", "function": TOOL}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
        "logprobs": True,
        "top_logprobs": 3,
        "n": 2,
        "stop": ["x"],
        "seed": 7,
        "prediction": {"type": "content", "content": "See"},
        "service_tier": "flex",
        "prompt_cache_key": "k",
    }
    asked = chats.asked(json.dumps(given | {"model": "m", "max_completion_tokens": 9, "user": None}).encode())
    assert engine_body(asked, lora=[], temperature=0) == {**given, "max_tokens": 9, "lora": [], "temperature": 0}
    assert asked.input_text() == "See"


@pytest.mark.parametrize("field", ["lora", "grammar", "json_schema", "cache_prompt", "id_slot", "n_predict"])
def test_a_client_cannot_reach_into_the_engine(field: str) -> None:
    with pytest.raises(Fault, match="unknown parameter") as refused:
        chats.asked(json.dumps(chat("x") | {field: 1}).encode())
    assert refused.value.param == field


def test_a_version_with_an_answer_format_keeps_it_and_leaves_no_row(place: Place) -> None:
    schema = {"type": "json_schema", "json_schema": {"schema": {"properties": {"intent": {"enum": ["refund"]}}}}}
    place.route(entity(place.engine(), response_format=schema))
    place.gateway()
    wanted = {"text": {"format": {"type": "json_object"}}}
    for path, body in (("chat/completions", chat("x", response_format=schema)), ("responses", {"input": "x"} | wanted)):
        refused = plain_http.post(f"{place.url}/v1/{path}", json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "response_format")
    assert place.rows() == []
    said = plain_http.post(f"{place.url}/v1/responses", json={"input": "x", "text": {"format": {"type": "text"}}})
    assert said.json()["output"][0]["content"][0]["text"] == '{"intent":"refund"}'


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0]"),
        ({"tools": "all"}, "tools"),
        ({"n": 0}, "n"),
    ],
)
def test_what_cannot_be_a_chat_is_refused_with_its_place(more: dict[str, Any], param: str) -> None:
    with pytest.raises(Fault) as refused:
        chats.asked(json.dumps(chat("x") | more).encode())
    assert (refused.value.status, refused.value.param) == (400, param)


# responses


def test_items_become_messages() -> None:
    image = {"type": "input_image", "image_url": "https://example.com/a.png"}
    items: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be kind."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "See"}, image]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Looking"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "d", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "found"},
        {"type": "function_call_output", "call_id": "d", "output": [{"type": "input_text", "text": "more"}]},
    ]
    url = {"url": "https://example.com/a.png", "detail": "auto"}
    asked = {
        "input": items,
        "instructions": "Be brief.",
        "tools": [{"type": "function", **TOOL}],
        "tool_choice": {"type": "function", "name": "f"},
        "text": {"format": {"type": "json_schema", "name": "a", "schema": {}}, "verbosity": "low"},
        "reasoning": {"effort": "low"},
        "max_output_tokens": 9,
        "top_logprobs": 2,
        "store": True,
        "include": ["reasoning.encrypted_content"],
    }
    assert engine_body(responses.asked(json.dumps(asked).encode())) == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "text", "text": "See"}, {"type": "image_url", "image_url": url}]},
            {"role": "assistant", "content": "Looking", "tool_calls": [CALL, CALL | {"id": "d"}]},
            {"role": "tool", "tool_call_id": "c", "content": "found"},
            {"role": "tool", "tool_call_id": "d", "content": "more"},
        ],
        "tools": [{"type": "function", "function": TOOL}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
        "verbosity": "low",
        "reasoning_effort": "low",
        "max_tokens": 9,
        "logprobs": True,
        "top_logprobs": 2,
    }


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ({"input": [{"role": "wizard", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input[0].content[0]"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "input[0].arguments"),
        ({"input": []}, "input"),
        ({"grammar": "x"}, "grammar"),
    ],
)
def test_what_responses_cannot_do_here_is_refused_by_name(more: dict[str, Any], param: str) -> None:
    with pytest.raises(Fault) as refused:
        responses.asked(json.dumps({"input": "x"} | more).encode())
    assert (refused.value.status, refused.value.param) == (400, param)


def test_an_answer_that_ran_out_of_tokens_is_incomplete() -> None:
    choice = {"finish_reason": "length", "message": {"content": "half an"}}
    answer = shapes.completion(json.dumps({"choices": [choice], "usage": {}}).encode())
    said = json.loads(responses.asked(b'{"input": "x"}').render([answer], "r", Entity("m", 1, "h:1", Template())))
    assert (said["status"], said["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert said["usage"] is None


# completions and embeddings


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"prompt": ["a", "b"], "stream": True}, "prompt"),
        ({"prompt": [1, 2]}, "prompt[0]"),
        ({"logprobs": 6}, "logprobs"),
    ],
)
def test_what_a_chat_cannot_complete_is_refused(http: httpx.Client, more: dict[str, Any], param: str) -> None:
    refused = http.post("/v1/completions", json={"prompt": "x"} | more)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_an_engine_without_embeddings_says_so_once(place: Place) -> None:
    place.route(entity(place.engine("--chat-only")))
    place.gateway()
    client = openai.OpenAI(base_url=f"{place.url}/v1", api_key="k", max_retries=2)
    with client, pytest.raises(openai.BadRequestError, match="does not support embeddings") as refused:
        client.embeddings.create(model="m", input="x")
    assert refused.value.code == "not_supported"
    (row,) = place.closed().values()
    assert (row.outcome, row.status_code, row.input_text) == ("error", 400, "x")


def test_an_engine_that_cannot_see_is_no_broken_engine() -> None:
    said = b'{"error": {"code": 500, "message": "image input is not supported - hint: mmproj"}}'
    assert (shapes.engine_fault(500, said).status, shapes.engine_fault(500, said).code) == (400, "not_supported")
    assert shapes.engine_fault(500, b'{"error": {"message": "out of memory"}}').status == 502


def test_embeddings_are_accounted(shared: Place, http: httpx.Client) -> None:
    said = http.post("/v1/embeddings", json={"input": "two words"})
    row = shared.closed()[said.headers["x-request-id"]]
    assert (row.input_text, row.output_text, row.input_tokens, row.output_tokens) == ("two words", None, 2, None)


# invocations and predict


@pytest.mark.parametrize("path", ["/invocations", "/serving-endpoints/m/invocations"])
def test_invocations_in_every_shape(http: httpx.Client, path: str) -> None:
    def say(body: dict[str, Any]) -> Any:
        said = http.post(path, json=body)
        assert said.status_code == 200, said.text
        return said.json()

    rows: list[dict[str, Any]] = [
        {"dataframe_split": {"index": [0], "columns": ["n", "input"], "data": [[1, "a"]]}},
        {"dataframe_records": [{"input": "a"}]},
        {"inputs": {"input": ["a"]}},
        {"inputs": "a"},
        {"inputs": [["a"]], "params": {"temperature": 0}},
        {"instances": [{"input": "a"}]},
    ]
    assert [say(body) for body in rows] == [{"predictions": ["a"]}] * len(rows)
    assert say(chat("a", max_tokens=5, usage_context={"team": "x"}))["choices"][0]["message"]["content"] == "a"
    assert say({"prompt": "a"})["choices"][0]["text"] == "a"
    for given in ("a", [{"role": "user", "content": "a"}]):
        assert say({"input": given, "custom_inputs": {"x": 1}})["output"][0]["content"][0]["text"] == "a"
    assert say({"input": ["a", "e"]})["data"][1]["embedding"] == [0, 1, 0, 0, 0]


def test_invocations_stream_what_can_be_streamed(shared: Place, http: httpx.Client) -> None:
    for body, kind in ((chat(TEXT, stream=True), "data: {"), ({"input": TEXT, "stream": True}, "event: response.")):
        said = http.post("/serving-endpoints/m/invocations", json=body)
        assert said.headers["content-type"].startswith("text/event-stream")
        assert said.text.startswith(kind)
        assert said.text.endswith("data: [DONE]\n\n")
        assert shared.closed()[said.headers["x-request-id"]].output_text == TEXT
    refused = http.post("/invocations", json={"inputs": ["a"], "stream": True})
    assert (refused.status_code, refused.json()["error_code"]) == (400, "BAD_REQUEST")


def test_an_endpoint_of_another_name_is_not_here(http: httpx.Client) -> None:
    said = http.post("/serving-endpoints/other/invocations", json={"inputs": ["a"]})
    assert (said.status_code, said.json()["error_code"]) == (404, "ENDPOINT_NOT_FOUND")
    assert http.get("/serving-endpoints/m/invocations").headers["allow"] == "POST"
    assert http.post("/serving-endpoints/m/other/invocations").status_code == 404


def test_databricks_own_base_url_works_with_openais_client(shared: Place) -> None:
    with openai.OpenAI(base_url=f"{shared.url}/serving-endpoints", api_key="k", max_retries=0) as client:
        said = client.chat.completions.create(model="m", messages=[{"role": "user", "content": TEXT}])
        answered = client.responses.create(model="m", input=TEXT)
    assert said.choices[0].message.content == answered.output_text == TEXT


def test_predict_streams_pieces_and_then_the_answer(shared: Place, http: httpx.Client) -> None:
    said = http.post("/predict", json={"input": TEXT, "stream": True})
    *deltas, last = [json.loads(line[6:]) for line in said.text.splitlines() if line.startswith("data: {")]
    assert "".join(event["delta"] for event in deltas) == TEXT
    assert last == {"output": TEXT, "request_id": said.headers["x-request-id"], "version": 1}
    assert shared.closed()[last["request_id"]].response == said.content


# streams that end badly


def test_a_responses_stream_whose_engine_dies_fails_for_the_client(place: Place) -> None:
    engine = place.engine("--chunk-ms", "20")
    place.route(entity(engine))
    place.gateway()
    with openai.OpenAI(base_url=f"{place.url}/v1", api_key="k", max_retries=0) as client:
        said = client.responses.create(model="m", input=LONG, stream=True)
        for _ in range(6):
            next(said)
        engine.process.kill()
        with pytest.raises(openai.APIError, match="cut the connection"):
            list(said)
    (row,) = place.closed().values()
    assert (row.outcome, row.status_code) == ("error", 502)
    assert row.output_text
    assert LONG.startswith(row.output_text)
    assert b'"status":"failed"' in row.response


def test_a_client_that_leaves_a_translated_stream_is_on_record_with_what_it_heard(place: Place) -> None:
    place.route(entity(place.engine("--chunk-ms", "20")))
    place.gateway()
    body = {"input": LONG, "stream": True}
    with httpx.stream("POST", f"{place.url}/v1/responses", json=body, timeout=30) as said:
        lines = said.iter_lines()
        until(lambda: "output_text.delta" in next(lines))
    row = until(lambda: place.closed().get(said.headers["x-request-id"]))
    assert row.outcome == "cancelled"
    assert LONG.startswith(row.output_text)
    assert 1 <= row.output_tokens == len(row.output_text.split()) < 400
