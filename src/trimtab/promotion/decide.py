"""The decision: promote, hold or reject, from gate results. Pure; missing or stale evidence is hold."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from trimtab.records.promotion import Decision, GateResult


def decide(
    *,
    key: str,
    model: str,
    candidate: int,
    champion_compared: int | None,
    champion_now: int | None,
    gates: Sequence[GateResult],
    required: Sequence[str],
    now: datetime,
    unproved: Sequence[str] = (),
    guidelines: str = "",
    config_hash: str = "",
) -> Decision:
    """Decide on a candidate. `required` names the gates the file (`config_hash`) asks for, `unproved` the blocking
    clauses of the guidelines (`guidelines` is their SHA-256) that are not proved, a sentence each.

    In this order: the champion moved since it was compared, hold; a gate failed, reject; a required gate is missing or
    insufficient, or a blocking clause unproved, hold; else promote. No required gate at all is hold too: nothing would
    speak for the candidate.
    """
    outcome, reasons = _judge(champion_compared, champion_now, gates, required, unproved)
    return Decision(
        key=key,
        model=model,
        candidate=candidate,
        champion=champion_now,
        outcome=outcome,
        reasons=tuple(reasons),
        gates=tuple(gates),
        at=now,
        guidelines=guidelines,
        config_hash=config_hash,
    )


def _judge(
    compared: int | None,
    champion: int | None,
    gates: Sequence[GateResult],
    required: Sequence[str],
    unproved: Sequence[str],
) -> tuple[Literal["promote", "hold", "reject"], list[str]]:
    if compared != champion:
        return "hold", [f"The champion is {_name(champion)} now, but the comparison was with {_name(compared)}."]
    failed = [gate for gate in gates if gate.verdict == "fail"]
    if failed:
        return "reject", [f"The {gate.gate} gate failed: {gate.detail}" for gate in failed]
    open_ = [reason for name in required if (reason := _open(name, gates))]
    if not required:
        open_ = ["No gate is required, so there is no evidence for the candidate."]
    if open_ or unproved:
        return "hold", [*open_, *unproved]
    return "promote", [f"The {gate.gate} gate passed: {gate.detail}" for gate in gates if gate.gate in required]


def _open(name: str, gates: Sequence[GateResult]) -> str | None:
    """Why a required gate does not speak for the candidate yet."""
    results = [gate for gate in gates if gate.gate == name]
    if not results:
        return f"The {name} gate has no result."
    weak = [gate for gate in results if gate.verdict != "pass"]
    return f"The {name} gate has too little evidence: {weak[0].detail}" if weak else None


def _name(version: int | None) -> str:
    return "unset" if version is None else f"version {version}"
