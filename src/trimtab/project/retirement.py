"""Whether the provider still serves the model that the file names. The dates are data: retirements.json."""

from __future__ import annotations

import json
import re
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from trimtab.project.reading import Reading

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


def _first_day(written: str) -> date:
    return date.fromisoformat(written if len(written) == 10 else f"{written}-01")


@cache
def _table() -> dict[str, Any]:
    return json.loads(_DATA.read_text(encoding="utf-8"))
