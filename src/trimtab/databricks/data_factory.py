"""The retraining schedule for those who schedule in Azure Data Factory: a pipeline and its triggers, as ARM JSON. Pure.

The pipeline has one activity, which runs the Databricks job that retrains; the triggers are the schedules under
`retrain.when`. JSON is written here, not by azure-mgmt-datafactory 10.0, which gives some activities and triggers the
wrong `type`. Sources: Microsoft Learn, "Job activity in Azure Data Factory" and "Schedule trigger" (recurrence).
"""

from __future__ import annotations

import re
from typing import Any

from trimtab.errors import Fixable
from trimtab.records.project import Project

API = "2018-06-01"
TEMPLATE = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"
WEEKDAYS = {
    "MON": "Monday",
    "TUE": "Tuesday",
    "WED": "Wednesday",
    "THU": "Thursday",
    "FRI": "Friday",
    "SAT": "Saturday",
    "SUN": "Sunday",
}
_ORDER = tuple(WEEKDAYS)


def arm_template(project: Project, *, start: str) -> dict[str, Any]:
    """Pipeline and triggers. `start` is when the triggers begin, ISO 8601 in UTC; they are created stopped.

    Parameters of the template: the factory, the linked service of the Databricks workspace, the id of its job. Raises
    Fixable when the file has no schedule, or one that Data Factory cannot say.
    """
    crons = [when.removeprefix("cron:").strip() for when in project.retrain.when if when.startswith("cron:")]
    if not crons:
        fix = "add one to retrain.when, e.g. 'cron: 0 3 * * SUN'"
        raise Fixable("retrain.when has no schedule for Data Factory to keep", fix)
    pipeline = f"{project.name}-retrain"
    triggers = [
        {
            "type": "Microsoft.DataFactory/factories/triggers",
            "apiVersion": API,
            "name": f"[concat(parameters('factory'), '/{pipeline}-{number}')]",
            "dependsOn": [
                f"[resourceId('Microsoft.DataFactory/factories/pipelines', parameters('factory'), '{pipeline}')]"
            ],
            "properties": schedule_trigger(cron, pipeline, start),
        }
        for number, cron in enumerate(crons, 1)
    ]
    parameters = {
        "factory": "Name of the data factory",
        "linkedService": "Name of its linked service to the Databricks workspace",
        "jobId": "Id of the Databricks job that retrains",
    }
    return {
        "$schema": TEMPLATE,
        "contentVersion": "1.0.0.0",
        "parameters": {
            name: {"type": "string", "metadata": {"description": about}} for name, about in parameters.items()
        },
        "resources": [
            {
                "type": "Microsoft.DataFactory/factories/pipelines",
                "apiVersion": API,
                "name": f"[concat(parameters('factory'), '/{pipeline}')]",
                "properties": pipeline_of(project),
            },
            *triggers,
        ],
    }


def pipeline_of(project: Project) -> dict[str, Any]:
    """One activity that runs the job and waits for it; one run at a time, as the brakes of the file want it."""
    return {
        "description": f"Retrains {project.name}; written from trimtab.yaml",
        "concurrency": 1,
        "activities": [
            {
                "name": "retrain",
                "type": "DatabricksJob",
                "linkedServiceName": {
                    "type": "LinkedServiceReference",
                    "referenceName": "[parameters('linkedService')]",
                },
                "policy": {"retry": 0, "timeout": "1.00:00:00"},
                "typeProperties": {
                    "jobId": "[parameters('jobId')]",
                    "jobParameters": {"reason": "data factory"},
                },
            }
        ],
    }


def schedule_trigger(cron: str, pipeline: str, start: str) -> dict[str, Any]:
    """A ScheduleTrigger from five cron fields, days of the week as names, in UTC.

    Raises Fixable when it cannot be said: Data Factory knows no months, and of days either those of the week or those
    of the month.
    """
    minute, hour, day, month, weekday = cron.split()
    if month != "*" or (day != "*" and weekday != "*"):
        raise _unsayable(cron, "a month, or days of both the week and the month")
    schedule: dict[str, Any] = {"minutes": _numbers(minute, 0, 59, cron), "hours": _numbers(hour, 0, 23, cron)}
    frequency = "Day"
    if weekday != "*":
        frequency, schedule = "Week", schedule | {"weekDays": _weekdays(weekday, cron)}
    elif day != "*":
        frequency, schedule = "Month", schedule | {"monthDays": _numbers(day, 1, 31, cron)}
    return {
        "type": "ScheduleTrigger",
        "pipelines": [{"pipelineReference": {"type": "PipelineReference", "referenceName": pipeline}}],
        "typeProperties": {
            "recurrence": {
                "frequency": frequency,
                "interval": 1,
                "startTime": start,
                "timeZone": "UTC",
                "schedule": schedule,
            }
        },
    }


def _numbers(field: str, least: int, most: int, cron: str) -> list[int]:
    """The values of a cron field: `*`, `*/5`, `1-3`, `1,4`."""
    found: set[int] = set()
    for part in field.split(","):
        match = re.fullmatch(r"(?:(\d+)(?:-(\d+))?|\*)(?:/(\d+))?", part)
        if match is None:
            raise _unsayable(cron, part)
        first = int(match[1]) if match[1] else least
        end = int(match[2]) if match[2] else first if match[1] and not match[3] else most
        found |= set(range(first, end + 1, int(match[3] or 1)))
    return sorted(found)


def _weekdays(field: str, cron: str) -> list[str]:
    found: set[str] = set()
    for part in field.upper().split(","):
        first, dash, end = part.partition("-")
        if first not in WEEKDAYS or (dash and end not in WEEKDAYS):
            raise _unsayable(cron, part)
        begin, until = _ORDER.index(first), _ORDER.index(end or first)
        if until < begin:
            raise _unsayable(cron, part)
        found |= set(_ORDER[begin : until + 1])
    return [WEEKDAYS[name] for name in _ORDER if name in found]


def _unsayable(cron: str, part: str) -> Fixable:
    return Fixable(f"retrain.when: {cron}: Data Factory cannot say {part}", "write minute, hour and days of the week")
