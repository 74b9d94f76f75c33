"""The card says what the records say, in the same bytes each time, and names what was not recorded."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from ruamel.yaml import YAML

from trimtab.records.erasure import Tombstone
from trimtab.records.guidelines import Drill, Guidelines
from trimtab.records.monitor import Interval
from trimtab.records.promotion import Decision, GateResult, RolloutLook
from trimtab.records.registry import (
    AliasMove,
    Decoding,
    LabelSet,
    ModelVersion,
    ProjectFile,
    Prompt,
    VersionSpec,
    Weights,
)
from trimtab.records.training import DatasetVersion, TrainingRun
from trimtab.responsible import data_card
from trimtab.responsible.card import gaps, render

AT = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
LABELS = LabelSet(fields={"intent": ("refund", "login"), "urgency": ("low", "high")})
SPEC = VersionSpec(
    model="triage",
    base=Weights(name="smollm2-135m-instruct", sha256="b1" * 32),
    adapter_sha256="ad" * 32,
    prompt=Prompt(system="Sort the message.\nOne line."),
    decoding=Decoding(),
    labels=LABELS,
)
VERSION = ModelVersion(spec=SPEC, version=2, run_id="run2", config_hash="cf" * 32, parent=1, created_at=AT)
FAIRNESS = GateResult(
    gate="fairness",
    verdict="pass",
    test="pairs | twins",
    n=100,
    value=Interval(estimate=0.01, low=-0.02, high=0.05, confidence=0.9, method="Tango"),
    limit="|gap| < 0.1",
    detail="The gap is small.",
    numbers={"flip_rate": 0.04, "flip_rate_upper": 0.089},
    examples=("A -> high, B -> low: first line\nsecond | line",),
)
QUALITY = GateResult(
    gate="quality",
    verdict="pass",
    test="paired",
    n=60,
    value=Interval(estimate=0.4, low=0.27, high=0.52, method="Tango"),
    limit="lower bound > -0.02",
    detail="Right on 54 of 60.",
    numbers={"accuracy_candidate": 0.9},
)
EVERYTHING: dict[str, Any] = {
    "dataset": DatasetVersion(
        hash="da" * 32,
        recipe="r",
        mitigation="counterfactual_augmentation",
        path="/p",
        n_train=140,
        n_holdout=60,
        n_frames=100,
        labels=LABELS,
        new_labels={"intent": ("phishing",)},
        excluded={"duplicate": 7, "pii": 2},
        nearest_leak=0.71,
        cut=AT,
    ),
    "training": TrainingRun(
        key="t1",
        dataset_hash="da" * 32,
        base_sha256="b1" * 32,
        params={"rank": 8, "epochs": 1.0},
        steps=18,
        loss_first=1.2,
        loss_last=0.1,
        seconds=44,
        adapter_sha256="ad" * 32,
    ),
    "decision": Decision(
        key="c1/1/decide",
        model="triage",
        candidate=2,
        champion=1,
        outcome="promote",
        reasons=("All passed.",),
        gates=(QUALITY, FAIRNESS),
        at=AT,
    ),
    "moves": [
        AliasMove(model="triage", alias="champion", before=1, after=2, at=AT, actor="cycle c1", reason="steps done"),
        AliasMove(model="triage", alias="champion", before=None, after=1, at=AT, actor="cli", reason="first of all"),
    ],
    "looks": [
        RolloutLook(
            model="triage",
            candidate=2,
            percent=10,
            at=AT,
            n_canary=20,
            n_champion=180,
            failures_canary=0,
            failures_champion=1,
            e_value=0.2,
            alpha=0.05,
            difference=None,
            verdict="advance",
            reason="fine",
        )
    ],
}


FILE_SAID = ProjectFile(model="triage", hash="cf" * 32, at=AT, watched=("Input drift.",), guidelines_sha256="9d" * 32)


def front_matter(card: str) -> dict[str, Any]:
    return YAML(typ="safe").load(card.split("---\n")[1])


def test_the_card_tells_the_whole_story_of_a_version() -> None:
    card = render(VERSION, license="Apache-2.0", **EVERYTHING)
    for fact in [
        SPEC.hash,
        "ad" * 32,
        "da" * 32,
        "cf" * 32,
        "| training rows | 140 |",
        "7 duplicate, 2 pii",
        "intent: phishing",
        "18 steps in 44 s (epochs 1.0, rank 8)",
        "| quality | pass | 60 | 0.400 (0.270 to 0.520, 95%) | lower bound > -0.02 | paired |",
        "pairs \\| twins",
        "- A -> high, B -> low: first line second \\| line",
        "4.0% changed in any way (below 8.9% at 95% confidence)",
        "removes dependence on declared names only",
        "**promote** at 2026-03-01T09:30:00+00:00, against version 1 (`c1/1/decide`)",
        "| champion | version 1 | version 2 | cycle c1 | steps done |",
        "| 10% | 0/20 | 1/180 | 0.2 of 20 | not measured | advance |",
    ]:
        assert fact in card
    assert "first of all" not in card  # another version's move


def test_the_metadata_is_what_hugging_face_reads() -> None:
    card = render(VERSION, license="Apache-2.0", **EVERYTHING)
    block = front_matter(card)
    assert (block["license"], block["language"], block["base_model"]) == ("apache-2.0", ["en"], "smollm2-135m-instruct")
    assert block["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.9
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard(card).data
    assert data.eval_results[0].metric_value == 0.9
    assert data.datasets == ["triage-dadadadadada"]


def test_the_same_records_give_the_same_bytes() -> None:
    assert render(VERSION, license="mit", **EVERYTHING) == render(VERSION, license="mit", **EVERYTHING)


def test_what_has_no_record_is_named_not_filled_in() -> None:
    card = render(VERSION.model_copy(update={"spec": SPEC.model_copy(update={"labels": None})}), license="unknown")
    assert card.count("Not recorded.") == 10
    assert gaps(card) == [
        "Intended use",
        "Data",
        "Training",
        "Human oversight",
        "Risks",
        "What the clauses speak to",
        "Monitoring",
    ]
    assert "Not measured. Nothing is known about how answers differ between people." in card
    assert "model-index" not in front_matter(card)
    assert front_matter(card)["pipeline_tag"] == "text-generation"


def test_the_headings_are_those_of_annex_iv_and_the_guidelines_fill_them() -> None:
    book = Guidelines.model_validate(
        {
            "system": "desk",
            "owner": "team@example.org",
            "intended_use": {"purpose": "Sorts messages.", "users": ["staff"]},
            "prohibited_use": ["credit decisions"],
            "risks": ["It may sort wrongly."],
            "oversight": "The head of the desk can stop it.",
            "clauses": [
                {"id": "LOG-01", "text": "Kept.", "check": "log.retention", "maps": ["AIA-19", "ISO42001-A.6.2.8"]}
            ],
        }
    )
    drill = Drill(kind="rollback", at=AT, by="ana", seen="version 2 -> 1")
    more: dict[str, Any] = {"guidelines": book, "drills": [drill], "file": FILE_SAID}
    card = render(VERSION, license="Apache-2.0", **EVERYTHING, **more)
    titles = [line for line in card.splitlines() if line.startswith("## ")]
    assert titles[0] == "## 1. General description"
    assert [title[3] for title in titles[:9]] == list("123456789")
    assert gaps(card) == []
    for fact in [
        "- Not for: credit decisions",
        "It may sort wrongly.",
        "version 2 -> 1",
        "ISO/IEC 42001:2023: ISO42001-A",
    ]:
        assert fact in card
    assert "compliant" not in card.lower()


def test_the_data_card_says_what_is_in_the_data_and_what_was_erased() -> None:
    dataset = EVERYTHING["dataset"]
    stone = Tombstone(
        subject="5e", at=AT, by="cli", rows=2, feedback=1, journal_frames=0, dataset_rows={dataset.hash: 2},
        versions=(2,), key_destroyed=True,
    )  # fmt: skip
    card = data_card.render(dataset, model="triage", versions=[2], tombstones=[stone])
    block = front_matter(card)
    assert (block["pretty_name"], block["size_categories"]) == ("triage dadadadadada", ["n<1K"])
    for fact in [
        "| train | 140 |",
        "| duplicate | 7 |",
        "Trained on it: version 2",
        "| 2026-03-01T09:30:00+00:00 | 2 |",
    ]:
        assert fact in card
    assert card == data_card.render(dataset, model="triage", versions=[2], tombstones=[stone])
