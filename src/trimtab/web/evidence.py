"""What the page shows of a cycle: its attempts, their data, gates and decision, and the rollout."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.records.monitor import Interval
from trimtab.records.promotion import Decision, GateResult, RolloutLook
from trimtab.records.training import DatasetVersion, TrainingRun
from trimtab.web import words
from trimtab.web.cycles import Attempt, CycleView, PastCycle
from trimtab.web.pieces import Cell, badge, box, more, panel, table, text, version


def cycle(view: CycleView | None) -> None:
    """The latest cycle, attempt by attempt. Its `progress` is shown elsewhere."""
    if view is None:
        with panel("Retraining", "curate, train, judge, roll out"):
            text(
                "No cycle has run. One starts when an alert asks for it and enough labels are there, "
                "or now: `trimtab cycle run`.",
                "muted",
            )
        return
    with panel(f"Cycle {view.cycle.id}"):
        with box("inline"):
            badge(view.end.outcome if view.end else "running")
            text(f"since {words.moment(view.cycle.opened_at)} UTC, because of {view.trigger}", "muted")
        if view.end and view.end.outcome not in ("promoted", "rejected"):
            text(view.end.summary, "body")
        for attempt in view.attempts:
            _attempt(attempt)


def _attempt(attempt: Attempt) -> None:
    with box("attempt"):
        with box("inline"):
            text(f"Attempt {attempt.number}", "", "h3")
            if attempt.decision:
                version(attempt.decision.candidate)
                badge(attempt.decision.outcome)
        with box("steps", "ol").props('aria-label="finished steps"'):
            for step in attempt.steps:
                item = text(f"✓ {step.name} {words.length(step.seconds)}", "step", "li")
                item.props["title"] = step.summary
        with box("made-of"):
            if attempt.dataset:
                _data(attempt.dataset)
            if attempt.training:
                _training(attempt.training)
            _accuracies(attempt.gates)
        if attempt.gates:
            columns = ("gate", "verdict", "estimate", "n", "asked", "finding", "test")
            table("gate-table", f"gates of attempt {attempt.number}", columns, [_gate(gate) for gate in attempt.gates])
        if attempt.decision:
            _decision(attempt.decision)
        if attempt.looks:
            _rollout(attempt.looks)


def _data(dataset: DatasetVersion) -> None:
    with box("fact"):
        text("Data", "fact-name")
        text(f"{dataset.n_train} rows to train on, {dataset.n_holdout} held out", "")
        notes = [dataset.mitigation.replace("_", " ")] if dataset.mitigation != "none" else []
        notes += [f"new {name}: {', '.join(values)}" for name, values in dataset.new_labels.items()]
        notes += [f"{count} left out ({reason})" for reason, count in dataset.excluded.items() if count]
        text("; ".join(notes), "muted")


def _training(run: TrainingRun) -> None:
    with box("fact"):
        text("Training", "fact-name")
        text(run.losses(2, " → "), "")
        text(f"{run.method}, {words.plural(run.steps, 'step')}, {words.length(run.seconds)}", "muted")


def _accuracies(gates: Sequence[GateResult]) -> None:
    """Accuracy on the hold-out of everything that was asked, lowest first."""
    numbers = next((gate.numbers for gate in gates if gate.gate == "quality"), {})
    found = {name.removeprefix("accuracy_"): v for name, v in numbers.items() if name.startswith("accuracy_")}
    if not found:
        return
    with box("fact"):
        text("Accuracy on the hold-out", "fact-name")
        for name, share in sorted(found.items(), key=lambda item: item[1]):
            with box("bar-line"):
                rows = numbers.get(f"n_{name}")  # it was asked the first rows only
                text(f"{name}, {rows:.0f} rows" if rows else name, "bar-name")
                with box("bar").props("aria-hidden=true"):
                    box("bar-fill mine" if name == "candidate" else "bar-fill").style(f"width: {share:.1%}")
                text(f"{share:.0%}", "bar-value")


def _gate(gate: GateResult) -> tuple[Cell, ...]:
    neutral = 1.0 if gate.gate == "latency" else 0.0

    def estimate() -> None:
        text(words.interval(gate.value, sign="" if neutral else "+"), "number", "span")
        if gate.value is not None:
            _whisker(gate.value, neutral)

    def finding() -> None:
        text(gate.detail, "", "span")
        if gate.examples:
            with more(words.plural(len(gate.examples), "example")), box("", "ul"):
                for example in gate.examples:
                    text(example, "", "li")

    return (gate.gate, lambda: badge(gate.verdict), estimate, f"{gate.n:,}", gate.limit, finding, gate.test)


def _whisker(value: Interval, neutral: float) -> None:
    """The interval as a line, around the value that means no difference."""
    reach = 1.15 * max(abs(value.low - neutral), abs(value.high - neutral), 1e-9)

    def place(number: float) -> float:
        return 50 + 50 * (number - neutral) / reach

    with box("whisker").props("aria-hidden=true"):
        box("whisker-neutral")
        box("whisker-line").style(f"left: {place(value.low):.1f}%; right: {100 - place(value.high):.1f}%")
        box("whisker-point").style(f"left: {place(value.estimate):.1f}%")


def _decision(decision: Decision) -> None:
    against = f"against {words.version(decision.champion)}" if decision.champion is not None else ""
    summary = f"Why {decision.outcome}: decided {words.moment(decision.at)} UTC, version {decision.candidate} {against}"
    with more(summary.strip()) as details, box("decision", "ul"):
        for reason in decision.reasons:
            text(reason, "", "li")
    if decision.outcome != "promote":
        details.props("open")


def _rollout(looks: Sequence[RolloutLook]) -> None:
    text("Rollout", "fact-name")
    rows: list[Sequence[Cell]] = [
        (
            f"{look.percent:g}%",
            lambda v=look.verdict: badge(v),
            f"{look.failures_canary} of {look.n_canary}",
            f"{look.failures_champion} of {look.n_champion}",
            words.interval(look.difference),
            f"{look.e_value:.2g} (harm at {1 / look.alpha:g})",
        )
        for look in looks
    ]
    columns = ("callers", "verdict", "canary failed", "champion failed", "difference", "e-value")
    table("rollout", "canary steps", columns, rows)


def earlier(found: Sequence[PastCycle]) -> None:
    """The cycles before the latest one."""
    if not found:
        return
    with panel("Earlier cycles"):
        rows: list[Sequence[Cell]] = [
            (
                past.cycle.id,
                lambda o=past.end.outcome if past.end else "running": badge(o),
                f"version {past.end.version}" if past.end and past.end.version else "none",
                past.end.summary if past.end else "",
            )
            for past in found
        ]
        table("earlier-cycles", "earlier cycles", ("cycle", "outcome", "promoted", "summary"), rows)
