"""Both generations of Databricks' inference tables become the same rows of the lake, each call once. Rung 6
of the ladder: tables made as the documentation describes them, read on Spark; not that a workspace fills them so.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from contract.lakes import number
from contract.payloads import AT, ENTITIES, GEN2, GEN3, call, newer
from trimtab import settings as trimtab_settings
from trimtab.databricks import request_log
from trimtab.databricks.lake_spark import SparkLake, ddl
from trimtab.errors import Fixable
from trimtab.store.lake import INFERENCE
from trimtab.store.subjects import Subjects


def _m(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


ASKED = {
    "inputs": ({"inputs": ["hello"]}, {"predictions": ["hi"]}),
    "one text": ({"inputs": "hello"}, {"predictions": ["hi"]}),
    "named": ({"inputs": {"input": ["hello"]}}, {"predictions": ["hi"]}),
    "instances": ({"instances": [{"input": "hello"}]}, {"predictions": ["hi"]}),
    "records": ({"dataframe_records": [{"id": 7, "input": "hello"}]}, {"predictions": ["hi"]}),
    "split": ({"dataframe_split": {"columns": ["id", "input"], "data": [[7, "hello"]]}}, {"predictions": ["hi"]}),
    "chat": (
        {"messages": [_m("system", "be nice"), _m("user", "first"), _m("assistant", "x"), _m("user", "hello")]},
        {"choices": [{"message": {"role": "assistant", "content": "hi"}}], "usage": {"prompt_tokens": 9}},
    ),
    "parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]}]},
        {"choices": [{"message": {"role": "assistant", "content": [{"type": "text", "text": "hi"}]}}]},
    ),
    "prompt": ({"prompt": "hello"}, {"choices": [{"text": "hi"}]}),
    "responses": (
        {"input": [_m("user", "hello")]},
        {"output": [{"type": "reasoning"}, {"type": "message", "content": [{"type": "output_text", "text": "hi"}]}]},
    ),
    "a text": ({"input": "hello"}, {"output": [{"type": "message", "content": [{"text": "hi"}]}]}),
    "JSON": ({"inputs": ["hello"]}, {"predictions": ['{"intent":"refund"}']}),
}
"""Bodies by shape: all ask `hello` and are answered `hi`, but for the one answered in JSON."""

Table = Callable[[list[dict[str, Any]], str], str]


@pytest.fixture(params=["sail", pytest.param("apache", marks=pytest.mark.slow)])
def spark(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
def table(spark: Any) -> Table:
    return views(spark)


def views(spark: Any) -> Table:
    """Makes a view of rows: what a row does not say is null."""

    def make(rows: list[dict[str, Any]], schema: str) -> str:
        name = f"payload_{number()}"
        names = [column.strip().split()[0] for column in schema.replace("MAP<STRING, STRING>", "MAP").split(",")]
        values = [tuple(row.get(column) for column in names) for row in rows]
        spark.createDataFrame(values, schema).createOrReplaceTempView(name)
        return name

    return make


def seen(spark: Any, table: Table, calls: list[dict[str, Any]], kind: request_log.Generation) -> list[dict[str, Any]]:
    rows, schema = (calls, GEN2) if kind == 2 else ([newer(row) for row in calls], GEN3)
    versions = [{"served_entity_id": "e1", "entity_name": "ml.support.desk", "entity_version": v} for v in ("2", "3")]
    entities = [row | {"change_time": AT + timedelta(days=int(row["entity_version"]))} for row in versions]
    payload = table(rows, schema)
    assert request_log.generation(spark.read.table(payload).columns) == kind
    found = spark.sql(request_log.select(payload, kind, table(entities, ENTITIES)))
    assert found.columns == [name for name in INFERENCE if name != "row"]
    wanted = spark.createDataFrame([], ddl(INFERENCE)).drop("row")
    assert [field.dataType for field in found.schema] == [field.dataType for field in wanted.schema]
    return sorted(found.toArrow().to_pylist(), key=lambda row: row["databricks_request_id"])


@pytest.mark.parametrize("kind", [2, 3])
def test_every_shape_of_a_call_becomes_a_row_with_its_texts(
    spark: Any, table: Table, kind: request_log.Generation
) -> None:
    calls = [call(name, asked, said) for name, (asked, said) in ASKED.items()]
    rows = {row["databricks_request_id"]: row for row in seen(spark, table, calls, kind)}
    assert rows.keys() == ASKED.keys()
    assert {name: (row["input_text"], row["output_text"]) for name, row in rows.items()} == {
        name: ("hello", '{"intent":"refund"}' if name == "JSON" else "hi") for name in ASKED
    }
    chat = rows["chat"]
    assert (chat["outcome"], chat["input_tokens"], chat["output_tokens"]) == ("ok", 9, None)
    assert (chat["request_time"], chat["request_date"], chat["execution_duration_ms"]) == (AT, AT.date(), 40)
    assert (chat["model_name"], chat["model_version"]) == ("ml.support.desk", "3")
    assert (chat["client_request_id"], chat["time_to_first_byte_ms"]) == ((None, None) if kind == 2 else ("T-1", 9))


@pytest.mark.parametrize("kind", [2, 3])
def test_batches_are_split_repeats_are_dropped_and_nothing_that_is_hard_to_read_is_lost(
    spark: Any, table: Table, kind: request_log.Generation
) -> None:
    body = {"inputs": ["a", "b"], "client_request_id": "own"}
    calls = [
        call("batch", body, {"predictions": ["A", "B"], "usage": {"input_tokens": 5, "output_tokens": 2}}),
        call("batch", body, {"predictions": ["A", "B"], "usage": {"input_tokens": 5, "output_tokens": 2}}),
        call("large", None, None, logging_error_codes=["MAX_REQUEST_SIZE_EXCEEDED", "MAX_RESPONSE_SIZE_EXCEEDED"]),
        call("late", {"prompt": "x"}, {"choices": [{"text": "y"}]}),
        call("late", None, None, request_time=AT - timedelta(seconds=1)),
        call("broken", None, None, request="{", response="<html>", status_code=502),
        call("slow", {"prompt": "x"}, None, status_code=504),
        call("left", {"prompt": "x"}, None, status_code=499),
    ]
    rows = seen(spark, table, calls, kind)
    said = [(row["databricks_request_id"], row["input_text"], row["output_text"], row["outcome"]) for row in rows]
    assert said == [
        ("batch/0", "a", "A", "ok"),
        ("batch/1", "b", "B", "ok"),
        ("broken", None, None, "error"),
        ("large", None, None, "ok"),
        ("late", "x", "y", "ok"),
        ("left", "x", None, "cancelled"),
        ("slow", "x", None, "timeout"),
    ]
    assert [(row["input_tokens"], row["output_tokens"]) for row in rows[:2]] == [(5, 2), (None, None)]
    assert rows[0]["client_request_id"] == ("own" if kind == 2 else "T-1")
    assert rows[3]["logging_error_codes"] == ["MAX_REQUEST_SIZE_EXCEEDED", "MAX_RESPONSE_SIZE_EXCEEDED"]


def test_a_table_of_another_kind_is_refused_with_what_to_do() -> None:
    with pytest.raises(Fixable, match="ended on 2026-04-30"):
        request_log.generation(["databricks_request_id", "timestamp_ms", "request", "response"])
    with pytest.raises(Fixable, match="no inference table"):
        request_log.generation(["id", "text"])


def test_what_arrived_is_appended_once_and_numbered_without_gaps(sail: Any, tmp_path: Path) -> None:
    """As a job does, run after run; a row that comes late gets a later number. It needs Delta, so it is Sail's."""
    table = views(sail)
    schema, entities, delivered = f"support_{number()}", table([], ENTITIES), []
    sail.sql(f"CREATE DATABASE {schema} LOCATION '{tmp_path}'").collect()
    subjects = Subjects(trimtab_settings.load(tmp_path))
    lake = SparkLake(sail, f"{schema}.inference", f"{schema}.feedback", subjects)

    def deliver(*calls: dict[str, Any]) -> int:
        delivered.extend(calls)
        arrived = f"request_log_{number()}"
        query = request_log.select(table(delivered, GEN2), 2, entities)
        sail.sql(query).createOrReplaceTempView(arrived)
        return lake.append(arrived)

    asked, said = {"inputs": ["a", "b"]}, {"predictions": ["A", "B"]}
    assert deliver(call("1", asked, said), call("2", {"prompt": "x"}, None)) == 3
    assert deliver() == 0
    repeated, late = call("2", {"prompt": "x"}, None), call("0", {"prompt": "y"}, None, request_time=AT - timedelta(1))
    assert deliver(repeated, late) == 1
    rows = lake.sample(0, 99)
    assert rows["row"].to_list() == list(range(lake.count())) == [0, 1, 2, 3]
    assert rows["databricks_request_id"].to_list() == ["1/0", "1/1", "2", "0"]
    assert rows.schema == INFERENCE
    assert lake.labelled().height == 4
    assert deliver(call("3", {"prompt": "enc:v2:0123456789abcdef:AAAA"}, None)) == 1, (
        "a caller's text, and no ciphertext"
    )
    assert lake.sample(4, 5, ["input_text"])["input_text"].to_list() == [" enc:v2:0123456789abcdef:AAAA"]
