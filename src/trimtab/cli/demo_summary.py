"""The demo's last ten lines: the numbers, and where each artifact lies."""

from __future__ import annotations

from trimtab.cli.demo_traffic import Traffic
from trimtab.project import Loaded
from trimtab.records.lifecycle import CycleEnd
from trimtab.records.monitor import Alert, DriftReport
from trimtab.records.promotion import Decision, GateResult, RolloutLook
from trimtab.records.registry import AliasMove
from trimtab.records.training import TrainingRun
from trimtab.settings import Settings
from trimtab.store.control import Control
from trimtab.store.lake import Lake


def summary(
    where: Settings, control: Control, loaded: Loaded, traffic: Traffic, seconds: dict[str, float], total: float
) -> list[str]:
    """About ten lines, from the records."""
    model = loaded.project.name
    ends, runs = control.facts("cycle_end", CycleEnd), control.facts("training_run", TrainingRun)
    moves = control.facts("alias_move", AliasMove, f"{model}/champion/")
    entries = control.audit_entries()
    whole = "whole" if not control.audit_faults() else "BROKEN"
    failed, rows = traffic.sent["failed"], Lake(where).count()
    return [
        f"served    {traffic.answered} answers, {failed} failed, {rows} rows in {where.lake / 'inference'}",
        *_drift(control),
        "trained   " + "; ".join(f"{r.steps} steps, {r.losses(2, ' to ')}, {r.seconds:.0f} s" for r in runs),
        *[f"judged    {_decision(decision)}" for decision in control.facts("decision", Decision)],
        *_gain(control, loaded.project.gates.quality_field),
        *_rollout(control),
        f"outcome   {ends[-1].outcome if ends else 'no cycle ended'}; champion: "
        + " → ".join(f"version {m.after}" for m in moves),
        f"evidence  audit log of {len(entries)} entries, {whole}; model cards in {where.cards}",
        f"look      mlflow ui --backend-store-uri {where.mlflow_uri}",
        f"took      {total:.0f} s: " + ", ".join(f"{stage} from {at:.0f} s" for stage, at in seconds.items()),
    ]


def _drift(control: Control) -> list[str]:
    reports, alerts = control.facts("drift_report", DriftReport), control.facts("alert", Alert)
    titles = [alert.title for alert in alerts if alert.kind == "input_drift"]
    tested = f"{len(reports)} windows tested"
    return [f"watched   {tested}; {titles[0]}" if titles else f"watched   {tested}; no drift found"]


def _gain(control: Control, field: str) -> list[str]:
    """What is right on the hold-out: the last candidate beside the constrained few-shot base and the bare one."""
    decisions = control.facts("decision", Decision)
    gates = [gate for decision in decisions[-1:] for gate in decision.gates if gate.gate == "quality"]
    if not gates:
        return []
    numbers = gates[0].numbers
    shares = {name.removeprefix("accuracy_"): n for name, n in numbers.items() if name.startswith("accuracy_")}
    rows = {name: int(numbers.get(f"n_{name}", gates[0].n)) for name in shares}
    shown = ", ".join(
        f"{name} {share:.2f}" + (f" of {rows[name]}" if rows[name] != gates[0].n else "")
        for name, share in shares.items()
    )
    what = "the whole answer" if field == "*" else f"the {field}"
    return [f"gained    {what} right on {gates[0].n} held-out tickets: {shown}"]


def _decision(decision: Decision) -> str:
    return f"version {decision.candidate}: {decision.outcome}; " + "; ".join(_gate(gate) for gate in decision.gates)


def _gate(gate: GateResult) -> str:
    if gate.value is None:
        return f"{gate.gate} {gate.verdict}"
    value = gate.value
    return f"{gate.gate} {gate.verdict} {value.estimate:+.2f} [{value.low:+.2f}, {value.high:+.2f}] n={gate.n}"


def _rollout(control: Control) -> list[str]:
    looks = control.facts("rollout_look", RolloutLook)
    if not looks:
        return []
    last = looks[-1]
    canary, champion = f"{last.failures_canary} of {last.n_canary}", f"{last.failures_champion} of {last.n_champion}"
    rates = f"{canary} canary requests failed, {champion} champion's"
    return [f"rolled    {len(looks)} looks; {rates}; e-value {last.e_value:.2g} (harm at {1 / last.alpha:.0f})"]
