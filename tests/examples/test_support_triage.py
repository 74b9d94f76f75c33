"""The example's data are what its data card says, and nobody can do well on the hold-out by having seen it."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import polars as pl
import pytest
from scipy.stats import binomtest, chi2_contingency

from trimtab import project
from trimtab import settings as settings_module
from trimtab.project import Loaded
from trimtab.records.training import Case
from trimtab.responsible.swaps import Groups, twin
from trimtab.training import curate

EXAMPLE = Path(__file__).parents[2] / "examples" / "support-triage"
NEW_INTENTS = {"recall", "phishing"}
START = datetime(2026, 5, 4, 8, 0, tzinfo=UTC)
ECHO_WORDS = 8
"""So many words in a row in two messages are an echo: a template, or one message written twice."""

Ticket = dict[str, str]


@cache
def period(number: int) -> list[Ticket]:
    lines = (EXAMPLE / f"tickets-period{number}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def tickets() -> list[Ticket]:
    return [*period(1), *period(2)]


@cache
def loaded() -> Loaded:
    return project.load(EXAMPLE)


def name_groups() -> Groups:
    swaps = loaded().swaps
    assert swaps is not None
    return swaps["name_group"]


def text_of(ticket: Ticket) -> str:
    """What the model reads."""
    return f"{ticket['message']}\n\nFrom: {ticket['name']}"


def test_the_project_file_has_no_fault() -> None:
    assert project.check(EXAMPLE, START.date()) == []


def test_there_are_a_thousand_distinct_messages() -> None:
    assert len({ticket["message"] for ticket in tickets()}) == len(tickets()) >= 1000
    assert len({ticket["ticket_id"] for ticket in tickets()}) == len(tickets())


def test_two_intents_are_new_in_the_second_period_and_every_other_label_is_listed() -> None:
    labels = loaded().labels
    assert labels is not None
    first, second = ({ticket["intent"] for ticket in period(number)} for number in (1, 2))
    assert first == set(labels.fields["intent"])
    assert second == first | NEW_INTENTS
    for field in ("urgency", "true_urgency"):
        assert {ticket[field] for ticket in tickets()} == set(labels.fields["urgency"])


def test_every_ticket_has_a_twin_under_a_name_of_the_other_group() -> None:
    groups = name_groups()
    for ticket in tickets():
        assert ticket["name"] in groups[ticket["name_group"]]
        other = twin(text_of(ticket), groups)
        assert other is not None, f"{ticket['ticket_id']}: no twin"
        assert (other.name, other.group) == (ticket["name"], ticket["name_group"])
        assert other.replacement in groups[other.other_group]
        assert other.text.endswith(f"\n\nFrom: {other.replacement}")


@pytest.mark.parametrize("column", ["true_urgency", "intent"])
def test_names_say_nothing_about_the_ticket(column: str) -> None:
    counts = Counter((ticket["name_group"], ticket[column]) for ticket in tickets())
    values = sorted({ticket[column] for ticket in tickets()})
    table = [[counts[group, value] for value in values] for group in name_groups()]
    assert chi2_contingency(table).pvalue > 0.001


def test_the_planted_bias_is_the_one_that_the_data_card_states() -> None:
    stated = re.search(r"with probability ([0-9.]+)", (EXAMPLE / "DATA_CARD.md").read_text("utf-8"))
    assert stated is not None, "the data card states no probability"
    changed = [ticket for ticket in tickets() if ticket["urgency"] != ticket["true_urgency"]]
    assert {(t["name_group"], t["true_urgency"], t["urgency"]) for t in changed} == {("b", "high", "low")}
    truly_high = sum(ticket["name_group"] == "b" and ticket["true_urgency"] == "high" for ticket in tickets())
    interval = binomtest(len(changed), truly_high).proportion_ci(0.999, method="exact")
    assert interval.low <= float(stated[1].rstrip(".")) <= interval.high


def as_table(rows: list[Ticket]) -> pl.DataFrame:
    """The tickets as `Lake.labelled` gives them, all of them labelled."""
    return pl.DataFrame(
        {
            "row": range(len(rows)),
            "databricks_request_id": [ticket["ticket_id"] for ticket in rows],
            "request_time": [START + timedelta(minutes=number) for number in range(len(rows))],
            "input_text": [text_of(ticket) for ticket in rows],
            "label": [json.dumps({field: t[field] for field in ("intent", "title", "urgency")}) for t in rows],
        },
        schema_overrides={"request_time": pl.Datetime("us", "UTC")},
    )


@cache
def dataset() -> tuple[dict[str, int], float, dict[str, list[str]]]:
    """What the project's own curation left out, its nearest leak, and the texts of train and hold-out."""
    file = loaded()
    assert file.labels is not None
    with tempfile.TemporaryDirectory() as folder:
        made = curate(
            settings_module.load(folder),
            as_table(tickets()),
            model=file.project.name,
            labels=file.labels,
            section=file.project.retrain,
            mitigation="none",
            swaps=None,
            cut=START + timedelta(days=30),
        )
        parts = {name: (Path(made.path) / f"{name}.jsonl").read_text().splitlines() for name in ("train", "holdout")}
    texts = {name: [Case.model_validate_json(line).input for line in lines] for name, lines in parts.items()}
    return made.excluded, made.nearest_leak, texts


def test_curation_finds_no_near_duplicates_to_leave_out() -> None:
    from trimtab.training.curate import NEAR

    excluded, nearest_leak, texts = dataset()
    assert nearest_leak < NEAR
    assert excluded.get("duplicate", 0) + excluded.get("near hold-out", 0) <= len(tickets()) // 100
    assert len(texts["train"]) + len(texts["holdout"]) + sum(excluded.values()) == len(tickets())


def runs(text: str) -> set[tuple[str, ...]]:
    """Every run of ECHO_WORDS words of a message, without its sender's line."""
    words = re.findall(r"\w+", text.rpartition("\n\nFrom: ")[0].casefold())
    return {tuple(words[start : start + ECHO_WORDS]) for start in range(len(words) - ECHO_WORDS + 1)}


def test_no_held_out_message_echoes_one_that_is_trained_on() -> None:
    _, _, texts = dataset()
    trained: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for text in texts["train"]:
        for run in runs(text):
            trained[run].append(text)
    assert trained
    assert [(text, trained[run]) for text in texts["holdout"] for run in runs(text) if run in trained] == []
