"""The thresholds of trimtab.yaml as alert rules elsewhere: Databricks SQL alerts and Azure Monitor. Pure.

They ask the same question with the same numbers as `monitor.thresholds`: the same window, the same rows, the same
closed form of the test. A rule is one query that returns one row, whose column `breach` is 1 or 0, so that whoever is
told also sees n, how many exceed, and what was observed. Times are UTC.

Sources: Databricks REST `alerts` (AlertV2, SDK 0.156); Azure Resource Manager `Microsoft.Insights/scheduledQueryRules`
and `actionGroups` (azure-mgmt-monitor 7.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from math import log
from typing import Any

from trimtab.errors import Fixable
from trimtab.records.project import Project
from trimtab.records.threshold import Threshold

ALPHA = 0.01
"""As `monitor.thresholds.ALPHA`; a test holds them together."""
RULES_API = "2022-06-15"
ACTIONS_API = "2023-01-01"
LONGEST = timedelta(days=2)
"""A scheduled query rule of Azure looks back this far at most."""
TEMPLATE = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"


def sql(threshold: Threshold, table: str, now: str = "current_timestamp()") -> str:
    """The question about an inference table with Databricks' columns, in ANSI SQL. `now` is the window's end."""
    since = f"request_time >= {now} - INTERVAL {_minutes(threshold.over)} MINUTE AND request_time < {now}"
    if threshold.metric == "cost":
        nano = round(threshold.limit * 1e9)
        return (
            f"SELECT COUNT(*) AS n, COUNT(*) - COUNT(cost_nano_usd) AS unpriced, "
            f"COALESCE(SUM(cost_nano_usd), 0) / 1e9 AS observed, "
            f"CASE WHEN COALESCE(SUM(cost_nano_usd), 0) > {nano} THEN 1 ELSE 0 END AS breach\n"
            f"FROM {table}\nWHERE {since}"
        )
    exceeding, counted, observed = _latency_sql(threshold) if threshold.metric == "latency" else _errors_sql()
    return (
        f"SELECT n, k AS exceeding, observed,\n"
        f"  CASE WHEN {_test(threshold.share, 'LN', 'GREATEST')} THEN 1 ELSE 0 END AS breach\n"
        f"FROM (\n  SELECT COUNT(*) AS n, COALESCE(SUM(CASE WHEN {exceeding} THEN 1 ELSE 0 END), 0) AS k,\n"
        f"    {observed} AS observed\n  FROM {table}\n  WHERE {since}\n    AND {counted}\n) AS counted"
    )


def kql(threshold: Threshold) -> str:
    """The same question about the `requests` that the telemetry export writes to Application Insights."""
    begin = (
        f"requests\n| where timestamp > ago({_minutes(threshold.over)}m)\n"
        '| where tostring(customDimensions["trimtab.route"]) != "shadow"\n'
    )
    if threshold.metric == "cost":
        return (
            f'{begin}| extend usd = todouble(customDimensions["trimtab.cost_usd"])\n'
            f"| summarize n = count(), unpriced = countif(isnull(usd)), observed = sum(usd)\n"
            f"| extend breach = iff(observed > {threshold.limit!r}, 1, 0)"
        )
    if threshold.metric == "latency":
        rows, over = "toint(resultCode) < 400", f"duration > {threshold.limit!r}"
        observed = f"percentile(duration, {100 * (1 - threshold.share):g})"
    else:
        rows, over = "toint(resultCode) < 400 or toint(resultCode) >= 500", "toint(resultCode) >= 500"
        observed = f"todouble(countif({over})) / count()"
    return (
        f"{begin}| where {rows}\n| summarize n = count(), k = countif({over}), observed = {observed}\n"
        f"| extend breach = iff({_test(threshold.share, 'log', 'max_of')}, 1, 0)"
    )


def alert_v2(
    threshold: Threshold,
    *,
    name: str,
    table: str,
    warehouse: str,
    emails: Sequence[str] = (),
    paused: bool = False,
    description: str = "",
) -> dict[str, Any]:
    """The body of a Databricks SQL alert (`/api/2.0/alerts`), evaluated once in each window."""
    told = {"subscriptions": [{"user_email": email} for email in emails]} if emails else {}
    return {
        "display_name": f"{name}: {threshold.text}",
        "custom_description": f"{description}. False alarm at most {ALPHA:g} per window.".removeprefix(". "),
        "query_text": sql(threshold, table),
        "warehouse_id": warehouse,
        "schedule": {
            "quartz_cron_schedule": _quartz(threshold.every),
            "timezone_id": "UTC",
            "pause_status": "PAUSED" if paused else "UNPAUSED",
        },
        "evaluation": {
            "source": {"name": "breach"},
            "comparison_operator": "GREATER_THAN",
            "threshold": {"value": {"double_value": 0.0}},
            "empty_result_state": "UNKNOWN",
            "notification": {"notify_on_ok": True, **told},
        },
    }


def databricks_alerts(
    project: Project,
    *,
    table: str,
    warehouse: str,
    emails: Sequence[str] = (),
    paused: bool = False,
    description: str = "",
) -> list[dict[str, Any]]:
    """A Databricks SQL alert for each threshold that the file's alerts name."""
    also: dict[str, Any] = {"emails": emails, "paused": paused, "description": description}
    return [alert_v2(one, name=project.name, table=table, warehouse=warehouse, **also) for one in project.thresholds()]


def arm_template(project: Project, emails: Sequence[str] = ()) -> dict[str, Any]:
    """An ARM template with a scheduled query rule for each threshold, and an action group that tells people.

    Its parameter is the Application Insights component that the telemetry goes to. Raises Fixable for a cost per month,
    which Azure cannot look back on.
    """
    group = f"{project.name}-alerts"
    rules = [
        {
            "type": "Microsoft.Insights/scheduledQueryRules",
            "apiVersion": RULES_API,
            "name": f"{project.name}-{one.slug}",
            "dependsOn": [f"[resourceId('Microsoft.Insights/actionGroups', '{group}')]"],
            **scheduled_query_rule(one, project.name, group),
        }
        for one in project.thresholds()
    ]
    return {
        "$schema": TEMPLATE,
        "contentVersion": "1.0.0.0",
        "parameters": {
            "applicationInsights": {
                "type": "string",
                "metadata": {"description": "Resource ID of the Application Insights component"},
            },
            "location": {"type": "string", "defaultValue": "[resourceGroup().location]"},
        },
        "resources": [
            {
                "type": "Microsoft.Insights/actionGroups",
                "apiVersion": ACTIONS_API,
                "name": group,
                **action_group(project, emails),
            },
            *rules,
        ],
    }


def scheduled_query_rule(threshold: Threshold, model: str, group: str) -> dict[str, Any]:
    """The body of one rule: evaluated in each window, fires while the query says breach, resolves by itself."""
    if threshold.over > LONGEST:
        raise Fixable(
            f"alerts: {threshold.text}: a rule of Azure Monitor looks back two days at most",
            "write a cost per day, or leave this one to `trimtab up` and Databricks",
        )
    return {
        "location": "[parameters('location')]",
        "properties": {
            "displayName": f"{model}: {threshold.text}",
            "description": f"From trimtab.yaml; false alarm at most {ALPHA:g} per window.",
            "severity": 2,
            "enabled": True,
            "scopes": ["[parameters('applicationInsights')]"],
            "evaluationFrequency": _duration(threshold.every),
            "windowSize": _duration(threshold.over),
            "criteria": {
                "allOf": [
                    {
                        "query": kql(threshold),
                        "timeAggregation": "Maximum",
                        "metricMeasureColumn": "breach",
                        "operator": "GreaterThan",
                        "threshold": 0.0,
                        "failingPeriods": {"numberOfEvaluationPeriods": 1, "minFailingPeriodsToAlert": 1},
                    }
                ]
            },
            "autoMitigate": True,
            "actions": {"actionGroups": [f"[resourceId('Microsoft.Insights/actionGroups', '{group}')]"]},
        },
    }


def action_group(project: Project, emails: Sequence[str] = ()) -> dict[str, Any]:
    """Who is told: e-mail addresses, and the webhooks of the alerts that name thresholds."""
    named = {one.text for one in project.thresholds()}
    targets = dict.fromkeys(to for alert in project.alerts if named & set(alert.on) for to in alert.notify)
    hooks = [to.removeprefix("webhook:") for to in targets if to.startswith("webhook:")]
    return {
        "location": "Global",
        "properties": {
            "groupShortName": project.name[:12],
            "enabled": True,
            "emailReceivers": [
                {"name": f"email-{number}", "emailAddress": email, "useCommonAlertSchema": True}
                for number, email in enumerate(emails, 1)
            ],
            "webhookReceivers": [
                {"name": f"webhook-{number}", "serviceUri": url, "useCommonAlertSchema": True}
                for number, url in enumerate(hooks, 1)
            ],
        },
    }


def _test(share: float, ln: str, greatest: str) -> str:
    """`evaluation.compare.exceeds` over columns k and n. Logarithms are kept from 0, where they count 0 times."""
    allowed, kept = f"(n * {share!r}e0)", f"(n * {1 - share!r}e0)"
    return (
        f"k > {allowed} AND k * {ln}({greatest}(k, 1) / {greatest}{allowed[:-1]}, 1e-9)) "
        f"+ (n - k) * {ln}({greatest}(n - k, 1) / {greatest}{kept[:-1]}, 1e-9)) > {log(1 / ALPHA)!r}e0"
    ).replace(" AND ", " and " if ln == "log" else " AND ")


def _latency_sql(threshold: Threshold) -> tuple[str, str, str]:
    quantile = f"PERCENTILE_CONT({round(1 - threshold.share, 2)}) WITHIN GROUP (ORDER BY execution_duration_ms)"
    return f"execution_duration_ms > {threshold.limit!r}e0", "status_code < 400", quantile


def _errors_sql() -> tuple[str, str, str]:
    failed = "status_code >= 500"
    return failed, f"(status_code < 400 OR {failed})", f"AVG(CASE WHEN {failed} THEN 1e0 ELSE 0e0 END)"


def _minutes(length: timedelta) -> int:
    return int(length.total_seconds() // 60)


def _quartz(every: timedelta) -> str:
    """At whole multiples of a window: Quartz, with seconds."""
    minutes = _minutes(every)
    return f"0 0/{minutes} * * * ?" if minutes < 60 else "0 0 * * * ?"


def _duration(length: timedelta) -> str:
    """ISO 8601, as Azure lists them: PT15M, PT1H, P1D."""
    minutes = _minutes(length)
    if minutes % 1440 == 0:
        return f"P{minutes // 1440}D"
    return f"PT{minutes // 60}H" if minutes % 60 == 0 else f"PT{minutes}M"
