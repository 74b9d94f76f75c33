"""The schedule of the file as Data Factory keeps it: its own classes read it, and it fires when the file says.

Rung: bodies against azure-mgmt-datafactory's classes (whose own `type` for jobs and schedules is wrong: 10.0), and the
recurrence, played by its documentation, against the scheduler that `trimtab up` uses.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from apscheduler.triggers.cron import CronTrigger
from azure.mgmt.datafactory import models
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.databricks import data_factory
from trimtab.errors import Fixable
from trimtab.records.project import Project

START = "2026-11-02T00:00:00Z"
DAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")


def project(*crons: str) -> Project:
    when = [f"cron: {cron}" for cron in crons]
    return Project.model_validate(
        {"name": "desk", "model": {"base": "echo", "prompt": "p.md"}, "retrain": {"when": when}}
    )


def test_pipeline_and_trigger_are_what_azures_classes_read() -> None:
    template = data_factory.arm_template(project("0 3 * * SUN", "30 4 1,15 * *"), start=START)
    pipeline, *triggers = template["resources"]
    read = models.PipelineResource._deserialize({"properties": pipeline["properties"]}, [])
    (written,) = pipeline["properties"]["activities"]
    activity = models.DatabricksJobActivity._deserialize(written, [])  # by name: its own `type` would not find it
    _only_fields_of(read, "activities", "concurrency", "description")
    _only_fields_of(activity, *written)
    assert written["type"] == "DatabricksJob"
    assert (read.concurrency, activity.job_id) == (1, "[parameters('jobId')]")
    assert activity.job_parameters == {"reason": "data factory"}
    assert activity.linked_service_name.reference_name == "[parameters('linkedService')]"
    weekly, monthly = (models.ScheduleTrigger._deserialize(one["properties"], []) for one in triggers)
    assert [one["properties"]["type"] for one in triggers] == ["ScheduleTrigger"] * 2
    assert (weekly.recurrence.frequency, monthly.recurrence.frequency) == ("Week", "Month")
    assert weekly.recurrence.schedule.week_days == ["Sunday"]
    assert weekly.recurrence.schedule.hours == [3]
    assert monthly.recurrence.schedule.month_days == [1, 15]
    assert set(template["parameters"]) == {"factory", "linkedService", "jobId"}


def _only_fields_of(model: Any, *names: str) -> None:
    """Azure's classes keep what they do not know: every name must be a field, or flattened from one."""
    fields = {field._rest_name for field in type(model)._attr_to_rest_field.values()}
    flattened = {"activities", "concurrency", "description"} if "properties" in fields else set[str]()
    assert set(names) <= fields | flattened


def fires(recurrence: dict[str, Any], day: datetime) -> set[datetime]:
    """When a recurrence fires in a day, as its documentation says."""
    schedule = recurrence["schedule"]
    if recurrence["frequency"] == "Week" and day.strftime("%A") not in schedule["weekDays"]:
        return set()
    if recurrence["frequency"] == "Month" and day.day not in schedule["monthDays"]:
        return set()
    return {day.replace(hour=hour, minute=minute) for hour in schedule["hours"] for minute in schedule["minutes"]}


def number(most: int, least: int = 0) -> st.SearchStrategy[str]:
    one = st.integers(least, most)
    span = st.tuples(one, one).map(lambda ends: f"{min(ends)}-{max(ends)}")
    step = st.integers(2, 9).map(lambda size: f"*/{size}")
    return st.one_of(
        one.map(str), span, step, st.lists(one, min_size=1, max_size=3).map(lambda v: ",".join(map(str, v)))
    )


WEEKDAYS = st.one_of(
    st.lists(st.sampled_from(DAYS), min_size=1, max_size=3).map(",".join),
    st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda e: f"{DAYS[min(e)]}-{DAYS[max(e)]}"),
)


ANY = st.just("*")
WHEN = st.one_of(st.tuples(ANY, WEEKDAYS), st.tuples(number(28, 1), ANY), st.tuples(ANY, ANY))


@settings(max_examples=40)
@given(minute=number(59), hour=number(23), days=WHEN)
def test_a_trigger_fires_when_the_file_says(minute: str, hour: str, days: tuple[str, str]) -> None:
    cron = f"{minute} {hour} {days[0]} * {days[1]}"
    recurrence = data_factory.schedule_trigger(cron, "p", START)["typeProperties"]["recurrence"]
    begin = datetime(2026, 11, 2, tzinfo=UTC)
    here: set[datetime] = set()
    trigger, moment = CronTrigger.from_crontab(cron, timezone=UTC), begin
    while (found := trigger.get_next_fire_time(None, moment)) is not None and found < begin + timedelta(days=8):
        here.add(found)
        moment = found + timedelta(minutes=1)
    there = set[datetime]().union(*(fires(recurrence, begin + timedelta(days=day)) for day in range(8)))
    assert there == here


@pytest.mark.parametrize("cron", ["0 3 * 6 SUN", "0 3 1 * SUN", "0 3 last * *"])
def test_what_data_factory_cannot_say_is_refused(cron: str) -> None:
    with pytest.raises(Fixable, match="cannot say"):
        data_factory.schedule_trigger(cron, "p", START)


def test_a_file_without_a_schedule_has_nothing_to_export() -> None:
    with pytest.raises(Fixable, match="no schedule"):
        data_factory.arm_template(project(), start=START)
