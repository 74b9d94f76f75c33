"""The view `request_log`: an endpoint's inference table, of either generation, in the columns of the lake.

One SQL text, for Databricks and for every other Spark. Facts about the sources (docs.databricks.com, "AI
Gateway-enabled inference tables", "Monitor served models with Unity AI Gateway", "Model serving system tables"):

- generation 2 (`NAME_payload` of a serving endpoint): a row is an HTTP call, delivered at least once, within the hour.
- generation 3 (of a model service of Unity AI Gateway): other names, and the time to the first byte.
- A payload over the limit is null, and `logging_error_codes` says so. Calls refused with 401, 403 or 429 may be absent.
- `system.serving.served_entities` says which model version a served entity is.

What the view makes of them: each call once; one row for each text of a batch, `ID/0`, `ID/1`, …, the call's tokens
with the first; the text asked and answered of every shape that `/invocations` takes; the outcome from the status.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from trimtab.errors import Fixable

Generation = Literal[2, 3]

SERVED_ENTITIES = "system.serving.served_entities"
"""The system table that names the model version of a served entity."""

_NO_ENTITIES = """(SELECT CAST(NULL AS STRING) AS served_entity_id, CAST(NULL AS STRING) AS entity_name,
      CAST(NULL AS STRING) AS entity_version, CAST(NULL AS TIMESTAMP) AS change_time)"""
_MESSAGES = "'array<struct<role:string,content:string>>'"
_OUTPUT = "'array<struct<type:string,content:string>>'"


def _joined(content: str) -> str:
    """The text of a message's content that is a list of parts; null for any other."""
    return f"array_join(transform(from_json({content}, 'array<struct<text:string>>'), part -> part.text), '')"


_GUARD_EVENT = "name: STRING, direction: STRING, action: STRING, found: STRING, count: BIGINT"
_CALLS: dict[Generation, str] = {
    2: """
  SELECT databricks_request_id AS id, request_date, client_request_id AS own_id, request_time, status_code,
         sampling_fraction, execution_duration_ms, request, response, logging_error_codes, served_entity_id, requester,
         CAST(NULL AS BIGINT) AS time_to_first_byte_ms,
         CASE WHEN get_json_object(request, '$.user') IS NULL THEN CAST(map() AS MAP<STRING, STRING>)
              ELSE map('caller', get_json_object(request, '$.user')) END AS request_tags,
         entity_name AS model_name, CAST(entity_version AS STRING) AS model_version
  FROM {payload} LEFT JOIN (
    SELECT served_entity_id, max_by(entity_name, change_time) AS entity_name,
           max_by(entity_version, change_time) AS entity_version
    FROM {entities} GROUP BY served_entity_id) USING (served_entity_id)""",
    3: """
  SELECT request_id AS id, CAST(event_time AS DATE) AS request_date, request_tags['client_request_id'] AS own_id,
         event_time AS request_time, status_code, sampling_fraction, latency_ms AS execution_duration_ms, request,
         response, logging_error_codes, destination_name AS served_entity_id, requester, time_to_first_byte_ms,
         coalesce(request_tags, CAST(map() AS MAP<STRING, STRING>)) AS request_tags,
         destination_model AS model_name, request_tags['model_version'] AS model_version
  FROM {payload}""",
}

_REST = f"""
), once AS (
  SELECT * FROM (
    SELECT *, row_number() OVER (PARTITION BY id ORDER BY request IS NULL, response IS NULL, request_time) AS copy
    FROM calls)
  WHERE copy = 1
), read AS (
  SELECT *,
    coalesce(from_json(get_json_object(request, '$.messages'), {_MESSAGES}),
             from_json(get_json_object(request, '$.input'), {_MESSAGES})) AS conversation,
    from_json(get_json_object(request, '$.dataframe_split.columns'), 'array<string>') AS columns,
    from_json(get_json_object(request, '$.dataframe_split.data'), 'array<array<string>>') AS data,
    from_json(get_json_object(response, '$.predictions'), 'array<string>') AS predictions,
    from_json(get_json_object(response, '$.output'), {_OUTPUT}) AS output
  FROM once
), texts AS (
  SELECT *,
    coalesce(
      from_json(get_json_object(request, '$.inputs.input'), 'array<string>'),
      from_json(get_json_object(request, '$.inputs'), 'array<string>'),
      from_json(get_json_object(request, '$.instances'), 'array<string>'),
      from_json(get_json_object(request, '$.dataframe_records'), 'array<string>'),
      transform(data, line -> get(line, CAST(array_position(columns, 'input') - 1 AS INT))),
      array(coalesce(
        get(filter(conversation, message -> message.role = 'user'),
            size(filter(conversation, message -> message.role = 'user')) - 1).content,
        get_json_object(request, '$.prompt'), get_json_object(request, '$.input'),
        get_json_object(request, '$.inputs')))) AS asked,
    coalesce(get_json_object(response, '$.choices[0].message.content'),
             get_json_object(response, '$.choices[0].text'),
             get(filter(output, item -> item.type = 'message'),
                 size(filter(output, item -> item.type = 'message')) - 1).content,
             get_json_object(response, '$.predictions')) AS said
  FROM read
), rows AS (
  SELECT *, size(asked) > 1 AS batch FROM texts LATERAL VIEW OUTER posexplode(asked) each AS place, text
)
SELECT
  CASE WHEN batch THEN concat(id, '/', CAST(place AS STRING)) ELSE id END AS databricks_request_id,
  request_date,
  coalesce(own_id, get_json_object(request, '$.client_request_id')) AS client_request_id,
  request_time,
  CAST(status_code AS INT) AS status_code,
  sampling_fraction,
  execution_duration_ms,
  request,
  response,
  logging_error_codes,
  served_entity_id,
  requester,
  time_to_first_byte_ms,
  CASE WHEN coalesce(place, 0) = 0 THEN CAST(coalesce(get_json_object(response, '$.usage.prompt_tokens'),
    get_json_object(response, '$.usage.input_tokens')) AS BIGINT) END AS input_tokens,
  CASE WHEN coalesce(place, 0) = 0 THEN CAST(coalesce(get_json_object(response, '$.usage.completion_tokens'),
    get_json_object(response, '$.usage.output_tokens')) AS BIGINT) END AS output_tokens,
  CAST(NULL AS STRING) AS trace_id,
  request_tags,
  model_name,
  model_version,
  CASE WHEN status_code BETWEEN 200 AND 299 THEN 'ok' WHEN status_code = 499 THEN 'cancelled'
       WHEN status_code IN (408, 504) THEN 'timeout' ELSE 'error' END AS outcome,
  'champion' AS route,
  coalesce(get_json_object(text, '$.input'), {_joined("text")}, text) AS input_text,
  CASE WHEN predictions IS NOT NULL THEN get(predictions, coalesce(place, 0))
       ELSE coalesce({_joined("said")}, said) END AS output_text,
  CAST(NULL AS BIGINT) AS cost_nano_usd,
  CAST(NULL AS BIGINT) AS cached_tokens,
  CAST(NULL AS BIGINT) AS cache_write_tokens,
  CAST(NULL AS BIGINT) AS reasoning_tokens,
  CAST(NULL AS ARRAY<STRUCT<{_GUARD_EVENT}>>) AS guard_events,
  CAST(NULL AS STRING) AS guards_sha256
FROM rows"""


def generation(columns: Iterable[str]) -> Generation:
    """Which generation a table with these columns is of. Raises Fixable for the first one, and for another table."""
    there = set(columns)
    if {"databricks_request_id", "request_time"} <= there:
        return 2
    if {"request_id", "event_time", "destination_model"} <= there:
        return 3
    if {"databricks_request_id", "timestamp_ms"} <= there:
        fix = "turn the inference table of AI Gateway on: `trimtab databricks deploy`"
        raise Fixable("this inference table is of the kind that Databricks ended on 2026-04-30", fix)
    raise Fixable("this is no inference table", "name the table PREFIX_payload of the endpoint")


def select(payload: str, kind: Generation, entities: str | None = SERVED_ENTITIES) -> str:
    """The query behind the view, over the inference table `payload`. Without `entities` no model version is known."""
    entities = entities or _NO_ENTITIES
    return "WITH calls AS (" + _CALLS[kind].format(payload=payload, entities=entities) + _REST


def view(name: str, payload: str, kind: Generation, entities: str | None = SERVED_ENTITIES) -> str:
    """The statement that creates the view, or replaces it."""
    return f"CREATE OR REPLACE VIEW {name} AS\n{select(payload, kind, entities)}"
