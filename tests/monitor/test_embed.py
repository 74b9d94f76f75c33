"""A text's vector says what it is about, and nothing of who wrote it."""

from __future__ import annotations

import numpy as np
import pytest
from example_texts import PERIOD1, vectors
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from trimtab.monitor.texts import body, words

lines = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), max_size=60)


@given(st.lists(lines, max_size=4).map("\n".join), lines)
@examples(max_examples=200)
def test_the_writers_name_changes_neither_body_nor_words(text: str, name: str) -> None:
    if not body(text) or text.strip().splitlines()[-1].lstrip().startswith("From:"):
        return
    signed = f"{text}\nFrom: {name}"
    assert (body(signed), words(signed)) == (text.strip(), words(text))


def test_only_a_last_line_is_a_signature() -> None:
    assert body("From: the shop I got nothing\nsince Monday") == "From: the shop I got nothing\nsince Monday"
    assert body("From: Emily Walsh") == ""


def test_words_are_what_can_name_a_topic() -> None:
    assert words("I don't think the Battery's OK, we'll see: it’s 40° and SWOLLEN!\nFrom: Greg Baker") == [
        "think",
        "battery",
        "ok",
        "swollen",
    ]


@pytest.mark.parametrize(
    ("text", "alike", "other"),
    [
        ("where is my parcel", "the courier has not delivered the package", "I cannot log in, the password is refused"),
        ("charged twice on my card", "two payments were taken from my bank card", "how do I clean the kettle"),
    ],
)
def test_texts_on_one_topic_are_nearer(text: str, alike: str, other: str) -> None:
    a, b, c = vectors([text, alike, other])
    assert a @ b > a @ c + 0.1


def test_every_text_has_one_unit_vector_whatever_stands_beside_it() -> None:
    texts = [*PERIOD1[:40], "What is it?", "電池が膨らんでいます", "\N{GRINNING FACE}"]
    together = vectors(texts)
    assert together.shape == (len(texts), 256)
    assert np.linalg.norm(together, axis=1) == pytest.approx(1.0)
    assert np.array_equal(together, np.concatenate([vectors([text]) for text in texts]))
    assert not vectors(["", "From: Emily Walsh"]).any()
