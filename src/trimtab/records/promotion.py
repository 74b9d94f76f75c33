"""Stage 5, judge and roll out: evidence, gates, decision, steps."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from trimtab.records.monitor import Interval
from trimtab.records.record import Record

GateVerdict = Literal["pass", "fail", "insufficient"]


class Answers(Record):
    """One version's answers to a fixed suite, in the suite's order. None: not a valid answer."""

    version: int
    suite: str = Field(description="hash of the suite's inputs")
    answers: tuple[dict[str, str] | None, ...]
    seconds: tuple[float, ...] = Field(description="wall time of each answer")
    scores: tuple[float | None, ...] = Field(
        default=(), description="log-odds behind each answer, nats; empty: not asked for"
    )
    unscored: str = Field(default="", description="why there is no score, where one was asked for")


class GateResult(Record):
    """One question a candidate must pass, its test, sample size and interval."""

    gate: Literal["quality", "fairness", "latency"]
    verdict: GateVerdict
    test: str
    n: int
    value: Interval | None
    limit: str = Field(description="what the file asks, e.g. 'lower bound > -0.02'")
    detail: str = Field(description="one sentence a person understands")
    numbers: dict[str, float] = Field(default_factory=dict)
    examples: tuple[str, ...] = ()


class Decision(Record):
    """promote, hold or reject, with the evidence. Missing or stale evidence is hold."""

    key: str
    model: str
    candidate: int
    champion: int | None
    outcome: Literal["promote", "hold", "reject"]
    reasons: tuple[str, ...]
    gates: tuple[GateResult, ...]
    at: datetime
    guidelines: str = Field(
        default="", description="SHA-256 of the guidelines it was held against; empty: there were none"
    )
    config_hash: str = Field(default="", description="of the project file then; empty: an earlier release")


class RolloutLook(Record):
    """One look at a canary step. The test may be looked at any time (see promotion.sequential)."""

    model: str
    candidate: int
    percent: float
    at: datetime
    n_canary: int
    n_champion: int
    failures_canary: int
    failures_champion: int
    e_value: float = Field(description="evidence that the canary fails more often; harm is called at 1/alpha")
    alpha: float
    difference: Interval | None = Field(description="failure rate canary minus champion, time-uniform")
    verdict: Literal["continue", "advance", "roll_back"]
    reason: str
