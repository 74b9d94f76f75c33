"""A version that rotates its labels answers alike however the file lists them, and every question is in the books."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from gateway_place import Place, serving
from hypothesis import given
from hypothesis import strategies as st

import plain_http
from trimtab import averaging, rotating
from trimtab.providers import ask, llama_cpp
from trimtab.records.gateway import Upstream
from trimtab.records.registry import LabelSet, Prompt, VersionSpec, Weights
from trimtab.responsible import identities

INTENTS = ("refund", "login", "billing", "account", "无法登录")
SHAPES = (
    "{0}, {1}, {2}, {3} or {4}",
    "{0}|{1}|{2}|{3}|{4}",
    '["{0}", "{1}", "{2}", "{3}", "{4}"]',
    "{0}、{1}、{2}、{3}和{4}",
)
ABOUT = {word: f"{word}: what is said of it, not of refund" for word in INTENTS}
LINES = (
    "- {0}\n- {1}\n- {2}\n- {3}\n- {4}\n",
    "1. {0}\n2. {1}\n3. {2}\n4. {3}\n5. {4}",
    "**{0}**\n**{1}**\n**{2}**\n**{3}**\n**{4}**",
)
QUESTION = "My card is lost."


def spec_of(intents: list[str], shape: str, urgencies: list[str], **changed: object) -> VersionSpec:
    """A version whose file lists the labels in an order, and its prompt, too."""
    words = [ABOUT[word] for word in intents] if "\n- " in shape else intents
    system = f"Sort it. intent is one of\n{shape.format(*words)}\nurgency: {' or '.join(urgencies)}."
    labels = LabelSet(fields={"intent": tuple(intents), "urgency": tuple(urgencies)})
    base = Weights(name="echo", sha256="", format="echo")
    spec = VersionSpec(model="m", base=base, prompt=Prompt(system=system), decoding={}, labels=labels)  # pyright: ignore[reportArgumentType]
    return spec.model_copy(update={"rotate": ("intent", "urgency")} | changed)


@given(st.permutations(INTENTS), st.permutations(["low", "high"]), st.sampled_from([*SHAPES, *LINES]), st.integers())
def test_whatever_the_model_no_answer_depends_on_the_order_of_the_labels_in_the_file(
    intents: list[str], urgencies: list[str], shape: str, seed: int
) -> None:
    def said(spec: VersionSpec) -> list[str]:
        return [json.dumps(order, ensure_ascii=False) for order in llama_cpp.request_template(spec)["rotations"]]

    def answer(asked: list[str]) -> str:
        answers = [f"label {hash((seed, one)) % 3}" for one in asked]  # a model that looks at every letter
        return answers[averaging.agreed(answers)]

    first, other = said(spec_of(list(INTENTS), shape, ["high", "low"])), said(spec_of(intents, shape, urgencies))
    assert first == other
    assert answer(first) == answer(other)
    assert len(set(first)) == rotating.ROTATIONS


@given(st.lists(st.sampled_from("abcdefghijkl"), min_size=2, unique=True), st.sampled_from([", ", " | ", "\n- "]))
def test_every_label_stands_once_in_each_part_of_the_list(labels: list[str], between: str) -> None:
    text = f"One of: {between.join(labels)}\nNothing else."
    assert rotating.lists(text, labels)
    asked = rotating.orders(text, {"intent": labels}, ["intent"])
    assert len(asked) == min(len(labels), rotating.ROTATIONS)
    for label in labels:
        parts = [order["intent"].index(label) * len(asked) // len(labels) for _, order in asked]
        assert max(parts) - min(parts) >= len(asked) - 2  # not all in one part
        assert len({order["intent"].index(label) for _, order in asked}) == len(asked)
    for system, order in asked:
        assert system == f"One of: {between.join(order['intent'])}\nNothing else."


def test_a_sentence_that_names_some_labels_is_no_list() -> None:
    text = "A refund is no login, and urgency: low, high."
    assert not rotating.lists(text, INTENTS)
    assert rotating.orders(text, {"intent": INTENTS}, ["intent"])[1][0] == text


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Place, Upstream, VersionSpec]]]:
    """Three versions on an engine that answers the label listed first: two rotate, and list them otherwise; the last
    averages, too."""
    average = identities.average_of(identities.pack("en"), "religion")
    turned = [*INTENTS[2:], *INTENTS[:2]]
    specs = [
        spec_of(list(INTENTS), SHAPES[0], ["high", "low"]),
        spec_of(turned, SHAPES[0], ["low", "high"]),
        spec_of(turned, SHAPES[0], ["low", "high"], average=average),
    ]
    made = [(serving(tmp_path_factory.mktemp("rotate"), spec), spec) for spec in specs]
    yield [(*next(one), spec) for one, spec in made]
    for one, _ in made:
        assert next(one, None) is None


def told(place: Place, text: str, **more: object) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": text}], **more}
    return plain_http.post(f"{place.url}/v1/chat/completions", json=body, timeout=30)


def test_callers_get_one_answer_however_the_labels_are_listed_and_every_question_is_counted(
    places: list[tuple[Place, Upstream, VersionSpec]],
) -> None:
    answers: set[str] = set()
    for place, upstream, spec in places:
        reply = told(place, QUESTION)
        assert reply.status_code == 200, reply.text
        said = json.loads(reply.text)
        answers.add(said["choices"][0]["message"]["content"])
        once = len(f"{spec.prompt.system} {QUESTION}".split())
        assert said["usage"]["prompt_tokens"] == rotating.ROTATIONS * once
        (row,) = [row for row in place.closed().values() if row.input_text == QUESTION]
        assert row.input_tokens == said["usage"]["prompt_tokens"]
        assert ask.ask(upstream, llama_cpp.request_template(spec), [QUESTION])[0].text in answers
        vector = plain_http.post(f"{place.url}/v1/embeddings", json={"input": QUESTION}, timeout=30)
        assert vector.status_code == 200, vector.text
    assert len(answers) == 1
    place, _, spec = places[-1]
    twins = json.loads(told(place, "A Muslim asks.").text)["usage"]["prompt_tokens"]
    assert spec.average is not None
    assert twins > (len(spec.average.groups) * rotating.ROTATIONS - 1) * len(spec.prompt.system.split())


@pytest.mark.parametrize("more", [{"stream": True}, {"n": 2}, {"temperature": 1}, {"tools": [{"type": "function"}]}])
def test_what_has_no_majority_is_refused_of_orders_as_of_twins(
    places: list[tuple[Place, Upstream, VersionSpec]], more: dict[str, object]
) -> None:
    reply = told(places[0][0], QUESTION, **more)
    assert reply.status_code == 400
    assert next(iter(more)) in reply.text


def test_a_rotation_is_part_of_the_version_and_its_absence_changes_no_hash() -> None:
    spec = spec_of(list(INTENTS), SHAPES[0], ["high", "low"])
    plain = spec.model_copy(update={"rotate": ()})
    assert plain.hash != spec.hash
    assert "rotations" not in llama_cpp.request_template(plain)
    assert "rotate" not in plain.model_dump(exclude={name for name in ("rotate",) if not plain.rotate})
    assert VersionSpec.model_validate_json(spec.model_dump_json()).hash == spec.hash
