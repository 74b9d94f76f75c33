"""An audit as a record, and as a page that a person reads. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from trimtab.records.responsible import OVERUSED, Audit, Finding, Kind, Policy
from trimtab.responsible import gate
from trimtab.responsible.gate import Gap

VERDICTS = {
    "pass": "PASS: no group differs by more than the tolerance.",
    "fail": "FAIL: a difference is established.",
    "insufficient": "INSUFFICIENT: too little evidence for either.",
}


INFORMATION = "Information only: nothing of it gates."


def conclude(
    kind: Kind,
    subject: str,
    gaps: Sequence[Gap],
    policy: Policy,
    *,
    unit: str,
    n: int,
    test: str,
    evaluation_sha256: str,
    now: datetime,
    audits_before: int = 0,
    limits: str = "",
    numbers: Mapping[str, float] | None = None,
    unmeasured: Mapping[str, str] | None = None,
    examples: Sequence[str] = (),
    log_root: str = "",
) -> Audit:
    """Judge the gaps by the policy and record everything that a reader needs to judge the judgement. `unmeasured`:
    metrics that could not be measured, and why; one that gates blocks a PASS."""
    verdict, findings, reasons = gate.judge(gaps, policy)
    missing = {
        name: why for name, why in (unmeasured or {}).items() if name in {g.split("/")[0] for g in policy.gating}
    }
    reasons += [f"{name} gates and is not measured: {why}." for name, why in missing.items()]
    if missing and verdict == "pass":
        verdict = "insufficient"
    if audits_before >= OVERUSED:
        reasons.append(
            f"This evaluation set was audited {audits_before} times before: it is overused, and proves little by now."
        )
    return Audit(
        kind=kind,
        subject=subject,
        verdict=verdict,
        reasons=tuple(reasons),
        unit=unit,
        n=n,
        test=test,
        findings=tuple(findings),
        policy=policy,
        policy_sha256=policy.hash,
        evaluation_sha256=evaluation_sha256,
        audits_before=audits_before,
        numbers=dict(numbers or {}),
        unmeasured=dict(unmeasured or {}),
        examples=tuple(examples),
        limits=limits,
        log_root=log_root,
        at=now,
    )


def page(audit: Audit) -> str:
    """The audit as Markdown: verdict, who was measured, who could not be, worst pairs, limits."""
    tested = [f for f in audit.findings if f.gap is not None]
    small = [f for f in audit.findings if f.gap is None]
    verdict = INFORMATION if audit.kind == "probes" else VERDICTS[audit.verdict]
    lines = [
        f"# {audit.kind.replace('_', ' ').capitalize()} of {audit.subject}",
        f"**{verdict}** {audit.n} {audit.unit}s, {audit.at:%Y-%m-%d %H:%M} UTC."
        + (" **Overused evaluation set.**" if audit.overused else ""),
        "\n".join(f"- {reason}" for reason in audit.reasons),
        f"Test: {audit.test}. alpha {audit.policy.alpha:g}, at least {audit.policy.minimum} to be tested; policy "
        f"`{audit.policy_sha256[:12]}`, evaluation set `{audit.evaluation_sha256[:12]}`, "
        f"audited {audit.audits_before} times before.",
        "## What gates\n\n" + _table([f for f in tested if f.gating]),
        "## Exploratory\n\n" + _table([f for f in tested if not f.gating]),
    ]
    if audit.numbers:
        lines.append("## Numbers\n\n" + "\n".join(f"- {name}: {value:.3g}" for name, value in audit.numbers.items()))
    if small or audit.unmeasured:
        seen = [f"under {audit.policy.suppressed}" if f.n is None else str(f.n) for f in small]
        told = [f"- {name}: not measured: {why}" for name, why in audit.unmeasured.items()]
        told += [f"- {f.name}: {n}, {f.note}" for f, n in zip(small, seen, strict=True)]
        lines.append("## Not tested\n\n" + "\n".join(told))
    if audit.examples:
        lines.append("## Worst pairs\n\n" + "\n".join(f"- {_cell(example)}" for example in audit.examples))
    if audit.limits:
        lines.append(f"## Limits\n\n{audit.limits}")
    return "\n\n".join(lines) + "\n"


def rows(audit: Audit) -> dict[str, list[object]]:
    """The findings as columns, for a table of MLflow's. What is not told is None."""
    columns: dict[str, list[object]] = {}
    for finding in audit.findings:
        gap = finding.gap
        told = {
            "attribute": finding.attribute,
            "group": finding.group,
            "metric": finding.metric,
            "denominator": finding.n,
            "value": finding.value,
            "rest": finding.rest,
            "gap": gap.estimate if gap else None,
            "lo": gap.low if gap else None,
            "hi": gap.high if gap else None,
            "p_adj": finding.p_adjusted,
            "verdict": finding.verdict if finding.gating else "exploratory",
            "collect": finding.collect,
            "note": finding.note,
        }
        for name, value in told.items():
            columns.setdefault(name, []).append(value)
    return columns


def metrics(audit: Audit) -> dict[str, float]:
    """Metric names and values in the layout rai/METRIC/ATTRIBUTE/…; an undefined gap has none, never NaN."""
    found: dict[str, float] = {f"rai/{name}": value for name, value in audit.numbers.items()}
    for key in dict.fromkeys((f.metric, f.attribute) for f in audit.findings):
        mine = [f for f in audit.findings if (f.metric, f.attribute) == key and f.gap is not None]
        if not mine:
            continue
        worst = max(mine, key=lambda f: f.upper or 0.0)
        assert worst.gap is not None  # noqa: S101 (only tested ones were kept)
        if key[0] == "flip_rate":
            found[f"rai/flip_rate/{_slug(key[1])}"] = worst.gap.estimate
        name = f"rai/{_slug(key[0])}/{_slug(key[1])}"
        found |= {f"{name}/gap": worst.gap.estimate, f"{name}/gap_lo": worst.gap.low, f"{name}/gap_hi": worst.gap.high}
        if worst.value is not None:
            found[f"{name}/worst"] = worst.value
    return found


def _slug(name: str) -> str:
    """A part of a metric's name, as MLflow takes it."""
    return "".join(letter if letter.isalnum() or letter in "_-.: " else "_" for letter in name)


def _table(findings: Sequence[Finding]) -> str:
    if not findings:
        return "Nothing."
    head = ("metric", "attribute", "group", "n", "value", "rest", "gap", "verdict", "note")
    body = [
        (
            f.metric,
            f.attribute,
            f.group,
            str(f.n),
            f"{f.value:.3f}",
            f"{f.rest:.3f}",
            f"{f.gap.estimate:+.3f} [{f.gap.low:+.3f}, {f.gap.high:+.3f}]" if f.gap else "",
            f.verdict if f.gating else "",
            f.note if f.note != "exploratory" else "",
        )
        for f in sorted(findings, key=lambda f: -(f.upper or 0.0))
    ]
    lines = [head, ("---",) * len(head), *body]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
