"""The clients that people have work unchanged: OpenAI's for Python and JavaScript, and LangChain's."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from gateway_place import Place
from langchain_openai import ChatOpenAI

TEXT = "My parcel is late. Where is it?"
TOOL = {"name": "look_up", "description": "Look up", "parameters": {"type": "object", "properties": {}}}
USER: Any = [{"role": "user", "content": TEXT}]
WORDS = len(TEXT.split())


@pytest.fixture
def client(shared: Place) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{shared.url}/v1", api_key="k", max_retries=0) as client:
        yield client


def test_chat_with_tools_choices_and_log_probabilities(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "function": TOOL}]
    called = client.chat.completions.create(model="m", messages=USER, tools=tools, tool_choice="required")
    (call,) = called.choices[0].message.tool_calls or ()
    assert (called.choices[0].finish_reason, call.type) == ("tool_calls", "function")
    assert call.function.name == "look_up"
    many = client.chat.completions.create(model="m", messages=USER, n=3, logprobs=True, seed=1, stop=["x"])
    assert [choice.message.content for choice in many.choices] == [TEXT] * 3
    assert many.choices[0].logprobs is not None
    assert "".join(token.token for token in many.choices[0].logprobs.content or ()) == TEXT


def test_chat_helper_collects_a_streamed_tool_call(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "function": TOOL}]
    with client.chat.completions.stream(model="m", messages=USER, tools=tools, tool_choice="required") as said:
        (call,) = said.get_final_completion().choices[0].message.tool_calls or ()
    assert json.loads(call.function.arguments) == {"text": TEXT}


def test_a_conversation_with_tool_results_goes_on(client: openai.OpenAI) -> None:
    function = {"name": "look_up", "arguments": "{}"}
    messages: Any = [
        {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "c", "content": "found"},
    ]
    assert client.chat.completions.create(model="m", messages=messages).choices[0].message.content == "one two"


def test_completions_plain_and_streamed(client: openai.OpenAI) -> None:
    plain = client.completions.create(model="m", prompt=[TEXT, "b"], n=2, logprobs=0)
    assert [(c.index, c.text) for c in plain.choices] == [(0, TEXT), (1, TEXT), (2, "b"), (3, "b")]
    logprobs = plain.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.text_offset is not None
    assert [TEXT[at:][: len(token)] for at, token in zip(logprobs.text_offset, logprobs.tokens or (), strict=True)] == (
        logprobs.tokens
    )
    chunks = list(
        client.completions.create(model="m", prompt=TEXT, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == TEXT
    assert plain.usage is not None
    assert chunks[-1].usage is not None
    assert (plain.usage.completion_tokens, chunks[-1].usage.completion_tokens) == (2 * WORDS + 2, WORDS)


def test_responses_plain_and_streamed_are_the_same(client: openai.OpenAI, shared: Place) -> None:
    asked: Any = {"model": "m", "instructions": "Be kind.", "input": TEXT, "metadata": {"a": "b"}}
    plain = client.responses.create(**asked)
    with client.responses.stream(**asked) as events:
        types = [event.type for event in events]
        streamed = events.get_final_response()
    assert plain.output_text == streamed.output_text == TEXT
    assert plain.usage == streamed.usage
    assert plain.usage is not None
    assert (plain.usage.input_tokens, plain.usage.output_tokens) == (4 + WORDS, WORDS)
    assert (plain.status, plain.metadata, plain.instructions) == ("completed", {"a": "b"}, "Be kind.")
    assert types[:2] == ["response.created", "response.in_progress"]
    assert (types[-1], types.count("response.output_text.delta")) == ("response.completed", WORDS)
    rows = [shared.closed()[response.id.removeprefix("resp_")] for response in (plain, streamed)]
    assert {(row.input_text, row.output_text, row.output_tokens, row.outcome) for row in rows} == {
        (TEXT, TEXT, WORDS, "ok")
    }


def test_responses_carry_tool_calls_both_ways(client: openai.OpenAI) -> None:
    asked: Any = {"model": "m", "tools": [{"type": "function", **TOOL}], "tool_choice": "required"}
    with client.responses.stream(input=TEXT, **asked) as events:
        (call,) = events.get_final_response().output
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "look_up", {"text": TEXT})
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "found"}
    said = client.responses.create(model="m", input=[*USER, call.to_dict(), result])
    assert said.output_text == TEXT


def test_embeddings_and_models(client: openai.OpenAI) -> None:
    said = client.embeddings.create(model="m", input=["a cake", "ooo"])
    assert [one.embedding for one in said.data] == [[2, 1, 0, 0, 0], [0, 0, 0, 3, 0]]
    assert [model.id for model in client.models.list()] == ["m", "m@champion"]
    assert client.models.retrieve("m@champion").owned_by == "trimtab"


def test_errors_are_the_clients_own_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="other", messages=USER)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    with pytest.raises(openai.BadRequestError) as unknown:
        client.chat.completions.create(model="m", messages=USER, extra_body={"lora": []})
    assert (unknown.value.code, unknown.value.param) == ("unknown_parameter", "lora")
    with pytest.raises(openai.BadRequestError, match="memory"):
        client.responses.create(model="m", input=TEXT, previous_response_id="resp_1")


def test_the_async_client_in_every_api(shared: Place) -> None:
    async def scenario() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{shared.url}/v1", api_key="k", max_retries=0) as client:
            chunks = await client.chat.completions.create(model="m", messages=USER, stream=True)
            streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices])
            events = await client.responses.create(model="m", input=TEXT, stream=True)
            deltas = "".join([e.delta async for e in events if e.type == "response.output_text.delta"])
            plain, completed, answered, models = await asyncio.gather(
                client.chat.completions.create(model="m", messages=USER),
                client.completions.create(model="m", prompt=TEXT),
                client.responses.create(model="m", input=TEXT),
                client.models.list(),
            )
            with pytest.raises(openai.NotFoundError):
                await client.models.retrieve("other")
            assert models.data[0].id == "m"
            texts = [plain.choices[0].message.content, completed.choices[0].text, answered.output_text]
            return [streamed, deltas, *texts]

    assert asyncio.run(scenario()) == [TEXT] * 5


@pytest.mark.parametrize("responses", [False, True])
def test_langchain(shared: Place, responses: bool) -> None:
    model = ChatOpenAI(
        base_url=f"{shared.url}/v1",
        api_key="k",
        model="m",
        max_retries=0,
        use_responses_api=responses,
        stream_usage=True,
    )
    plain = model.invoke(TEXT)
    assert plain.text == TEXT
    streamed = None
    for chunk in model.stream(TEXT):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed is not None
    assert streamed.text == TEXT
    assert plain.usage_metadata is not None
    assert streamed.usage_metadata == plain.usage_metadata
    called = model.bind_tools([{"type": "function", "function": TOOL}], tool_choice="look_up").invoke(TEXT)
    assert [(call["name"], call["args"]) for call in called.tool_calls] == [("look_up", {"text": TEXT})]


SCRIPT = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.argv[2], apiKey: "k", maxRetries: 0 });
const messages = [{ role: "user", content: process.argv[3] }];
const plain = await client.chat.completions.create({ model: "m", messages });
let streamed = "";
for await (const chunk of await client.chat.completions.create({ model: "m", messages, stream: true }))
  streamed += chunk.choices[0]?.delta?.content ?? "";
const answered = await client.responses.create({ model: "m", input: process.argv[3] });
let deltas = "", last = "";
for await (const event of await client.responses.create({ model: "m", input: process.argv[3], stream: true })) {
  if (event.type === "response.output_text.delta") deltas += event.delta;
  last = event.type;
}
const completed = await client.completions.create({ model: "m", prompt: process.argv[3] });
const models = (await client.models.list()).data.map((model) => model.id);
let fault = "";
try { await client.chat.completions.create({ model: "other", messages }); }
catch (error) { fault = `${error.constructor.name} ${error.code}`; }
console.log(JSON.stringify({ texts: [plain.choices[0].message.content, streamed, answered.output_text, deltas,
  completed.choices[0].text], last, models, fault }));
"""


@pytest.fixture(scope="session")
def javascript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the npm package `openai`."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed here")
    folder = tmp_path_factory.mktemp("javascript")
    install = [npm, "install", "--no-audit", "--no-fund", "--no-save", "openai@^6"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install the package openai here: {done.stderr.strip()[-200:]}")
    return folder


def test_javascript(shared: Place, javascript: Path) -> None:
    (javascript / "ask.mjs").write_text(SCRIPT)
    command = ["node", "ask.mjs", f"{shared.url}/v1", TEXT]
    done = subprocess.run(command, cwd=javascript, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["texts"] == [TEXT] * 5
    assert (said["last"], said["models"]) == ("response.completed", ["m", "m@champion"])
    assert said["fault"] == "NotFoundError model_not_found"
