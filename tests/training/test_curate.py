"""Training never sees what it must not: the laws of curation, for any traffic."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from trimtab import settings as settings_module
from trimtab.errors import Fixable, StepFailed
from trimtab.records.project import RetrainSection
from trimtab.records.registry import LabelSet
from trimtab.records.training import Case, DatasetVersion, Mitigation
from trimtab.responsible.swaps import Groups, resample
from trimtab.training.curate import NEAR, assert_no_leak, body, curate, held_out, similarity

START = datetime(2026, 5, 4, 8, 0, tzinfo=UTC)
LABELS = LabelSet(fields={"intent": ("refund", "login"), "urgency": ("low", "high")})
SECTION = RetrainSection(holdout=0.3, new_label_min=3)
NAMES: Groups = {"a": ("Emily Walsh", "Greg Baker"), "b": ("Lakisha Washington", "Jamal Robinson")}
SENDERS = ("Emily Walsh", "Greg Baker", "Lakisha Washington", "Jamal Robinson", "Ann Other")
_choose = random.Random(5)  # noqa: S311
_WORDS = ["".join(_choose.choices("abcdefghijklmnoprstuvwz", k=6)) for _ in range(600)]
TEXTS = [" ".join(_choose.sample(_WORDS, 8)) for _ in range(160)]
TEXTS[5] = TEXTS[5].replace(" ", "\u2028", 1)  # a line break for str.splitlines, none for JSON


@dataclass(frozen=True)
class Row:
    """One request as a test needs it; `intent` None: nobody labelled it."""

    text: str
    intent: str | None = "refund"
    minute: int | None = None


def table(rows: Iterable[Row]) -> pl.DataFrame:
    """The rows as `Lake.labelled` gives them, one a minute."""
    columns: dict[str, list[object]] = {
        "row": [],
        "databricks_request_id": [],
        "request_time": [],
        "input_text": [],
        "label": [],
    }
    for number, row in enumerate(rows):
        said = None if row.intent is None else json.dumps({"intent": row.intent, "urgency": "low"})
        at = START + timedelta(minutes=number if row.minute is None else row.minute)
        for column, value in zip(columns.values(), (number, f"r{number}", at, row.text, said), strict=True):
            column.append(value)
    return pl.DataFrame(columns, schema_overrides={"request_time": pl.Datetime("us", "UTC"), "label": pl.String})


def run(rows: Iterable[Row] | pl.DataFrame, mitigation: Mitigation = "none", cut: int = 10_000) -> DatasetVersion:
    return curate(
        settings_module.load(tempfile.mkdtemp()),
        rows if isinstance(rows, pl.DataFrame) else table(rows),
        model="triage",
        labels=LABELS,
        section=SECTION,
        mitigation=mitigation,
        swaps=NAMES,
        cut=START + timedelta(minutes=cut),
    )


def part(dataset: DatasetVersion, name: str) -> list[Case]:
    return [Case.model_validate_json(line) for line in (Path(dataset.path) / f"{name}.jsonl").read_text().splitlines()]


def bodies(dataset: DatasetVersion, name: str) -> set[str]:
    return {body(case.input) for case in part(dataset, name)}


ENOUGH = [Row(text) for text in TEXTS[:70]]
traffic = st.lists(
    st.builds(
        lambda text, sender, intent: Row(f"{text}\nFrom: {sender}", intent),
        st.sampled_from(TEXTS),
        st.sampled_from(SENDERS),
        st.sampled_from(["refund", "login", "phishing", None]),
    ),
    max_size=60,
)


@given(traffic, st.sampled_from(["none", "counterfactual_augmentation"]), st.randoms())
@effort(max_examples=30)
def test_train_is_disjoint_from_holdout_and_frames_and_the_same_for_the_same_rows(
    rows: list[Row], mitigation: Mitigation, order: random.Random
) -> None:
    lake = table([*ENOUGH, *rows])
    dataset = run(lake, mitigation)
    train, holdout, frames = (part(dataset, name) for name in ("train", "holdout", "frames"))
    assert (len(train), len(holdout), len(frames)) == (dataset.n_train, dataset.n_holdout, dataset.n_frames)

    texts = [case.input for case in train]
    assert not {body(text) for text in texts} & (bodies(dataset, "holdout") | bodies(dataset, "frames"))
    assert similarity(texts, [case.input for case in frames]).max() < NEAR
    assert similarity(texts, [case.input for case in holdout]).max() == pytest.approx(dataset.nearest_leak)
    assert {case.input for case in holdout} <= {case.input for case in frames}

    own = [body(case.input) for case in train if not case.request_id.endswith("~twin")]
    assert len(own) == len(set(own))
    assert all(not held_out(text, SECTION.holdout) for text in own)
    asked = dict(zip(lake["databricks_request_id"], lake["label"], strict=True))
    for case in train + holdout:
        assert json.loads(asked[case.request_id.removesuffix("~twin")]) == case.label
        assert dataset.labels.parse(json.dumps(case.label)) is not None

    again = run(lake.sample(fraction=1.0, shuffle=True, seed=order.randrange(2**31)), mitigation)
    assert again.hash == dataset.hash
    assert again.model_dump(exclude={"path"}) == dataset.model_dump(exclude={"path"})


@given(traffic, traffic)
@effort(max_examples=20)
def test_what_was_held_out_once_stays_held_out(first: list[Row], later: list[Row]) -> None:
    before = run([*ENOUGH, *first])
    after = run([*ENOUGH, *first, *later], "counterfactual_augmentation")
    assert bodies(before, "holdout") <= bodies(after, "holdout")
    assert not bodies(before, "holdout") & bodies(after, "train")


@given(st.integers(0, 6))
@effort(max_examples=7)
def test_a_label_joins_when_enough_people_used_it_and_is_left_out_before(people: int) -> None:
    dataset = run([*ENOUGH, *(Row(text, "phishing") for text in TEXTS[100 : 100 + people])])
    used = {case.label["intent"] for name in ("train", "holdout") for case in part(dataset, name)}
    if people >= SECTION.new_label_min:
        assert dataset.new_labels == {"intent": ("phishing",)}
        assert dataset.labels.fields["intent"] == ("refund", "login", "phishing")
        assert "phishing" in used
    else:
        assert dataset.labels == LABELS
        assert dataset.excluded.get("rare label", 0) == people
        assert used == {"refund"}


def test_each_reason_to_leave_a_row_out_is_counted() -> None:
    held = next(text for text in TEXTS[70:] if held_out(body(text), SECTION.holdout))
    nearly = next(f"{held} {word}" for word in "abcdefgh" if not held_out(body(f"{held} {word}"), SECTION.holdout))
    free = next(text for text in TEXTS[:70] if not held_out(body(text), SECTION.holdout))
    rows = [
        *ENOUGH,
        Row(held),
        Row(nearly),
        Row(f"{free.upper()}!\nFrom: Greg Baker", "login"),
        Row("Call me on 07700 900123, the lamp is broken"),
        Row(" "),
    ]
    lake = table(rows)
    partial = pl.when(pl.col("row") == 3).then(pl.lit('{"intent":"login"}')).otherwise(pl.col("label"))
    dataset = run(lake.with_columns(label=partial))
    reasons = ("duplicate", "incomplete label", "near hold-out", "no text", "personal data")
    assert dataset.excluded == dict.fromkeys(reasons, 1)
    assert [case.label["intent"] for case in part(dataset, "train") if body(case.input) == free] == ["login"]


def test_rows_after_the_cut_are_not_seen() -> None:
    rows = [replace(row, minute=index) for index, row in enumerate(Row(text) for text in TEXTS[:100])]
    dataset = run(rows, cut=69)
    assert dataset.hash == run(rows[:70]).hash
    assert {case.at for case in part(dataset, "train")} <= {START + timedelta(minutes=m) for m in range(70)}


def test_augmentation_doubles_named_rows_and_never_brings_a_held_out_text_in() -> None:
    """The same words under Emily's name are free, under the other name held out: the twin would be that very text."""
    pair: Groups = {"a": ("Emily Walsh",), "b": ("Lakisha Washington",)}
    for number in range(1000):
        free, shut = (f"{name} asks: {TEXTS[0]} {number}?" for name in ("Emily Walsh", "Lakisha Washington"))
        if held_out(body(shut), SECTION.holdout) and not held_out(body(free), SECTION.holdout):
            break
    rows = [*ENOUGH[1:], Row(f"{TEXTS[99]} says Emily Walsh", "login"), Row(free), Row(shut)]

    def tuned(mitigation: Mitigation) -> DatasetVersion:
        folder = settings_module.load(tempfile.mkdtemp())
        args = {"model": "triage", "labels": LABELS, "section": SECTION, "cut": START + timedelta(days=9)}
        return curate(folder, table(rows), mitigation=mitigation, swaps=pair, **args)  # type: ignore[arg-type]

    plain, augmented = tuned("none"), tuned("counterfactual_augmentation")
    assert body(free) in bodies(plain, "train")
    assert not {body(free), body(shut)} & bodies(augmented, "train")
    assert body(shut) in bodies(augmented, "holdout") & bodies(augmented, "frames")
    twins = [case for case in part(augmented, "train") if case.request_id.endswith("~twin")]
    assert [case.input for case in twins] == [f"{TEXTS[99]} says Lakisha Washington"]
    assert twins[0].label["intent"] == "login"
    assert bodies(augmented, "holdout") == bodies(plain, "holdout")
    assert augmented.hash != plain.hash


@given(st.lists(st.tuples(st.sampled_from(["a", "b", ""]), st.sampled_from(["low", "high"])), min_size=1, max_size=200))
def test_reweighed_rows_have_labels_that_do_not_depend_on_the_group(rows: list[tuple[str, str]]) -> None:
    names = {"a": "Emily Walsh", "b": "Lakisha Washington", "": "nobody"}
    groups: Groups = {"a": (names["a"],), "b": (names["b"],)}
    cases = [
        Case(request_id=f"r{i}", at=START, input=f"{names[group]} asks {i}", label={"urgency": value})
        for i, (group, value) in enumerate(rows)
    ]
    found = resample(cases, groups, "urgency")
    assert set(map(repr, found)) <= set(map(repr, cases))
    groups_of, values = [group for group, _ in rows], [value for _, value in rows]
    for cell in set(rows):
        expected = groups_of.count(cell[0]) * values.count(cell[1]) / len(rows)
        got = sum((names[cell[0]] in case.input, case.label["urgency"]) == (True, cell[1]) for case in found)
        assert abs(got - expected) <= 0.5
    assert resample(cases, groups, "urgency") == found


def test_a_leak_stops_the_cycle() -> None:
    at, label = START, {"intent": "refund", "urgency": "low"}
    train = [Case(request_id=f"r{i}", at=at, input=TEXTS[i], label=label) for i in range(4)]
    nearly = Case(request_id="h", at=at, input=f"{TEXTS[2]}!! \nFrom: Ann Other", label=label)
    assert assert_no_leak(train, [Case(request_id="h", at=at, input=TEXTS[50], label=label)], []) < NEAR
    for holdout, frames in (([nearly], []), ([], [nearly])):
        with pytest.raises(StepFailed, match="leak: the train text of request r2"):
            assert_no_leak(train, holdout, frames)


def test_too_few_rows_say_how_many_there_are_and_what_to_do() -> None:
    with pytest.raises(StepFailed, match=r"too few rows: \d+ to train on .* from 20 labelled; .* Post more labels"):
        run([Row(text) for text in TEXTS[:20]])
    with pytest.raises(Fixable, match="no label set") as caught:
        curate(
            settings_module.load(tempfile.mkdtemp()),
            table(ENOUGH),
            model="triage",
            labels=LabelSet(fields={}),
            section=SECTION,
            mitigation="none",
            swaps=None,
            cut=START,
        )
    assert caught.value.fix == "name a labels file under task.labels"
