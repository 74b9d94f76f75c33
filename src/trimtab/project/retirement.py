"""Whether the provider still serves the model that the file names. The dates are data: retirements.json."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from apscheduler.triggers.cron import CronTrigger

from trimtab.project.reading import Loc, Reading
from trimtab.records.project import Project

NOTICE = timedelta(days=60)
"""How long before its retirement a model earns a warning."""

_DATA = Path(__file__).parent.parent / "retirements.json"


def look(reading: Reading, base: str, today: date) -> None:
    """Note a fault when the base is a listed model that is retired (error) or retires within NOTICE (warning).

    The dates are Azure's. For `openai:` the same dates give a warning only: OpenAI's own may differ.
    """
    scheme, _, model = base.partition(":")
    table = _table()
    known = {row["model"]: row["retires_on"] for row in table["models"]}
    model = re.sub(r"-\d{4}-\d{2}-\d{2}$", "", model)  # gpt-4o-2024-11-20: the table lists models, not their dates
    if scheme not in ("azure", "openai") or model not in known:
        return
    written = known[model] or f"before {table['page_date']}"
    retires = _first_day(known[model] or table["page_date"])
    if retires - today > NOTICE:
        return
    gone = retires <= today
    source = f"{table['source']}, {table['page_date']}"
    when = f"{'was retired' if gone else 'retires'} {'' if not known[model] else 'on '}{written}"
    message = f"{model} {when} on Azure; OpenAI's own date may differ" if scheme == "openai" else f"{model} {when}"
    lasting = sorted((day, name) for name, day in known.items() if day and _first_day(day) - today > NOTICE)
    choice = " or ".join(f"{name} (until {day})" for day, name in lasting[-2:])
    fix = f"choose a model with time left, e.g. {choice}" if choice else "choose a newer model"
    severity = "error" if gone and scheme == "azure" else "warning"
    reading.fault(("model", "base"), f"{message} [{source}]", fix, severity=severity)


def look_at_fine_tuning(reading: Reading, project: Project, today: date) -> None:
    """Note a fault when the model that a provider is to fine-tune cannot be (error) or soon cannot (warning)."""
    refusal = fine_tuning_refusal(project, today)
    loc: Loc = ("retrain", "hosted", "model") if project.retrain.hosted.model else ("model", "base")
    if refusal is not None:
        reading.fault(loc, *refusal)
        return
    scheme, model = _fine_tuned(project)
    row = _trainable().get(model) if project.retrain.method == "hosted" and scheme in LISTED else None
    if row is not None and _first_day(row["training_retires_on"]) - today <= NOTICE:
        message = f"{model} can be fine-tuned until {row['training_retires_on']} only [{_fine_tuning_source()}]"
        reading.fault(loc, message, "plan for another model", severity="warning")


def fine_tuning_refusal(project: Project, today: date) -> tuple[str, str] | None:
    """Why a hosted fine-tune must not start, and the fix; None when nothing is known against it.

    The model is none that the provider fine-tunes, or its training ends today or before the file's next scheduled
    cycle. Servers other than Azure OpenAI and OpenAI decide for themselves.
    """
    scheme, model = _fine_tuned(project)
    if project.retrain.method != "hosted" or scheme not in LISTED:
        return None
    if scheme == "azure" and project.retrain.hosted.model is None:  # a deployment's name says nothing
        return None
    table, source = _trainable(), _fine_tuning_source()
    choice = f"choose one of {', '.join(table)}"
    if model not in table:
        return f"{model} cannot be fine-tuned [{source}]", choice
    ends, following = _first_day(table[model]["training_retires_on"]), next_cycle(project, today)
    if ends <= today:
        return f"{model} can no longer be fine-tuned since {ends} [{source}]", choice
    if following is not None and ends <= following:
        return f"fine-tuning of {model} ends on {ends}, before the next cycle on {following} [{source}]", choice
    return None


def next_cycle(project: Project, today: date) -> date | None:
    """The day of the file's next scheduled cycle after today; None without a schedule."""
    crons = [when.removeprefix("cron:").strip() for when in project.retrain.when if when.startswith("cron:")]
    begin = datetime.combine(today + timedelta(days=1), time(), UTC)
    found: list[date] = []
    for expression in crons:
        try:
            fires = CronTrigger.from_crontab(expression, timezone=UTC).get_next_fire_time(None, begin)
        except ValueError:  # a rule of its own complains
            continue
        found += [fires.date()] if fires else []
    return min(found, default=None)


LISTED = ("azure", "openai")
"""Providers whose models the table knows."""


def _fine_tuned(project: Project) -> tuple[str, str]:
    """Provider and model (without its date) that a hosted fine-tune starts from."""
    scheme, _, own = project.model.base.partition(":")
    return scheme, re.sub(r"-\d{4}-\d{2}-\d{2}$", "", project.retrain.hosted.model or own)


def _trainable() -> dict[str, dict[str, Any]]:
    return {row["model"]: row for row in _table()["fine_tuning"]["models"]}


def _fine_tuning_source() -> str:
    table = _table()["fine_tuning"]
    return f"{table['source']}, {table['page_date']}"


def _first_day(written: str) -> date:
    return date.fromisoformat(written if len(written) == 10 else f"{written}-01")


@cache
def _table() -> dict[str, Any]:
    return json.loads(_DATA.read_text(encoding="utf-8"))
