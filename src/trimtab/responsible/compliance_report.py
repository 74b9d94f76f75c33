"""A compliance report for people: Markdown, and HTML that needs nothing else. Pure; the JSON is the record itself.

It says what was found and on what evidence. Whether a law or a standard is met is for people to judge, so it never
says so.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from trimtab.records.guidelines import ComplianceReport, Finding, Guidelines

FRAMEWORKS = {
    "AIA": "EU AI Act, Regulation (EU) 2024/1689",
    "NIST": "NIST AI Risk Management Framework 1.0",
    "ISO42001": "ISO/IEC 42001:2023",
    "GDPR": "GDPR, Regulation (EU) 2016/679",
    "MS": "Microsoft Responsible AI Standard v2",
}
"""What stands before the first hyphen of a `maps` entry."""
LIMITS = (
    "This report says what was found, on what evidence, at one moment. It maps clauses to articles and controls that "
    "they speak to; it does not judge whether those are met."
)
_COLOURS = {
    "PASS": "#1a7f37",
    "FAIL": "#b42318",
    "INSUFFICIENT": "#8a6100",
    "STALE": "#8a6100",
    "WAIVED": "#5b4bb7",
    "NOT_APPLICABLE": "#57606a",
}
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;color:#1f2328}"
    "table{border-collapse:collapse;width:100%;margin:1rem 0}th,td{text-align:left;vertical-align:top;"
    "padding:.4rem .6rem;border-bottom:1px solid #d0d7de}code{font-size:.9em;overflow-wrap:anywhere}"
    ".status{font-weight:600;white-space:nowrap}.muted{color:#57606a}"
    "@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}.muted{color:#9198a1}}"
)

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]


def markdown(report: ComplianceReport, book: Guidelines) -> str:
    """The report as Markdown."""
    parts = [f"# {_title(report)}", *_summary(report, book)]
    for title, (head, rows) in _tables(report):
        lines = [head, ("---",) * len(head), *rows]
        parts += [f"## {title}", "\n".join("| " + " | ".join(_cell(c) for c in line) + " |" for line in lines)]
    return "\n\n".join([*parts, LIMITS]) + "\n"


def page(report: ComplianceReport, book: Guidelines) -> str:
    """The report as one HTML page without scripts or anything from elsewhere."""
    body = [
        f"<h1>{html.escape(_title(report))}</h1>",
        *(f"<p>{html.escape(line)}</p>" for line in _summary(report, book)),
    ]
    for title, (head, rows) in _tables(report):
        body += [f"<h2>{html.escape(title)}</h2>", _html_table(head, rows)]
    body.append(f'<p class="muted">{html.escape(LIMITS)}</p>')
    head = f'<meta charset="utf-8"><title>{html.escape(_title(report))}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def _title(report: ComplianceReport) -> str:
    return f"{report.system}: {report.model} version {report.version}"


def _summary(report: ComplianceReport, book: Guidelines) -> list[str]:
    holding = ", ".join(finding.clause for finding in report.open) or "none"
    use = book.intended_use
    lines = [
        f"At {report.at:%Y-%m-%d %H:%M} UTC, occasion: {report.occasion}. Guidelines {report.guidelines_sha256}. "
        f"Audit log of {report.log_size} entries, root {report.log_root or 'none'}.",
        f"Clauses that hold a promotion: {holding}.",
        f"Intended use: {use.purpose}",
    ]
    if book.prohibited_use:
        lines.append(f"Must not be used for: {'; '.join(book.prohibited_use)}.")
    return [*lines, f"Owner: {book.owner}."]


def _tables(report: ComplianceReport) -> list[tuple[str, Table]]:
    checked = [finding for finding in report.findings if finding.check != "attest"]
    attested = [finding for finding in report.findings if finding.check == "attest"]
    found = [("Checked by machine", _findings(checked))]
    if attested:
        found.append(("Attested by people, checked by nobody", _findings(attested)))
    return [*found, ("Evidence", _evidence(report.findings)), ("What the clauses speak to", _maps(report.findings))]


def _findings(findings: Iterable[Finding]) -> Table:
    rows = [
        (
            finding.clause,
            finding.status,
            "holds" if finding.blocks else "",
            finding.text,
            finding.reason,
            _until(finding),
        )
        for finding in findings
    ]
    return ("clause", "status", "promotion", "promise", "found", "until"), rows


def _until(finding: Finding) -> str:
    return f"{finding.until:%Y-%m-%d}" if finding.until else ""


def _evidence(findings: Iterable[Finding]) -> Table:
    rows = [
        (
            finding.clause,
            proof.what,
            proof.run or "",
            proof.artifact_sha256 or "",
            f"{proof.log_first} to {proof.log_last}" if proof.log_last else "",
            proof.command,
        )
        for finding in findings
        for proof in finding.evidence
    ]
    return ("clause", "what", "MLflow run", "SHA-256", "log entries", "see it yourself"), rows


def _maps(findings: Sequence[Finding]) -> Table:
    rows = [
        (name, place, ", ".join(f"{f.clause} {f.status}" for f in findings if place in f.maps))
        for prefix, name in FRAMEWORKS.items()
        for place in sorted({place for f in findings for place in f.maps if place.split("-")[0] == prefix})
    ]
    return ("framework", "place", "clauses"), rows


def _html_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    titles = "".join(f"<th>{html.escape(title)}</th>" for title in head)
    lines = "".join(f"<tr>{''.join(_html_cell(cell) for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table>"


def _html_cell(cell: str) -> str:
    if cell in _COLOURS:
        return f'<td class="status" style="color:{_COLOURS[cell]}">{cell}</td>'
    shown = html.escape(cell)
    return f"<td><code>{shown}</code></td>" if cell.startswith(("trimtab ", "curl ")) else f"<td>{shown}</td>"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
