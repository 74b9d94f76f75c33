"""What the page shows of the guidelines: each clause as it was last found, on what evidence, and how old that is."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from trimtab.records.guidelines import ComplianceReport, Finding, Proof
from trimtab.web import words
from trimtab.web.pieces import badge, box, more, panel, table, text
from trimtab.web.view import View

YOUNG = 600
"""Seconds up to which an age is "minutes"."""


class Clauses(NamedTuple):
    """What is shown; a value, so that it is drawn anew only when a word changes. `ages` and `states` are by clause."""

    guided: bool
    report: ComplianceReport | None
    age: str
    ages: tuple[str, ...]
    states: tuple[str, ...]


def clauses_of(view: View) -> Clauses:
    """The newest report on the champion; what was proved and has grown too old since is stale now."""
    report = view.compliance
    if report is None:
        return Clauses(view.guided, None, "", (), ())

    def age(finding: Finding) -> str:
        return _age(view.at, finding.proved_at) if finding.proved_at else "none"

    def state(finding: Finding) -> str:
        over = finding.status in ("PASS", "WAIVED") and finding.until is not None and finding.until < view.at
        return "stale" if over else finding.status.lower()

    ages, states = (tuple(map(each, report.findings)) for each in (age, state))
    return Clauses(True, report, _age(view.at, report.at), ages, states)


def _age(now: datetime, at: datetime) -> str:
    """Never in seconds: what is opened on the page would close at each of them."""
    seconds = (now - at).total_seconds()
    return "minutes" if seconds < YOUNG else words.length(seconds)


def clauses(shown: Clauses) -> None:
    """The section."""
    report = shown.report
    if report is None:
        if shown.guided:
            with panel("Guidelines"):
                text("Not held against the records yet: `trimtab compliance --record`.", "muted")
        return
    holding = len(report.open)
    with panel("Guidelines", f"{report.system}, version {report.version}: {shown.age} old"):
        with box("inline"):
            badge("hold" if holding else "pass")
            told = f"{words.plural(holding, 'clause')} of {len(report.findings)} would hold a promotion"
            text(f"{told}; `trimtab compliance` looks now. It judges no law.", "muted")
        rows = [
            (
                finding.clause,
                lambda word=state: badge(word),
                finding.text,
                finding.reason,
                lambda proofs=finding.evidence: _evidence(proofs),
                age,
            )
            for finding, state, age in zip(report.findings, shown.states, shown.ages, strict=True)
        ]
        columns = ("clause", "state", "promise", "found", "evidence", "age")
        table("clauses", "clauses of the guidelines", columns, rows)


def _evidence(proofs: tuple[Proof, ...]) -> None:
    if not proofs:
        text("none", "muted", "span")
        return
    with more(words.plural(len(proofs), "piece")), box("", "ul"):
        for proof in proofs:
            where = [f"run {proof.run}"] if proof.run else []
            where += [f"SHA-256 {proof.artifact_sha256[:12]}"] if proof.artifact_sha256 else []
            where += [f"log to entry {proof.log_last}"] if proof.log_last else []
            text(f"{proof.what}: {proof.command}" + (f" ({', '.join(where)})" if where else ""), "", "li")
