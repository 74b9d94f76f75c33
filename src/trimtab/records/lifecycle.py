"""The cycle: one pass of the retraining loop."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from trimtab.records.record import Record


class Cycle(Record):
    """The opening of a cycle. Its steps and its end are facts of their own."""

    id: str
    model: str
    opened_at: datetime
    trigger: str
    champion: int
    cut: datetime = Field(description="the cycle sees no row after this time")
    candidate: int | None = Field(default=None, description="a registered version to judge; None: one is trained")


class Step(Record):
    """One finished step. Key: cycle/attempt/name; found means done, so a crash is cured by running again."""

    cycle: str
    attempt: int
    name: str
    at: datetime
    seconds: float
    summary: str
    output: str = Field(description="key of the fact this step produced")


class CycleEnd(Record):
    """How a cycle ended."""

    cycle: str
    at: datetime
    outcome: Literal["promoted", "rejected", "held", "rolled_back", "failed"]
    summary: str
    version: int | None = None


class Progress(Record):
    """What is happening right now, for people. `fraction` 0 to 1 within the step; `eta_seconds` to its end."""

    cycle: str
    attempt: int
    step: str
    fraction: float = Field(ge=0, le=1)
    eta_seconds: float | None = None
    text: str = ""
    at: datetime
