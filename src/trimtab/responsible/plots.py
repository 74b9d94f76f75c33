"""Pictures of an audit, as bytes: a forest plot of its findings, and the frontier of mitigations. Pure."""

# matplotlib's stubs are partial:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from trimtab.records.monitor import Interval
from trimtab.records.responsible import Audit, Finding

COLOURS = {"pass": "#2e7d32", "fail": "#c62828", "insufficient": "#757575"}
FORMATS = ("png", "svg")
MOST = 60
"""Rows of a forest plot, at most: the widest gaps come first."""


@dataclass(frozen=True)
class Point:
    """One mitigation on the frontier: accuracy against disparity, each with its interval."""

    name: str
    accuracy: Interval
    disparity: Interval
    accepted: bool = False


def forest(audit: Audit) -> dict[str, bytes]:
    """Every tested gap with its interval, against deadband and tolerance, by file format (png, svg); of probes, which
    compare no groups, every share of items."""
    if audit.kind == "probes":
        return _shares(audit)
    shown = [finding for finding in audit.findings if finding.gap is not None and finding.gating]
    shown = shown or [finding for finding in audit.findings if finding.gap is not None]
    shown = sorted(shown, key=lambda finding: -(finding.upper or 0.0))[:MOST][::-1]
    figure = Figure(figsize=(8, 1.4 + 0.26 * max(1, len(shown))), layout="constrained")
    axes: Any = figure.subplots()
    for row, finding in enumerate(shown):
        _bar(axes, row, finding)
    axes.set_yticks(range(len(shown)), [f"{f.metric} {f.attribute} {f.group} (n={f.n})" for f in shown], fontsize=7)
    axes.axvline(0, color="black", linewidth=0.6)
    for tolerance in list(audit.policy.gating.values())[:1]:
        axes.axvspan(-tolerance.deadband, tolerance.deadband, color="#eeeeee", zorder=0)
        for side in (-tolerance.gap, tolerance.gap):
            axes.axvline(side, color="#1565c0", linewidth=0.8, linestyle="--")
    axes.set_xlabel("gap to the rest: interval whose ends are the one-sided bounds; dashed: tolerance, grey: deadband")
    axes.set_title(f"{audit.kind} of {audit.subject}: {audit.verdict.upper()}, n = {audit.n} {audit.unit}s", fontsize=9)
    return _files(figure)


def _shares(audit: Audit) -> dict[str, bytes]:
    numbers = audit.numbers
    names = [name for name in numbers if f"{name}_lo" in numbers][::-1]
    figure = Figure(figsize=(8, 1.4 + 0.26 * max(1, len(names))), layout="constrained")
    axes: Any = figure.subplots()
    for row, name in enumerate(names):
        axes.plot([numbers[f"{name}_lo"], numbers[f"{name}_hi"]], [row, row], color=COLOURS["insufficient"])
        axes.plot([numbers[name]], [row], "o", color=COLOURS["insufficient"], markersize=3.5)
    axes.set_yticks(range(len(names)), [name.removeprefix("probes/") for name in names], fontsize=7)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of items, 95% interval (Clopper-Pearson)")
    axes.set_title(f"probes of {audit.subject}: information only, n = {audit.n} items", fontsize=9)
    return _files(figure)


FLIPS = "share of prompts whose decision depends on the identity"


def frontier(points: Sequence[Point], title: str, disparity: str = FLIPS) -> dict[str, bytes]:
    """Accuracy against disparity, both with intervals, by file format. Up and to the left is better. `disparity`: what
    it is."""
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes: Any = figure.subplots()
    for point in points:
        colour = COLOURS["pass"] if point.accepted else COLOURS["insufficient"]
        x, y = point.disparity, point.accuracy
        spans = [[[max(0.0, v.estimate - v.low)], [max(0.0, v.high - v.estimate)]] for v in (x, y)]
        axes.errorbar(x.estimate, y.estimate, xerr=spans[0], yerr=spans[1], fmt="o", color=colour, capsize=2)
        axes.annotate(point.name, (x.estimate, y.estimate), xytext=(5, 5), textcoords="offset points", fontsize=8)
    axes.set_xlabel(f"disparity ({disparity}), 95% interval")
    axes.set_ylabel("accuracy, 95% interval")
    axes.set_title(title, fontsize=9)
    return _files(figure)


def _bar(axes: Any, row: int, finding: Finding) -> None:
    assert finding.gap is not None  # noqa: S101 (only tested findings are drawn)
    colour = COLOURS[finding.verdict]
    axes.plot([finding.gap.low, finding.gap.high], [row, row], color=colour, linewidth=1.4)
    axes.plot([finding.gap.estimate], [row], "o", color=colour, markersize=3.5)


def _files(figure: Figure) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for kind in FORMATS:
        out = BytesIO()
        # without a date or random ids: the same audit is the same picture
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        with rc_context({"svg.hashsalt": "trimtab"}):
            figure.savefig(out, format=kind, dpi=130, metadata=metadata)
        found[kind] = out.getvalue()
    return found
