"""The lake's tables have Databricks' columns, and its three questions are answered from them."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, date, datetime
from pathlib import Path

import msgspec
import polars as pl
import pytest
from deltalake import write_deltalake
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from journal_writer import closed, feedback

from trimtab import settings as trimtab_settings
from trimtab.settings import Settings
from trimtab.store.drain import drain
from trimtab.store.journal import Closed, FeedbackFrame, GuardEvent, Journal
from trimtab.store.lake import FEEDBACK, INFERENCE, LABELLED, Lake

DDL = """
databricks_request_id STRING, request_date DATE, client_request_id STRING, request_time TIMESTAMP, status_code INT,
sampling_fraction DOUBLE, execution_duration_ms BIGINT, request STRING, response STRING,
logging_error_codes ARRAY<STRING>, served_entity_id STRING, requester STRING,
time_to_first_byte_ms BIGINT, input_tokens BIGINT, output_tokens BIGINT, trace_id STRING,
request_tags MAP<STRING;STRING>, model_name STRING, model_version STRING,
row BIGINT, outcome STRING, route STRING, input_text STRING, output_text STRING,
cost_nano_usd BIGINT, cached_tokens BIGINT, cache_write_tokens BIGINT, reasoning_tokens BIGINT,
guard_events ARRAY<STRUCT<name:STRING;direction:STRING;action:STRING;found:STRING;count:BIGINT>>, guards_sha256 STRING
"""
"""Databricks' inference table (endpoints with AI Gateway), its request-log extras, then ours."""


def keep(place: Settings, *rows: Closed | FeedbackFrame) -> Lake:
    journal = Journal(place.journal)
    for row in rows:
        journal.closed(row) if isinstance(row, Closed) else journal.feedback(row)
    journal.close()
    drain(place)
    return Lake(place)


@pytest.fixture
def place(tmp_path: Path) -> Settings:
    return trimtab_settings.load(tmp_path)


@pytest.fixture(scope="module")
def hundred(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake with rows 0 to 99 in several files."""
    place = trimtab_settings.load(tmp_path_factory.mktemp("hundred"))
    for first in range(0, 100, 25):
        keep(place, *(closed(str(number)) for number in range(first, first + 25)))
    return Lake(place)


def test_the_table_in_its_own_log_has_databricks_names_types_and_order(place: Settings) -> None:
    keep(place, closed("a"))
    entry = (place.lake / "inference" / "_delta_log" / f"{0:020}.json").read_text()
    (metadata,) = [line["metaData"] for line in map(json.loads, entry.splitlines()) if "metaData" in line]
    names = {"integer": "INT", "long": "BIGINT"}

    def sql(type_: str | dict) -> str:
        if isinstance(type_, str):
            return names.get(type_, type_.upper())
        if type_["type"] == "array":
            return f"ARRAY<{sql(type_['elementType'])}>"
        if type_["type"] == "struct":
            parts = [f"{part['name']}:{sql(part['type'])}" for part in type_["fields"]]
            return f"STRUCT<{';'.join(parts)}>"
        return f"MAP<{sql(type_['keyType'])};{sql(type_['valueType'])}>"

    columns = [f"{column['name']} {sql(column['type'])}" for column in json.loads(metadata["schemaString"])["fields"]]
    assert columns == [column.strip() for column in DDL.split(",")]


def test_a_row_says_what_the_journal_said(place: Settings) -> None:
    lake = keep(place, closed("a", client_request_id="T-1", request=b'{"bad": "\xff"}', input_text="Grüße"))
    (row,) = lake.sample(0, 1).to_dicts()
    assert row == {
        "databricks_request_id": "a",
        "request_date": date(2023, 11, 14),
        "client_request_id": "T-1",
        "request_time": datetime(2023, 11, 14, 22, 13, 20, 123000, UTC),
        "status_code": 200,
        "sampling_fraction": 1.0,
        "execution_duration_ms": 40,
        "request": '{"bad": "\\xff"}',
        "response": '{"choices":[]}',
        "logging_error_codes": [],
        "served_entity_id": "support-triage-3",
        "requester": "key-1",
        "time_to_first_byte_ms": 9,
        "input_tokens": 30,
        "output_tokens": 7,
        "trace_id": None,
        "request_tags": {"path": "/v1/chat/completions", "caller": "caller"},
        "model_name": "support-triage",
        "model_version": "3",
        "row": 0,
        "outcome": "ok",
        "route": "champion",
        "input_text": "Grüße",
        "output_text": '{"intent":"delivery"}',
        "cost_nano_usd": None,
        "cached_tokens": None,
        "cache_write_tokens": None,
        "reasoning_tokens": None,
        "guard_events": [],
        "guards_sha256": None,
    }


def test_before_the_first_row_everything_is_empty_and_has_its_columns(place: Settings) -> None:
    lake = Lake(place)
    assert drain(place) == 0
    assert lake.count() == 0
    assert lake.sample(0, 10).schema == lake.sample(0, 10, n=3).schema == INFERENCE
    assert lake.labelled().columns == list(LABELLED)
    assert (
        keep(place, closed("a")).labelled().schema == Lake(trimtab_settings.load(place.root / "new")).labelled().schema
    )
    assert not (place.lake / "feedback").exists()
    keep(place, feedback("f"))
    assert pl.scan_delta(place.lake / "feedback").collect_schema() == FEEDBACK


@given(st.integers(-5, 110), st.integers(-5, 110), st.none() | st.integers(0, 120), st.integers(0, 3))
@examples(max_examples=40)
def test_a_sample_is_in_order_within_bounds_and_as_large_as_asked(
    hundred: Lake, first: int, last: int, n: int | None, seed: int
) -> None:
    rows = hundred.sample(first, last, ["row"], n, seed)["row"].to_list()
    there = range(max(first, 0), min(last, 100))
    assert len(rows) == (len(there) if n is None else min(n, len(there)))
    assert rows == sorted(set(rows) & set(there))
    assert rows == hundred.sample(first, last, ["row"], n, seed)["row"].to_list()


def test_a_sample_is_drawn_evenly_and_by_its_seed(hundred: Lake) -> None:
    draws = [tuple(hundred.sample(0, 100, ["row"], 30, seed)["row"]) for seed in range(12)]
    assert len(set(draws)) == 12
    assert len({row for draw in draws for row in draw}) > 90  # a row is missed by all twelve with probability 0.014


def labels(lake: Lake, first: int = 0, last: int | None = None) -> dict[str, str | None]:
    found = lake.labelled(first, last)
    assert found["row"].is_sorted()
    return dict(zip(found["databricks_request_id"], found["label"], strict=True))


def test_labels_find_their_rows_by_request_id_else_by_the_newest_with_the_clients_id(place: Settings) -> None:
    lake = keep(
        place,
        closed("older", client_request_id="T-1"),
        closed("newer", client_request_id="T-1"),
        closed("direct", client_request_id="T-2"),
        closed("failed", client_request_id="T-1", outcome="error"),
        closed("silent"),
        feedback("f1", client_request_id="T-1", value={"intent": "a"}),
        feedback("f2", request_id="direct", client_request_id="T-1", value={"intent": "b"}),
        feedback("f3", request_id="unknown", client_request_id="T-2", value={"intent": "x"}),
        feedback("f4", client_request_id="T-9", value={"intent": "x"}),
    )
    assert labels(lake) == {"older": None, "newer": '{"intent":"a"}', "direct": '{"intent":"b"}', "silent": None}
    assert labels(lake, 0, 1) == {"older": None}, "a window must not give an older row the label of a newer one"
    assert labels(lake, 2) == {"direct": '{"intent":"b"}', "silent": None}


def test_the_latest_human_label_counts(place: Settings) -> None:
    lake = keep(
        place,
        closed("a", client_request_id="T"),
        feedback("f2", request_id="a", at_ms=3000, value={"v": "latest"}),
        feedback("f1", client_request_id="T", at_ms=2000, value={"v": "earlier"}),
        feedback("f3", request_id="a", at_ms=9000, value={"v": "judge"}, source="llm_judge"),
        feedback("f4", request_id="a", at_ms=9000, value={"v": 5}, name="rating"),
    )
    assert labels(lake) == {"a": '{"v":"latest"}'}
    keep(place, feedback("f5", client_request_id="T", at_ms=4000, value={"v": "corrected"}))
    assert labels(lake) == {"a": '{"v":"corrected"}'}
    until = datetime.fromtimestamp(3.5, UTC)
    assert lake.labelled(until=until)["label"].to_list() == ['{"v":"latest"}'], "what is said later is not seen"


def test_a_lake_of_an_earlier_release_is_read_and_goes_on(place: Settings) -> None:
    """Its table ends with output_text: what came later is null in its rows."""
    later = ["cost_nano_usd", "cached_tokens", "cache_write_tokens", "reasoning_tokens"]
    keep(place, closed("old"))
    newest = ["guard_events", "guards_sha256"]
    rows = pl.scan_delta(place.lake / "inference").collect().drop(*later, *newest)
    shutil.rmtree(place.lake / "inference")
    write_deltalake(place.lake / "inference", rows)
    lake = Lake(place)
    assert lake.sample(0, 9).select("databricks_request_id", *later).rows() == [("old", None, None, None, None)]
    seen = GuardEvent("pii", "input", "redact", "email", 1)
    new = closed("new", cost_nano_usd=17_000, cached_tokens=3, cache_write_tokens=2, reasoning_tokens=1)
    keep(place, msgspec.structs.replace(new, guards=(seen,), guards_sha256="f" * 64))
    assert lake.sample(0, 9).select("databricks_request_id", "output_tokens", *later).rows() == [
        ("old", 7, None, None, None, None),
        ("new", 7, 17_000, 3, 2, 1),
    ]
    events = [None, [msgspec.structs.asdict(seen)]]
    assert lake.sample(0, 9)["guard_events"].to_list() == events
    assert lake.sample(0, 9).schema == INFERENCE
