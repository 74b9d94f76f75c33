"""Rows of Databricks' inference tables, of both generations."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

AT = datetime(2026, 7, 1, 12, tzinfo=UTC)

# The columns of a table that Databricks made in 2026-07, and those of Unity AI Gateway's documentation.
GEN2 = """databricks_request_id STRING, request_date DATE, client_request_id STRING, request_time TIMESTAMP,
status_code INT, sampling_fraction DOUBLE, execution_duration_ms BIGINT, request STRING, response STRING,
logging_error_codes ARRAY<STRING>, served_entity_id STRING, requester STRING"""
GEN3 = """request_id STRING, invocation_id STRING, request_tags MAP<STRING, STRING>, event_time TIMESTAMP,
status_code INT, sampling_fraction DOUBLE, latency_ms BIGINT, time_to_first_byte_ms BIGINT, request STRING,
response STRING, destination_type STRING, destination_name STRING, destination_id STRING, destination_model STRING,
logging_error_codes ARRAY<STRING>, requester STRING, schema_version STRING"""
ENTITIES = "served_entity_id STRING, entity_name STRING, entity_version STRING, change_time TIMESTAMP"


def call(id_: str, asked: Any, said: Any, **changes: Any) -> dict[str, Any]:
    """A row of generation 2."""
    fields = {
        "databricks_request_id": id_,
        "request_date": AT.date(),
        "request_time": AT,
        "status_code": 200,
        "sampling_fraction": 1.0,
        "execution_duration_ms": 40,
        "request": None if asked is None else json.dumps(asked),
        "response": None if said is None else json.dumps(said),
        "logging_error_codes": [],
        "served_entity_id": "e1",
        "requester": "someone@example.com",
    }
    return fields | changes


def newer(row: dict[str, Any]) -> dict[str, Any]:
    """The same call as a row of generation 3."""
    same = ("status_code", "sampling_fraction", "request", "response", "logging_error_codes", "requester")
    return {name: row[name] for name in same} | {
        "request_id": row["databricks_request_id"],
        "event_time": row["request_time"],
        "latency_ms": row["execution_duration_ms"],
        "time_to_first_byte_ms": 9,
        "request_tags": {"client_request_id": "T-1", "model_version": "3"},
        "destination_name": "e1",
        "destination_model": "ml.support.desk",
    }
