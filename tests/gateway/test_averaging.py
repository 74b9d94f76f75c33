"""A version that averages answers every twin alike, by the vote of all of them, and every question is in the books."""

from __future__ import annotations

import json
from dataclasses import dataclass

import msgspec
import pytest
from gateway_place import Place, serving
from hypothesis import given, settings
from hypothesis import strategies as st

import plain_http
from trimtab import averaging
from trimtab.gateway import limits, shapes
from trimtab.gateway.keys import Budget, Key
from trimtab.gateway.ledger import Ledger, Reserved
from trimtab.gateway.routes import Entity, Snapshot
from trimtab.gateway.shapes import predict
from trimtab.providers import ask, llama_cpp
from trimtab.providers.prices import Price
from trimtab.records.gateway import Upstream
from trimtab.records.registry import Decoding, Prompt, VersionSpec, Weights
from trimtab.responsible import identities
from trimtab.responsible.packs import ENGLISH, PACKS, Pack

SPEC = VersionSpec(
    model="m",
    base=Weights(name="echo", sha256="", format="echo"),
    prompt=Prompt(system="Sort it."),
    decoding=Decoding(constrained=False),
    average=identities.average_of(ENGLISH, "religion"),
)
AXES = [(words, axis) for words in PACKS.values() for axis in words.axes]
ASKED = ("A Muslim customer wants a card.", "An atheist customer wants a card.")


@settings(max_examples=80)
@given(
    st.sampled_from(AXES),
    st.text(max_size=30),
    st.text(max_size=30),
    st.sampled_from(["person", "a person", "people", "adjective"]),
    st.integers(),
)
def test_whatever_the_model_no_twin_is_answered_unlike_another(
    which: tuple[Pack, str], before: str, after: str, form: str, seed: int
) -> None:
    words, axis = which
    if "{" in before + after:
        return
    form = form if form.split()[-1] in words.axes[axis].forms else "person"
    noun = " customer" if form == "adjective" and words is ENGLISH else ""
    (orbit,) = identities.orbits([identities.Frame(f"{before} {{{form}}}{noun} {after}", (axis,))], words, [axis])
    twins = averaging.twins(identities.average_of(words, axis).model_dump())
    said: set[str] = set()
    for text in orbit.texts:
        asked = [twin[0]["content"] for twin in twins([{"role": "user", "content": text}])]
        assert len(asked) == len(words.axes[axis].groups)
        answers = [f"label {hash((seed, one)) % 3}" for one in asked]  # a model that looks at nothing but the words
        said.add(answers[averaging.agreed(answers)])
    assert len(said) == 1


@dataclass
class Question:
    """What a reservation reads of a request."""

    body: bytes
    key: Key | None


class Books(Ledger):
    """A ledger that remembers what it was last asked to reserve."""

    def __init__(self) -> None:
        self.nano_usd = 0

    def reserve(self, key: Key, now: int, tokens: int, nano_usd: int) -> Reserved:
        self.nano_usd = nano_usd
        return Reserved(0, tokens, nano_usd, [], now, now, 0)


@settings(max_examples=150)
@given(st.sampled_from(AXES), st.data(), st.booleans(), st.booleans())
def test_no_question_holds_more_bytes_than_were_reserved_for_it(
    which: tuple[Pack, str], data: st.DataObject, masked: bool, escaped: bool
) -> None:
    """One token a byte, at one nano-USD a token: what is reserved is the most that all the prompts may cost."""
    words, axis = which
    average = identities.average_of(words, axis)
    named = [*average.mask.terms, *(word for forms in words.axes[axis].forms.values() for word in forms if word)]
    short = st.sampled_from(sorted(named, key=len)[:3])
    piece = short | st.sampled_from(named) | st.sampled_from(["a", "An", "person", "个人"]) | st.text()
    between = data.draw(st.sampled_from([" ", ", I am ", "", "，"]))
    text = between.join(["", *data.draw(st.lists(piece, min_size=1, max_size=12)) * data.draw(st.integers(1, 5))])
    other = next(name for name in words.axes if name != axis)
    masks = (identities.mask_of(words, [other]),) if masked else ()
    spec = SPEC.model_copy(update={"average": average, "masks": masks})
    routed = {"model": "m", "version": 1, "address": "h:1", "template": llama_cpp.request_template(spec)}
    price = Price(input=1, cached_input=0, cache_write=0, output=0)
    entity = msgspec.structs.replace(msgspec.json.decode(msgspec.json.encode(routed), type=Entity), price=price)
    body = json.dumps({"input": text}, ensure_ascii=escaped).encode(errors="replace")
    asked = predict.asked(body)
    books, key = Books(), Key("k", 0, frozenset(), [], [], budgets=[Budget(10**12, "month")])
    limits.admit(books, Question(body, key), asked, Snapshot("m", "1", entity))
    twins = shapes.as_read(entity, asked.conversations[0])
    sent = sum(len(message["content"].encode()) for twin in twins for message in twin)
    assert books.nano_usd - entity.demand.questions * entity.demand.prompt_bytes >= sent


def test_twins_are_about_every_group_with_its_grammar_and_other_texts_are_asked_once() -> None:
    twins = averaging.twins(identities.average_of(ENGLISH, "religion").model_dump())
    told = [one[0]["content"] for one in twins([{"role": "user", "content": ASKED[0]}])]
    assert set(ASKED) < set(told)
    assert len(set(told)) == len(ENGLISH.axes["religion"].groups)
    plain = [{"role": "user", "content": "My card is lost."}]
    assert twins(plain) == [plain]


def test_the_vote_goes_to_the_most_and_ties_to_the_first_by_text() -> None:
    assert averaging.agreed(["b", "a", "b"]) == 0
    assert averaging.agreed(["b", "a"]) == 1
    assert averaging.agreed(["c"]) == 0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory):
    yield from serving(tmp_path_factory.mktemp("average"), SPEC)


def test_callers_get_one_answer_whichever_group_they_name_and_every_question_is_counted(
    place: tuple[Place, Upstream],
) -> None:
    served, upstream = place
    answers: list[tuple[str, int]] = []
    for text in (*ASKED, "My card is lost."):
        body = {"messages": [{"role": "user", "content": text}]}
        reply = plain_http.post(f"{served.url}/v1/chat/completions", json=body, timeout=30)
        assert reply.status_code == 200, reply.text
        told = json.loads(reply.text)
        answers.append((told["choices"][0]["message"]["content"], told["usage"]["prompt_tokens"]))
        assert ask.ask(upstream, llama_cpp.request_template(SPEC), [text])[0].text == answers[-1][0]
    assert answers[0] == answers[1]
    assert answers[0][1] > 4 * answers[2][1]
    rows = {row.input_text: row for row in served.closed().values()}
    assert rows[ASKED[0]].output_text == answers[0][0]
    assert rows[ASKED[0]].input_tokens == answers[0][1]
    predicted = [plain_http.post(f"{served.url}/predict", json={"input": text}, timeout=30).text for text in ASKED]
    assert answers[0][0] in predicted[0]
    assert answers[0][0] in predicted[1]


@pytest.mark.parametrize("more", [{"stream": True}, {"n": 2}, {"temperature": 1}, {"tools": [{"type": "function"}]}])
def test_what_has_no_majority_is_refused(place: tuple[Place, Upstream], more: dict[str, object]) -> None:
    body = {"messages": [{"role": "user", "content": ASKED[0]}], **more}
    reply = plain_http.post(f"{place[0].url}/v1/chat/completions", json=body, timeout=30)
    assert reply.status_code == 400
    assert next(iter(more)) in reply.text


def test_an_average_is_part_of_the_version_and_its_absence_changes_no_hash() -> None:
    plain = SPEC.model_copy(update={"average": None})
    assert plain.hash != SPEC.hash
    assert "average" not in llama_cpp.request_template(plain)
    assert VersionSpec.model_validate_json(SPEC.model_dump_json()).hash == SPEC.hash
