"""A threshold says the same here, in Databricks SQL and in Azure Monitor.

Rungs: the SQL runs on a real engine and must agree with the local judgement on generated rows; the bodies go through
the vendors' own model classes and come back unchanged. KQL goes through Microsoft's own parser with the columns of
Application Insights, which knows names and types; and it runs on duckdb-kql, which others wrote, over generated rows.
"""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import duckdb_kql
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import npm
from trimtab.databricks import alert_rules
from trimtab.errors import Fixable
from trimtab.monitor import thresholds
from trimtab.records.project import Project
from trimtab.records.threshold import threshold

END = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)
SQL_END = "TIMESTAMPTZ '2026-11-02 12:00:00+00'"
TEXTS = ("latency_p50 > 200ms", "latency_p99 > 2s", "error_rate > 2%", "error_rate > 0.5%", "cost > 0.01 USD/hour")
FILE: dict[str, Any] = {
    "name": "desk",
    "model": {"base": "echo", "prompt": "p.md"},
    "alerts": [
        {"on": ["latency_p99 > 2s", "error_rate > 2%"], "notify": ["log", "webhook:https://hooks.example.com/x"]},
        {"on": ["cost > 5 USD/day", "latency_p99 > 2s"], "window": "1h", "notify": ["webhook:https://b.example.com/y"]},
    ],
}


def rows(n: int, slow: int, failed: int, wrong: int, nano: int, late: int) -> pl.DataFrame:
    """A window: `slow` of n answers are slow, then come failures, callers' faults, and rows outside the window."""
    status = [200] * n + [503] * failed + [404] * wrong + [503] * late
    took = [3000] * min(slow, n) + [150] * (n - min(slow, n)) + [10] * (failed + wrong) + [9000] * late
    total = len(status)
    return pl.DataFrame(
        {
            "request_time": [END - timedelta(seconds=30)] * (total - late) + [END - timedelta(days=40)] * late,
            "status_code": status,
            "execution_duration_ms": took,
            "cost_nano_usd": [nano] * total,
            "route": ["champion"] * total,
        },
        schema={
            "request_time": pl.Datetime("us", "UTC"),
            "status_code": pl.Int32,
            "execution_duration_ms": pl.Int64,
            "cost_nano_usd": pl.Int64,
            "route": pl.String,
        },
    )


@pytest.fixture(scope="module")
def engine() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": 1})


@settings(max_examples=60)
@given(
    text=st.sampled_from(TEXTS),
    n=st.integers(0, 2000),
    slow=st.one_of(st.integers(0, 60), st.integers(0, 2000)),
    failed=st.integers(0, 60),
    wrong=st.integers(0, 5),
    nano=st.integers(0, 20_000),
    late=st.integers(0, 5),
)
def test_the_sql_alert_and_the_local_judgement_agree_on_every_window(
    engine: duckdb.DuckDBPyConnection, text: str, n: int, slow: int, failed: int, wrong: int, nano: int, late: int
) -> None:
    named, table = threshold(text), rows(n, slow, failed, wrong, nano, late)
    engine.register("payload", table.to_arrow())
    found = engine.sql(alert_rules.sql(named, "payload", SQL_END)).pl().to_dicts()
    engine.unregister("payload")
    window = table.filter(pl.col("request_time") >= END - named.over)
    here = thresholds.judge(named, window, model="desk", end=END, at=END)
    (there,) = found
    assert bool(there["breach"]) == (here.verdict == "breach")
    assert there["n"] == here.n
    if named.metric != "cost":
        assert there["exceeding"] == here.exceeding
    if here.observed is not None:
        assert there["observed"] == pytest.approx(here.observed)
    else:
        assert there["observed"] is None


def insights(table: pl.DataFrame, shadows: int) -> pl.DataFrame:
    """The window as Application Insights has it, and as many failures again that a shadow answered."""
    route = pl.Series("route", [*table["route"], *["shadow"] * shadows], pl.String)
    asked = pl.concat([table, table.head(1).with_columns(status_code=503).sample(shadows, with_replacement=True)])
    said = [
        json.dumps({"trimtab.route": name, "trimtab.cost_usd": str(nano / 1e9)})
        for name, nano in zip(route, asked["cost_nano_usd"], strict=True)
    ]
    return asked.select(
        pl.col("request_time").dt.replace_time_zone(None).alias("timestamp"),
        pl.col("status_code").cast(pl.String).alias("resultCode"),
        pl.col("execution_duration_ms").cast(pl.Float64).alias("duration"),
        pl.Series("customDimensions", said, pl.String),
    )


@settings(max_examples=40, deadline=None)
@given(
    text=st.sampled_from(TEXTS),
    n=st.integers(1, 1000),
    slow=st.integers(0, 60),
    failed=st.integers(0, 60),
    wrong=st.integers(0, 5),
    nano=st.integers(0, 20_000),
    late=st.integers(0, 5),
)
def test_the_kql_of_the_azure_rule_and_the_local_judgement_agree_on_every_window(
    engine: duckdb.DuckDBPyConnection, text: str, n: int, slow: int, failed: int, wrong: int, nano: int, late: int
) -> None:
    named, table = threshold(text), rows(n, slow, failed, wrong, nano, late)
    window = table.filter(pl.col("request_time") >= END - named.over)
    here = thresholds.judge(named, window, model="desk", end=END, at=END)
    engine.register("said", insights(table, shadows=3).to_arrow())
    dynamic = "SELECT * REPLACE (customDimensions::JSON AS customDimensions) FROM said"
    engine.sql(f"CREATE OR REPLACE TEMP TABLE requests AS {dynamic}")
    query = duckdb_kql.to_sql(alert_rules.kql(named), query_now=END)
    (there,) = engine.execute(query, query.parameters).pl().to_dicts()
    assert bool(there["breach"]) == (here.verdict == "breach")
    assert there["n"] == here.n
    if named.metric != "cost":
        assert there["k"] == here.exceeding


def test_both_sides_hold_the_same_false_alarm() -> None:
    assert alert_rules.ALPHA == thresholds.ALPHA


def test_a_databricks_alert_comes_back_unchanged_from_the_sdks_class() -> None:
    from databricks.sdk.service.sql import AlertV2

    bodies = alert_rules.databricks_alerts(
        Project.model_validate(FILE), table="ml.s.request_log", warehouse="abc", emails=["a@example.com"]
    )
    assert [body["display_name"] for body in bodies] == [
        "desk: latency_p99 > 2s",
        "desk: error_rate > 2%",
        "desk: cost > 5 USD/day",
    ]
    assert [AlertV2.from_dict(body).as_dict() for body in bodies] == bodies
    assert [body["schedule"]["quartz_cron_schedule"] for body in bodies] == [
        "0 0/15 * * * ?",
        "0 0/15 * * * ?",
        "0 0 * * * ?",
    ]


def test_the_arm_template_comes_back_unchanged_from_azures_classes() -> None:
    from azure.mgmt.monitor.models import ActionGroupResource, ScheduledQueryRuleResource

    template = alert_rules.arm_template(Project.model_validate(FILE), ["a@example.com"])
    group, *rules = template["resources"]
    classes = {"Microsoft.Insights/actionGroups": ActionGroupResource}
    for resource in (group, *rules):
        body = {name: resource[name] for name in ("location", "properties")}
        class_ = classes.get(resource["type"], ScheduledQueryRuleResource)
        assert class_.deserialize(body).serialize() == body  # what its class does not know would be lost
    hooks = [one["serviceUri"] for one in group["properties"]["webhookReceivers"]]
    assert hooks == ["https://hooks.example.com/x", "https://b.example.com/y"]
    latency, errors, cost = (rule["properties"] for rule in rules)
    assert (latency["evaluationFrequency"], latency["windowSize"]) == ("PT15M", "PT15M")
    assert (cost["evaluationFrequency"], cost["windowSize"]) == ("PT1H", "P1D")
    assert "countif(duration > 2000.0)" in latency["criteria"]["allOf"][0]["query"]
    assert "k > (n * 0.02e0)" in errors["criteria"]["allOf"][0]["query"]
    assert "observed > 5.0" in cost["criteria"]["allOf"][0]["query"]


PARSER = "@kusto/language-service-next@12.4.1"
REQUESTS = """(timestamp: datetime, id: string, name: string, url: string, success: string, resultCode: string,
duration: real, performanceBucket: string, itemType: string, customDimensions: dynamic, customMeasurements: dynamic,
operation_Name: string, operation_Id: string, operation_ParentId: string, cloud_RoleName: string, itemCount: int)"""
"""Columns of the table `requests`, as Azure Monitor's reference of Application Insights lists them (a part)."""
PARSE = """
const folder = process.argv[1], { queries, columns } = JSON.parse(require("fs").readFileSync(0, "utf8"));
require(folder + "/bridge.min.js");
require(folder + "/Kusto.Language.Bridge.min.js");
const { KustoCode, GlobalState, Symbols } = Kusto.Language;
const table = Symbols.TableSymbol.From(columns).WithName("requests");
const globals = GlobalState.Default.WithDatabase(new Symbols.DatabaseSymbol.$ctor1("insights", [table], false));
const listed = (list, of) => Array.from({ length: list.Count }, (_, i) => of(list.getItem(i)));
console.log(JSON.stringify(queries.map((query) => {
  const code = KustoCode.ParseAndAnalyze(query, globals);
  return {
    said: listed(code.GetDiagnostics(), (one) => one.Message),
    columns: code.ResultType?.Columns ? listed(code.ResultType.Columns, (one) => [one.Name, one.Type.Name]) : [],
  };
})));
"""


def parsed(queries: list[str]) -> list[dict[str, Any]]:
    """What Microsoft's parser says about KQL queries, and the columns it derives for their results."""
    folder = npm.package(PARSER, "Microsoft's parser of KQL")
    asked = json.dumps({"queries": queries, "columns": REQUESTS})
    done = subprocess.run(["node", "-e", PARSE, str(folder)], input=asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_microsofts_parser_knows_every_name_and_type_of_the_kql_queries() -> None:
    queries = {text: alert_rules.kql(threshold(text)) for text in (*TEXTS, "latency_p90 > 800ms", "cost > 5 USD/day")}
    broken = {
        "an unknown column": queries["error_rate > 2%"].replace("resultCode", "status_code"),
        "a function of SQL": queries["latency_p99 > 2s"].replace("max_of(", "greatest("),
        "an operator that is none": queries["cost > 5 USD/day"].replace("summarize", "summarise"),
    }
    found = dict(zip((*queries, *broken), parsed([*queries.values(), *broken.values()]), strict=True))
    for text in queries:
        assert found[text]["said"] == [], text
        columns = dict(found[text]["columns"])
        assert (columns["n"], columns["observed"], columns["breach"]) == ("long", "real", "long"), text
    assert all(found[fault]["said"] for fault in broken), "the parser takes anything, and proves nothing"


def test_what_azure_cannot_look_back_on_is_refused() -> None:
    file = Project.model_validate(FILE | {"alerts": [{"on": ["cost > 90 USD/month"]}]})
    with pytest.raises(Fixable, match="two days at most"):
        alert_rules.arm_template(file)
