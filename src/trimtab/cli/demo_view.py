"""What the demo shows while it runs: the stages of the loop, read from the same records as everything else."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from rich.console import Group
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trimtab.lifecycle import STAGES
from trimtab.records.lifecycle import Progress, Step
from trimtab.records.monitor import Alert, DriftReport, QualityReport
from trimtab.records.promotion import Decision, GateResult, RolloutLook
from trimtab.records.registry import AliasMove, ModelVersion
from trimtab.settings import Settings
from trimtab.store.control import Control

EXPECTED_START = {"register": 0.0, "serve": 8.0, "watch": 47.0, "retrain": 76.0, "judge": 145.0, "roll out": 303.0}
EXPECTED_END = 349.0
"""Seconds into the tour on two idle cores (README): what is left is told from the stage it is at."""

_MARK = {"done": "[green]✓[/]", "running": "[cyan]●[/]", "waiting": "[dim]·[/]"}


@dataclass
class View:
    """The state of the tour."""

    settings: Settings
    control: Control
    model: str
    dashboard: str
    started: float = field(default_factory=time.monotonic)
    stage: str = "register"
    notes: dict[str, list[str]] = field(default_factory=lambda: {stage: [] for stage in STAGES})
    traffic_line: str = ""
    finished: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    def enter(self, stage: str) -> None:
        """The tour is at this stage now."""
        now = time.monotonic() - self.started
        self.seconds.setdefault(stage, now)
        self.stage = stage

    def render(self) -> Panel:
        """The whole picture."""
        self._read()
        table = Table.grid(padding=(0, 1))
        table.add_column(width=1)
        table.add_column(width=9)
        table.add_column(ratio=1)
        at = STAGES.index(self.stage)
        for number, stage in enumerate(STAGES):
            state = "done" if number < at else "running" if number == at else "waiting"
            lines: list[Text | ProgressBar] = [Text.from_markup(line) for line in self.notes[stage][-7:]]
            if number == at:
                lines += self._progress()
            table.add_row(
                Text.from_markup(_MARK[state]), Text(stage, style="bold" if state == "running" else ""), Group(*lines)
            )
        spent = time.monotonic() - self.started
        late = spent - self.seconds.get(self.stage, 0.0)
        left = max(0.0, EXPECTED_END - EXPECTED_START[self.stage] - late)
        time_line = f"{spent:.0f} s in all" if self.finished else f"{spent:.0f} s so far, about {left:.0f} s to go"
        foot = f"{time_line}   dashboard: {self.dashboard}"
        return Panel(table, title=f"[bold]Trimtab[/] · {self.model}", subtitle=foot, padding=(1, 2))

    def now(self) -> str:
        """What is happening, on one line: for logs without a terminal."""
        self._read()
        notes = [Text.from_markup(note).plain for note in self.notes[self.stage]]
        moving = [line.plain for line in self._progress() if isinstance(line, Text)]
        return (moving or notes or ["…"])[-1]

    def _progress(self) -> list[Text | ProgressBar]:
        try:
            progress = Progress.model_validate_json(self.settings.progress_file.read_text())
        except (OSError, ValueError):
            return []
        eta = f", {progress.eta_seconds:.0f} s to go" if progress.eta_seconds else ""
        words = f"attempt {progress.attempt}, {progress.step}: {progress.text}{eta}"
        return [Text(words, style="cyan"), ProgressBar(total=1.0, completed=progress.fraction, width=48)]

    def _read(self) -> None:
        control, model = self.control, self.model
        champion = control.alias(model, "champion")
        self.notes["register"] = [
            f"{len(control.facts('version', ModelVersion))} versions; champion: version {champion}"
        ]
        self.notes["serve"] = [self.traffic_line] if self.traffic_line else []
        self.notes["watch"] = self._watch()
        self.notes["retrain"] = [
            f"attempt {s.attempt}, {s.name}: {s.summary} ({s.seconds:.0f} s)" for s in self._steps("curate", "train")
        ]
        self.notes["judge"] = self._judge()
        self.notes["roll out"] = self._rollout()

    def _steps(self, *names: str) -> list[Step]:
        return [step for step in self.control.facts("step", Step) if step.name in names]

    def _watch(self) -> list[str]:
        reports = self.control.facts("drift_report", DriftReport)
        quality = self.control.facts("quality_report", QualityReport)
        lines = [
            f"window {r.current.first}-{r.current.last}: {r.test.split(',')[0]}, p = {r.p_value:.3g}, {r.verdict}"
            for r in reports[-2:]
        ]
        if quality and quality[-1].value:
            value, what = quality[-1].value, quality[-1].field
            lines.append(f"{what} right: {value.estimate:.0%} [{value.low:.0%}, {value.high:.0%}], n = {quality[-1].n}")
        return lines + [f"[red]▲ {_plain(alert.title)}[/]" for alert in self.control.facts("alert", Alert)]

    def _judge(self) -> list[str]:
        lines: list[str] = []
        for decision in self.control.facts("decision", Decision):
            colour = {"promote": "green", "reject": "red", "hold": "yellow"}[decision.outcome]
            gates = ", ".join(f"{gate.gate} {gate.verdict}" for gate in decision.gates)
            lines.append(f"[{colour}]version {decision.candidate}: {decision.outcome}[/] ({gates})")
        return lines or [f"{gate.gate}: {gate.verdict}" for gate in self.control.facts("gate", GateResult)]

    def _rollout(self) -> list[str]:
        looks = {look.percent: look for look in self.control.facts("rollout_look", RolloutLook)}
        lines = [f"{percent:g}% of callers: {look.verdict} ({look.reason})" for percent, look in looks.items()]
        moves = self.control.facts("alias_move", AliasMove, f"{self.model}/champion/")
        return lines + [f"champion: version {m.before} → {m.after} ({_plain(m.reason)})" for m in moves[1:]]


def _plain(text: str) -> str:
    return text.replace("[", "(").replace("]", ")")
