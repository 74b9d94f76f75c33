"""A twin differs from its text in the declared names, and in nothing else."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import Fixable
from trimtab.records.training import Case
from trimtab.responsible.swaps import augment, twin

GROUPS = {
    "a": ("Emily Walsh", "Greg Baker", "Anne-Marie O'Brien", "Will Grace Young"),
    "b": ("Lakisha Washington", "Jamal Jones", "Nia Baker"),
    "c": ("Mei Ling Chen", "Xiu Wang"),
}


def test_the_name_changes_wherever_it_is_written_and_keeps_its_case() -> None:
    text = "Hi, Emily here - EMILY WALSH, emily.walsh@example.org. It's Emily's parcel, Emilya.\nFrom: Emily  Walsh"
    made = twin(text, {"a": ("Emily Walsh",), "b": ("Lakisha Washington",)})
    assert made is not None
    assert made.text == (
        "Hi, Lakisha here - LAKISHA WASHINGTON, lakisha.washington@example.org. It's Lakisha's parcel, Emilya.\n"
        "From: Lakisha  Washington"
    )
    assert (made.group, made.other_group, made.name) == ("a", "b", "Emily Walsh")
    assert made.replacement == "Lakisha Washington"


def test_a_word_that_only_looks_like_a_first_name_stays() -> None:
    made = twin("i will pay, graceful Greg\nFrom: Will Grace Young", {"a": GROUPS["a"], "b": ("Jamal Jones",)})
    assert made is not None
    assert made.text == "i will pay, graceful Greg\nFrom: Jamal Jones"


def test_another_persons_full_name_stays() -> None:
    made = twin(
        "Nia Baker told Baker no.\nFrom: Greg Baker", {"b": ("Jamal Jones",), "a": ("Greg Baker",), "c": ("Nia Baker",)}
    )
    assert made is not None
    assert made.group == "c"
    swapped = twin("Greg Baker met Nia Baker, says Baker", {"a": ("Greg Baker",), "b": ("Nia Baker", "Xiu Wang")})
    assert swapped is not None
    assert swapped.text == "Xiu Wang met Nia Baker, says Wang"


def test_no_declared_name_no_twin() -> None:
    assert twin("Emily asks about her parcel, wrote Walsh", GROUPS) is None
    assert twin("From: Emily Walsh-Jones", GROUPS) is None


@pytest.mark.parametrize(
    "groups",
    [{}, {"a": ("Emily Walsh",)}, {"a": ("Emily Walsh",), "b": ()}, {"a": ("Emily Walsh",), "b": ("emily  walsh",)}],
)
def test_groups_that_cannot_be_swapped_are_refused(groups: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(Fixable, match="swaps"):
        twin("From: Emily Walsh", groups)


WORDS = st.lists(
    st.sampled_from(["Ann", "Bo", "Cy", "Di", "ann", "BO", "-", ".", "\n", " ", " ", "x", "é", "Ann-Bo"]), max_size=14
)
NAMES = st.permutations(["Ann Bo", "Bo Cy", "Cy Ann", "Di Bo", "Ann Cy", "Di", "Cy Di Ann"])


@given(WORDS, NAMES, st.integers(2, 3))
def test_no_declared_name_of_the_old_group_is_left(words: list[str], names: list[str], count: int) -> None:
    text = " ".join(words)
    groups = {f"g{i}": tuple(names[i::count]) for i in range(count)}
    made = twin(text, groups)
    if made is None:
        return
    assert made.text != text
    separated = re.sub(r"(?<!\w)-|-(?!\w)|[^\w-]+", " ", made.text.lower())
    flat = f" {' '.join(separated.split())} "
    assert not [name for name in groups[made.group] if f" {name.lower()} " in flat]


FILLER = st.text(st.characters(codec="utf-8", exclude_characters="EWLJ"), max_size=12)


@given(st.lists(FILLER, min_size=2, max_size=6), st.sampled_from(GROUPS["a"][:2]))
def test_everything_but_the_name_is_byte_identical(fillers: list[str], name: str) -> None:
    frame = " {} ".join(piece.replace("{", "").replace("}", "") for piece in fillers)
    made = twin(frame.format(*[name] * (len(fillers) - 1)), GROUPS)
    assert made is not None
    assert made.text == frame.format(*[made.replacement] * (len(fillers) - 1))
    assert made == twin(frame.format(*[name] * (len(fillers) - 1)), GROUPS)


def test_augmenting_adds_twins_under_the_same_label_and_every_name_gets_its_turn() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    cases = [
        Case(request_id=f"r{i}", at=at, input=f"parcel {i}\nFrom: Emily Walsh", label={"urgency": "high"})
        for i in range(60)
    ]
    plain = Case(request_id="p", at=at, input="no name", label={"urgency": "low"})
    made = augment([*cases, plain], GROUPS)
    assert made[:61] == [*cases, plain]
    assert [case.request_id for case in made[61:]] == [f"r{i}~twin" for i in range(60)]
    assert {case.label["urgency"] for case in made[61:]} == {"high"}
    written = {case.input.split("From: ")[1] for case in made[61:]}
    assert written == {*GROUPS["b"], *GROUPS["c"]}
