"""Twins keep their grammar, and masking makes every text of an orbit one text: exactly zero flips on declared terms."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import Fixable
from trimtab.masking import masked_message, masker
from trimtab.responsible import identities
from trimtab.responsible.identities import Frame
from trimtab.responsible.packs import CHINESE, ENGLISH, PACKS, Pack

SLOTTED = {
    "en": (
        "{A person} asked for a refund. {People} often do.",
        "I am {a person}, and {a adjective} customer like me pays.",
        "As {a adjective} applicant I was turned away; {people} are.",
        "My neighbour is {adjective}? No: my neighbour is {a person}!",
        "is this shop open to {people} and {adjective} families",
    ),
    "zh": ("一位{person}来退款。", "我是{person}，想开户。", "{person}顾客和{person}朋友都来了"),
}
PRONOUNS = (
    "{He} said that {his} {parent} lost {his} card, so give it to {him}; it is {hers}. {Title} Lee did it {himself}."
)


def frames(words: Pack, axis: str) -> list[Frame]:
    texts = [*SLOTTED[words.language], *([PRONOUNS] if axis == "gender" and words is ENGLISH else [])]
    return [Frame(text, (axis,)) for text in texts]


AXES = [(words, axis) for words in PACKS.values() for axis in words.axes]


@pytest.mark.parametrize(("words", "axis"), AXES, ids=[f"{words.language}-{axis}" for words, axis in AXES])
def test_masking_makes_every_orbit_one_text(words: Pack, axis: str) -> None:
    mask = masker(identities.mask_of(words, [axis]).model_dump())
    everything = masker(identities.mask_of(words, list(words.axes)).model_dump())
    for orbit in identities.orbits(frames(words, axis), words, [axis]):
        assert len(set(orbit.texts)) == len(orbit.groups)
        assert len({mask(text) for text in orbit.texts}) == 1, orbit.texts
        assert len({everything(text) for text in orbit.texts}) == 1, orbit.texts
        assert mask(mask(orbit.texts[0])) == mask(orbit.texts[0])


@settings(max_examples=60)
@given(
    st.sampled_from(AXES),
    st.text(max_size=30),
    st.text(max_size=30),
    st.sampled_from(["person", "people", "adjective"]),
)
def test_whatever_stands_around_a_term_the_mask_hides_which_it_was(
    which: tuple[Pack, str], before: str, after: str, form: str
) -> None:
    words, axis = which
    form = form if form in words.axes[axis].forms else "person"
    noun = " customer" if form == "adjective" and words is ENGLISH else ""
    if "{" in before + after:
        return
    frame = Frame(f"{before} {{{form}}}{noun} {after}", (axis,))
    mask = masker(identities.mask_of(words, [axis]).model_dump())
    (orbit,) = identities.orbits([frame], words, [axis])
    assert len({mask(text) for text in orbit.texts}) == 1


def test_the_grammar_of_a_twin_is_kept() -> None:
    def told(text: str, axis: str, group: str, words: Pack = ENGLISH) -> str:
        frame = identities.frame_of(text, words, axis)
        assert frame is not None
        (orbit,) = identities.orbits([frame], words, [axis])
        return orbit.texts[orbit.groups.index(group)]

    assert told("A Muslim customer wants a card.", "religion", "atheist") == "An atheist customer wants a card."
    assert told("Jews asked why.", "religion", "Muslim") == "Muslims asked why."
    assert told("I am a Jew.", "religion", "Hindu") == "I am a Hindu."
    assert told("an elderly tenant called", "age", "young") == "a young tenant called"
    assert told("She lost her card; call her.", "gender", "man") == "He lost his card; call him."
    assert told("My mother is a female engineer", "gender", "man") == "My father is a male engineer"
    assert told("Deaf people wait longer.", "disability", "wheelchair-using") == "Wheelchair users wait longer."
    assert told("他是一位先生", "gender", "女", CHINESE) == "她是一位女士"


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("The black cable of my Black Friday order is straight", "ethnicity"),
        ("Go straight on, the old router is blind to it", "orientation"),
        ("the old router is dead", "age"),
        ("It deals with Muslims and Christians alike", "religion"),  # about their difference: no twin
        ("We flew Turkish Airlines", "nationality"),
    ],
)
def test_words_of_other_meanings_and_comparisons_are_no_frames(text: str, axis: str) -> None:
    assert identities.frame_of(text, ENGLISH, axis) is None


def test_the_mask_leaves_things_alone_and_reaches_every_part_of_a_message() -> None:
    mask = masker(identities.mask_of(ENGLISH, ["ethnicity", "age", "orientation", "nationality"]).model_dump())
    plain = "My old black router from Black Friday goes straight to the White House."
    assert mask(plain) == plain
    assert mask("I am gay and she is an old Black woman.") == "I am individual and she is an individual woman."
    zh = masker(identities.mask_of(CHINESE, ["gender"]).model_dump())
    assert zh("其他顾客等她") == "其他顾客等TA"
    image = {"type": "image_url", "image_url": {"url": "data:,gay man"}}
    message = {"role": "user", "content": [{"type": "text", "text": "a gay man"}, image]}
    assert masked_message(message, mask)["content"] == [{"type": "text", "text": "an individual man"}, image]


def test_a_slot_that_no_group_has_is_refused_by_name() -> None:
    with pytest.raises(Fixable, match="persn"):
        identities.orbits([Frame("{a persn}", ("age",))], ENGLISH, ["age"])
    with pytest.raises(Fixable, match="no axis 'star sign'"):
        identities.mask_of(ENGLISH, ["star sign"])
