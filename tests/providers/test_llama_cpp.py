"""The one place where a version becomes a request: prompt, examples in order, decoding, adapter list, label schema."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import plain_http
from trimtab import processes, settings
from trimtab.errors import Corrupt, Fixable
from trimtab.gateway import asking
from trimtab.providers import ask, engine, llama_cpp, weights
from trimtab.records.gateway import Upstream
from trimtab.records.project import LocalTarget
from trimtab.records.registry import Decoding, Example, LabelSet, Prompt, VersionSpec, Weights
from trimtab.store import blobs

MODEL = "smollm2-135m-instruct"
LABELS = LabelSet(fields={"intent": ("refund", "login"), "urgency": ("low", "high")})
EXAMPLES = tuple(Example(input=f"question {n}", output=f"answer {n}") for n in range(3))
SPEC = VersionSpec(
    model="desk",
    base=Weights(name="tiny", sha256="a" * 64),
    prompt=Prompt(system="Sort it.", examples=EXAMPLES),
    decoding=Decoding(temperature=0.3, max_tokens=7, seed=11),
    labels=LABELS,
)


def test_the_system_text_comes_first_and_the_examples_follow_in_order() -> None:
    messages = llama_cpp.request_template(SPEC)["messages"]
    turns = [(role, f"{what} {n}") for n in range(3) for role, what in (("user", "question"), ("assistant", "answer"))]
    assert [(message["role"], message["content"]) for message in messages] == [("system", "Sort it."), *turns]
    bare = SPEC.model_copy(update={"prompt": Prompt(system="")})
    assert llama_cpp.request_template(bare)["messages"] == []


def test_decoding_is_that_of_the_version_and_every_request_names_its_adapters() -> None:
    params = llama_cpp.request_template(SPEC)["params"]
    assert (params["temperature"], params["max_tokens"], params["seed"]) == (0.3, 7, 11)
    assert params["lora"] == []
    tuned = SPEC.model_copy(update={"adapter_sha256": "b" * 64})
    assert llama_cpp.request_template(tuned)["params"]["lora"] == [{"id": 0, "scale": 1.0}]


def test_a_constrained_answer_may_only_be_one_that_the_label_set_parses() -> None:
    form = llama_cpp.request_template(SPEC)["params"]["response_format"]
    assert (form["type"], form["json_schema"]["strict"]) == ("json_schema", True)
    schema = form["json_schema"]["schema"]
    assert list(schema["properties"]) == schema["required"] == ["intent", "urgency"]
    assert schema["additionalProperties"] is False
    answer = {name: field["enum"][-1] for name, field in schema["properties"].items()}
    assert LABELS.parse(json.dumps(answer)) == {"intent": "login", "urgency": "high"}


@pytest.mark.parametrize("change", [{"decoding": Decoding(constrained=False)}, {"labels": None}])
def test_without_constraint_or_without_labels_the_answer_is_free(change: dict[str, object]) -> None:
    assert "response_format" not in llama_cpp.request_template(SPEC.model_copy(update=change))["params"]


def test_an_engine_does_not_start_on_weights_that_are_missing_or_were_changed(tmp_path: Path) -> None:
    where = replace(settings.load(tmp_path), blobs=tmp_path / "blobs")
    with pytest.raises(Fixable, match="aaaaaaaaaaaa"):
        llama_cpp.start(where, SPEC, LocalTarget(), tmp_path / "engine.log")
    path = blobs.path_of(where.blobs, "a" * 64)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF, but another one")
    with pytest.raises(Corrupt, match="sha256"):
        llama_cpp.start(where, SPEC, LocalTarget(), tmp_path / "engine.log")


def test_one_engine_embeds_texts_and_generates_when_it_is_told_to(tmp_path: Path) -> None:
    where = settings.load(tmp_path)
    base = Weights(name=MODEL, sha256=blobs.sha256_of(weights.fetch(where.blobs, MODEL)))
    spec = SPEC.model_copy(update={"base": base, "decoding": Decoding(max_tokens=2, constrained=False)})
    target = LocalTarget(engine_threads=1, parallel=1, context=256, embeddings=True)
    opened = engine.start(where, spec, tmp_path / "engine.log", target)
    try:
        assert ask.ask(opened.upstream, opened.template, ["hello"])[0].text
        headers = {"authorization": f"Bearer {opened.upstream.api_key}"}
        url = f"http://{opened.upstream.address}/v1/embeddings"
        told = plain_http.post(
            url, json={"input": ["my refund", "a refund", "log in"]}, headers=headers, timeout=120
        ).json()
    finally:
        opened.stop()
    refund, near, far = (np.array(one["embedding"]) for one in told["data"])
    assert refund @ refund == pytest.approx(1.0, abs=1e-3)
    assert refund @ near > refund @ far
    assert told["usage"]["prompt_tokens"] > 3


def test_every_slot_knows_the_versions_prompt_before_the_first_request(tmp_path: Path) -> None:
    where = settings.load(tmp_path)
    base = Weights(name=MODEL, sha256=blobs.sha256_of(weights.fetch(where.blobs, MODEL)))
    spec = SPEC.model_copy(update={"base": base, "decoding": Decoding(max_tokens=2, constrained=False)})
    opened = engine.start(where, spec, tmp_path / "engine.log", LocalTarget(engine_threads=2, parallel=3, context=256))
    headers = {"authorization": f"Bearer {opened.upstream.api_key}"}
    url = f"http://{opened.upstream.address}/v1/chat/completions"

    def cached(text: str) -> int:
        messages = [*opened.template["messages"], {"role": "user", "content": text}]
        told = plain_http.post(
            url, json=opened.template["params"] | {"messages": messages}, headers=headers, timeout=120
        )
        return told.json()["usage"]["prompt_tokens_details"]["cached_tokens"]

    try:
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(cached, ["a refund, please", "log me in", "what is this"]))
    finally:
        opened.stop()
    assert min(found) == max(found) > 10


def test_texts_that_are_asked_together_are_answered_in_the_order_given(tmp_path: Path) -> None:
    child = processes.start("trimtab.providers.echo", "--delay-ms", "5", log=tmp_path / "echo.log")
    template: dict[str, Any] = {"messages": [], "params": {}}
    texts = [str(number) for number in range(9)]
    try:
        upstream = Upstream(address=child.ready["address"], api_key="")
        replies = ask.ask(upstream, template, texts, parallel=3, together=2)
    finally:
        child.stop()
    assert [reply.text for reply in replies] == texts


def test_an_evaluation_asks_as_many_twins_at_once_as_the_gateway() -> None:
    """Or the latency gate would judge another version than the one that callers wait for."""
    assert ask.SIDE_BY_SIDE == asking.FAN_OUT
