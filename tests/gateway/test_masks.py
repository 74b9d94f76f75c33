"""A version that was registered with a mask never reads the words it hides: in every API, plain and streamed."""

from __future__ import annotations

import json

import pytest
from gateway_place import Place, serving

import plain_http
from trimtab.providers import ask, llama_cpp
from trimtab.records.gateway import Upstream
from trimtab.records.registry import Decoding, Example, Prompt, VersionSpec, Weights
from trimtab.responsible import identities

SPEC = VersionSpec(
    model="m",
    base=Weights(name="echo", sha256="", format="echo"),
    prompt=Prompt(system="You help Muslims and others.", examples=(Example(input="I am a Jew.", output="ok"),)),
    decoding=Decoding(constrained=False),
    masks=(
        identities.mask_of(identities.pack("en"), ["religion"]),
        identities.mask_of(identities.pack("zh"), ["religion"]),
    ),
)
ASKED = ("A {} customer wants a card.", "A Muslim customer wants a card.", "An atheist customer wants a card.")
SEEN = "An individual customer wants a card."


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory):
    yield from serving(tmp_path_factory.mktemp("masks"), SPEC)


def said(place: Place, path: str, body: dict[str, object]) -> str:
    reply = plain_http.post(f"{place.url}{path}", json=body, timeout=30)
    assert reply.status_code == 200, reply.text
    return reply.text


@pytest.mark.parametrize("text", ASKED[1:])
def test_twins_get_one_answer_in_every_shape(place: tuple[Place, Upstream], text: str) -> None:
    served, upstream = place
    message = [{"role": "user", "content": text}]
    chat = json.loads(said(served, "/v1/chat/completions", {"messages": message}))
    assert chat["choices"][0]["message"]["content"] == SEEN
    parts = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    assert SEEN in said(served, "/v1/chat/completions", {"messages": parts})
    stream = said(served, "/v1/chat/completions", {"messages": message, "stream": True})
    assert "Muslim" not in stream
    assert "atheist" not in stream
    assert SEEN in said(served, "/v1/responses", {"input": text})
    assert SEEN in said(served, "/v1/completions", {"prompt": text})
    assert SEEN in said(served, "/predict", {"input": text})
    assert SEEN in said(served, "/invocations", {"dataframe_records": [{"input": text}]})
    assert "个人" in said(served, "/predict", {"input": "我是穆斯林"})
    assert ask.ask(upstream, llama_cpp.request_template(SPEC), [text])[0].text == SEEN  # as evaluation and MLflow ask


def test_the_row_keeps_what_was_really_said_and_the_prompt_is_masked_too(place: tuple[Place, Upstream]) -> None:
    served, _ = place
    said(served, "/predict", {"input": ASKED[1]})
    assert ASKED[1] in {row.input_text for row in served.closed().values()}
    told = llama_cpp.request_template(SPEC)["messages"]
    assert [m["content"] for m in told[:2]] == ["You help individuals and others.", "I am an individual."]


def test_a_mask_is_part_of_the_version_and_its_absence_changes_no_hash() -> None:
    plain = SPEC.model_copy(update={"masks": ()})
    assert plain.hash != SPEC.hash
    assert "masks" not in llama_cpp.request_template(plain)
    assert VersionSpec.model_validate_json(SPEC.model_dump_json()).hash == SPEC.hash
