"""Guidelines held against the records: gathers the evidence, has each clause judged, keeps reports and signed words.

What a check makes of the evidence is in `responsible.checks`. Audits by groups are bound to here by their shape alone
(`group_gaps`).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from pydantic import ConfigDict

from trimtab.errors import Fixable, Unproved
from trimtab.lifecycle import evidence as cards
from trimtab.project import Loaded
from trimtab.records.erasure import ErasureRequest, RetentionRun, Tombstone
from trimtab.records.gateway import Routes
from trimtab.records.guidelines import (
    DAYS,
    Clause,
    ComplianceReport,
    Drill,
    Finding,
    Guidelines,
    LogCoverage,
    LogIntegrity,
    Proof,
    SignedWord,
)
from trimtab.records.keys import lifetime
from trimtab.records.promotion import Decision, GateResult
from trimtab.records.record import Record, canonical_json, content_hash
from trimtab.records.registry import AliasMove, ModelVersion, VersionSpec
from trimtab.records.responsible import Audit
from trimtab.registry import project_files
from trimtab.responsible import card, checks
from trimtab.responsible.checks import Evidence, GroupGap, Guard, Measured
from trimtab.responsible.guards import cards as guard_cards
from trimtab.settings import Settings
from trimtab.store import audit, seals, verify_audit
from trimtab.store.control import Control
from trimtab.store.lake import Lake

DRILLED_WITHIN = timedelta(hours=24)
"""How old the rollback may be that a drill names."""
FRESH = timedelta(minutes=15)
"""How long a report holds for a rollout that goes on."""


def guards(version: ModelVersion) -> tuple[Guard, ...]:
    """The guards that are part of a version, as checks see them, with what their cards say."""
    found: list[Guard] = []
    for each in version.spec.guards.checks if version.spec.guards else ():
        parameters = {"kind": each.kind, "at": each.at, **each.params}
        recall = guard_cards.recall(each.kind, each.params)
        found.append(Guard(each.name, each.direction, each.action, parameters, content_hash(each), recall))
    return tuple(found)


class AuditedGroup(Record):
    """What this room reads of one group in an audit; `upper` bounds its gap to the others."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    attribute: str
    metric: str
    group: str
    n: int | None = None
    upper: float | None = None
    verdict: str


class GroupAudit(Record):
    """What this room reads of a fact of kind `audit`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    at: datetime
    findings: tuple[AuditedGroup, ...]


def group_gaps(control: Control, version: ModelVersion) -> tuple[GroupGap, ...]:
    """What audits by groups found of a version: for each audit, attribute and metric the worst of its groups."""
    prefix = f"models:/{version.spec.model}/{version.version}/"
    found: list[GroupGap] = []
    for audited in control.facts("audit", GroupAudit, prefix):
        for attribute, metric in sorted({(one.attribute, one.metric) for one in audited.findings}):
            groups = [one for one in audited.findings if (one.attribute, one.metric) == (attribute, metric)]
            verdicts = {one.verdict for one in groups}
            verdict = "fail" if "fail" in verdicts else "pass" if verdicts == {"pass"} else "insufficient"
            bounds = [one.upper for one in groups if one.upper is not None]
            upper = max(bounds) if len(bounds) == len(groups) else None
            least = min(one.n or 0 for one in groups)
            said = f"{metric} by {attribute}: {verdict}, at least {least} in each of {len(groups)} groups."
            found.append(GroupGap(attribute, metric, verdict, least, upper, said, audited.at, version.run_id))
    return tuple(found)


def evaluate(
    settings: Settings,
    loaded: Loaded,
    control: Control,
    version: ModelVersion,
    now: datetime,
    *,
    occasion: str = "asked",
    gates: Sequence[GateResult] | None = None,
    only: Sequence[str] = (),
) -> ComplianceReport:
    """Every clause (or `only` some), for one version, now. `gates`: those of a decision in the making.

    Raises Fixable when the project has no guidelines or no such clause.
    """
    book = _book(loaded)
    unknown = sorted(set(only) - {clause.id for clause in book.clauses})
    if unknown:
        raise Fixable(f"there is no clause {unknown[0]}", f"use one of {', '.join(c.id for c in book.clauses)}")
    chosen = [clause for clause in book.clauses if not only or clause.id in only]
    seen = gather(settings, loaded, control, version, now, gates, chosen)
    size, note = control.newest_checkpoint() or (0, "")
    root = base64.b64encode(verify_audit.read_checkpoint(note)[2]).decode() if note else ""
    before = last(control, loaded, version) if occasion == "promote" else None
    return ComplianceReport(
        model=version.spec.model,
        version=version.version,
        guidelines_sha256=loaded.guidelines_sha256,
        config_hash=loaded.hash,
        system=book.system,
        occasion=occasion,
        at=now,
        findings=tuple(_logged(_found(clause, seen, before), size, root) for clause in chosen),
        log_size=size,
        log_root=root,
    )


def at_promotion(
    settings: Settings,
    loaded: Loaded,
    control: Control,
    version: ModelVersion,
    gates: Sequence[GateResult],
    key: str,
    now: datetime,
) -> ComplianceReport | None:
    """The report that a decision rests on, made once under its key; None for a project without guidelines."""
    if loaded.guidelines is None:
        return None
    made = control.get("compliance", f"{version.spec.model}/{version.version}/{key}", ComplianceReport)
    if made is not None:
        return made
    report = evaluate(settings, loaded, control, version, now, occasion="promote", gates=gates)
    project_files.keep(control, loaded)
    control.put("compliance", f"{version.spec.model}/{version.version}/{key}", report)
    return report


def asked(
    settings: Settings,
    loaded: Loaded,
    control: Control,
    version: ModelVersion,
    now: datetime,
    checked: Sequence[str] = (),
) -> ComplianceReport | None:
    """What stands between a version that no decision speaks for and the champion's alias. Nothing is recorded.

    `checked`: only clauses of these checks. None where nothing is asked: a project without guidelines, or without such
    clauses.
    """
    book = loaded.guidelines
    only = [clause.id for clause in book.clauses if not checked or clause.check in checked] if book else []
    return evaluate(settings, loaded, control, version, now, occasion="promote", only=only) if only else None


def admit(loaded: Loaded, control: Control, report: ComplianceReport | None) -> None:
    """Record what was asked of a version, and let it become champion or raise Unproved: a blocking clause is open."""
    if report is None:
        return
    record(loaded, control, report)
    refuse(report)


def readmit(settings: Settings, loaded: Loaded, control: Control, version: ModelVersion, now: datetime) -> None:
    """Raise Unproved where a clause that blocks is not proved any more, though it was when the version was decided on.

    A rollout waits for people and for callers. A whole report that is younger than FRESH is not made again.
    """
    book = loaded.guidelines
    newest = last(control, loaded, version)
    if book and newest and newest.at > now - FRESH and len(newest.findings) == len(book.clauses):
        refuse(newest)
    else:
        admit(loaded, control, asked(settings, loaded, control, version, now))


def refuse(report: ComplianceReport | None) -> None:
    """Raise Unproved where a clause that blocks is not proved."""
    if report is not None and report.open:
        said = "; ".join(f"{finding.clause} is {finding.status}: {finding.reason}" for finding in report.open)
        raise Unproved(f"version {report.version} may not become champion. {said}")


def look(settings: Settings, loaded: Loaded, control: Control, now: datetime) -> ComplianceReport | None:
    """Prove the champion's periodic clauses again, when the last report is as old as the shortest period."""
    periods = (
        [DAYS[on] for clause in loaded.guidelines.clauses for on in clause.on if on in DAYS]
        if loaded.guidelines
        else []
    )
    number = control.alias(loaded.project.name, "champion")
    version = control.get("version", f"{loaded.project.name}/{number}", ModelVersion)
    if not periods or version is None:
        return None
    before = last(control, loaded, version)
    if before is not None and before.at + timedelta(days=min(periods)) > now:
        return None
    return record(loaded, control, evaluate(settings, loaded, control, version, now, occasion="schedule"))


def record(loaded: Loaded, control: Control, report: ComplianceReport) -> ComplianceReport:
    """Keep a report as a fact, and in the audit log; so is the file that it was made under."""
    project_files.keep(control, loaded)
    control.put("compliance", f"{report.model}/{report.version}/{report.at.isoformat()}", report)
    return report


def last(control: Control, loaded: Loaded, version: ModelVersion) -> ComplianceReport | None:
    """The newest report on a version under the guidelines as they are."""
    newest = control.last("compliance", ComplianceReport, f"{version.spec.model}/{version.version}/")
    return newest if newest and newest.guidelines_sha256 == loaded.guidelines_sha256 else None


def gather(
    settings: Settings,
    loaded: Loaded,
    control: Control,
    version: ModelVersion,
    now: datetime,
    gates: Sequence[GateResult] | None = None,
    clauses: Sequence[Clause] = (),
) -> Evidence:
    """Everything that the checks of these clauses look at."""
    model, lake, runs = version.spec.model, Lake(settings), control.facts("retention", RetentionRun)
    grace = lifetime(_parameter(loaded, "log.coverage", LogCoverage()).grace)
    rows = _parameter(loaded, "log.integrity", LogIntegrity()).rows
    answered, sealed = lake.count_before(now - grace), seals.sealed_to(control, model)
    deleted = [run.at - run.metadata_before for run in runs if run.metadata_before and run.metadata_rows]
    text = cards.system_card(control, version, project_files.said(loaded, now), loaded.guidelines)
    asked = control.facts("erase_request", ErasureRequest)
    done = {stone.subject: stone.at for stone in control.facts("tombstone", Tombstone)}
    size, _ = control.newest_checkpoint() or (0, "")
    read_whole = size > 0 and any(clause.check == "log.integrity" for clause in clauses)
    return Evidence(
        now=now,
        labelled_task=version.spec.labels is not None,
        gates=_measured(control, version, now, gates),
        groups=group_gaps(control, version),
        guards=guards(version),
        answered=answered,
        sealed=min(sealed, answered),
        log_faults=[*control.audit_faults(), *seals.faults(settings, control, model, rows)] if read_whole else None,
        log_size=size,
        metadata_days=loaded.project.evidence.retention.metadata_days,
        shortest_kept=min(deleted, default=None),
        lake_exists=lake.count() > 0,
        drills=control.facts("drill", Drill),
        disclosure=_disclosure(settings, loaded),
        card_gaps=card.gaps(text),
        card_sha256=content_hash(text),
        erasure_requests=len(asked),
        erasures_open=[one.at for one in asked if one.subject not in done or done[one.subject] < one.at],
        words=_words(control, _book(loaded)),
    )


def sign(control: Control, loaded: Loaded, word: SignedWord, key: Path, now: datetime) -> SignedWord:
    """Sign a waiver or an attestation with a person's key and record it. Raises Fixable when it is not theirs."""
    book = _book(loaded)
    if not key.exists():
        raise Fixable(f"there is no key {key}", f"make one with `trimtab compliance key {word.by} --out {key}`")
    signer = audit.Signer(key, word.by)
    if book.people.get(word.by) != signer.verifier_key:
        fix = f"add `{word.by}: {signer.verifier_key}` under people in the guidelines"
        raise Fixable(f"the guidelines do not know this key as {word.by}'s", fix)
    signed = word.model_copy(update={"note": signer.note(_text(word))})
    control.put(word.kind, f"{loaded.project.name}/{word.clause}/{now.isoformat()}", signed)
    return signed


def clause_of(loaded: Loaded, name: str) -> Clause:
    """The clause of that id. Raises Fixable."""
    book = _book(loaded)
    found = next((clause for clause in book.clauses if clause.id == name), None)
    if found is None:
        raise Fixable(f"there is no clause {name}", f"use one of {', '.join(clause.id for clause in book.clauses)}")
    return found


def drill(settings: Settings, control: Control, model: str, kind: str, by: str, now: datetime) -> Drill:
    """Record a drill that was just held. Raises Fixable when there is no trace of it."""
    if kind == "rollback":
        moves = control.facts("alias_move", AliasMove, f"{model}/champion/")
        back = [m for m in moves if m.before and m.after and m.after < m.before and m.at > now - DRILLED_WITHIN]
        if not back:
            raise Fixable("no rollback in the last 24 hours is on record", "run `trimtab rollback` first")
        seen = f"version {back[-1].before} -> {back[-1].after} by {back[-1].actor} at {back[-1].at.isoformat()}"
        held = Drill(kind="rollback", at=now, by=by, seen=seen, entry="alias_move")
    else:
        try:
            httpx.get(f"{settings.gateway_url}/healthz", timeout=2, verify=False)  # noqa: S501 (whether it answers)
        except httpx.TransportError:
            held = Drill(kind="kill_switch", at=now, by=by, seen=f"{settings.gateway_url} answered nobody")
        else:
            raise Fixable(
                f"the gateway still answers at {settings.gateway_url}", "stop `trimtab up`, then run it again"
            )
    control.put("drill", f"{model}/{kind}/{now.isoformat()}", held)
    return held


def _book(loaded: Loaded) -> Guidelines:
    if loaded.guidelines is None:
        fix = "write guidelines.yaml (docs/compliance.md) and `guidelines: guidelines.yaml` in trimtab.yaml"
        raise Fixable("this project has no guidelines", fix)
    return loaded.guidelines


def _found(clause: Clause, seen: Evidence, before: ComplianceReport | None) -> Finding:
    """A clause that is not `on: promote` counts at a promotion as it was last proved, while its period lasts."""
    old = next((f for f in before.findings if f.clause == clause.id), None) if before else None
    reused = checks.kept(clause, old, before.at, seen.now) if before else None
    return reused or checks.judge(clause, seen)


def _logged(finding: Finding, size: int, root: str) -> Finding:
    """With the range of the log that the evidence was read under."""
    ranged = {"log_first": 1 if size else None, "log_last": size or None, "log_root": root or None}
    proofs: list[Proof] = [proof if proof.log_last else proof.model_copy(update=ranged) for proof in finding.evidence]
    return finding.model_copy(update={"evidence": tuple(proofs)})


def _measured(
    control: Control, version: ModelVersion, now: datetime, gates: Sequence[GateResult] | None
) -> dict[str, Measured]:
    """The gates of a decision in the making, else those of the newest decision on the version or one that differs from
    it by its guards alone, for gates ask the engine, past any guard. A newer audit by twins counts instead of the gate,
    unless it says too little."""
    model, at = version.spec.model, now
    if gates is None:
        alike = {
            one.version
            for one in control.facts("version", ModelVersion, f"{model}/")
            if _unguarded(one) == _unguarded(version)
        }
        mine = [d for d in control.facts("decision", Decision) if d.model == model and d.candidate in alike]
        gates, at = (mine[-1].gates, mine[-1].at) if mine else ((), now)
    found = {gate.gate: Measured(gate, at, content_hash(gate), version.run_id) for gate in gates}
    twins = control.last("audit", Audit, f"models:/{model}/{version.version}/twins/")
    gate = found.get("fairness")
    if twins is not None and (gate is None or (twins.at > gate.at and twins.verdict != "insufficient")):
        found["fairness"] = Measured(_as_gate(twins), twins.at, content_hash(twins), version.run_id)
    return found


def _unguarded(version: ModelVersion) -> VersionSpec:
    return version.spec.model_copy(update={"guards": None})


def _as_gate(audit: Audit) -> GateResult:
    """What an audit by twins says, as the fairness gate says it: the worst group's bounds, the smallest group's n."""
    numbers: dict[str, float] = {}
    for name, metric in (("gap_upper", "favourable"), ("flip_rate_upper", "flip_rate")):
        bounds = [finding.upper for finding in audit.findings if finding.metric == metric]
        if bounds and None not in bounds:
            numbers[name] = max(bound for bound in bounds if bound is not None)
    least = min((finding.n or 0 for finding in audit.findings if finding.gating), default=0)
    said = " ".join(audit.reasons[:3])
    return GateResult(
        gate="fairness",
        verdict=audit.verdict,
        test=audit.test,
        n=least,
        value=None,
        limit="",
        detail=said,
        numbers=numbers,
    )


def _words(control: Control, book: Guidelines) -> list[SignedWord]:
    """Waivers and attestations whose signature is that of a person whom the guidelines name."""
    known = [*control.facts("waiver", SignedWord), *control.facts("attestation", SignedWord)]
    return [word for word in known if _is_signed(word, book.people.get(word.by))]


def _disclosure(settings: Settings, loaded: Loaded) -> str | None:
    """The header that answers carry: what the gateway follows if it runs, and the file; None when they differ."""
    section, model = loaded.project.endpoint.disclosure, loaded.project.name
    if settings.routes_file.exists():
        routes = Routes.model_validate_json(settings.routes_file.read_bytes())
        if routes.disclosure != section.by_path(model):
            return None
    silent = [path for path, route in section.own.items() if route.mode == "off"]
    header = section.header(model)
    return "" if silent or not header else f"AI-Disclosure: {header}"


def _is_signed(word: SignedWord, key: str | None) -> bool:
    if key is None:
        return False
    try:
        return verify_audit.open_note(word.note, key) == _text(word)
    except verify_audit.Invalid:
        return False


def _text(word: SignedWord) -> str:
    """What a person signs: the word, without its signature."""
    return f"trimtab/{word.kind}\n{canonical_json(word.model_copy(update={'note': ''}))}\n"


def _parameter(loaded: Loaded, check: str, default: Any) -> Any:
    """The parameters of the first clause with a check, else the check's defaults."""
    for clause in _book(loaded).clauses:
        if clause.check == check:
            return type(default).model_validate(clause.parameters)
    return default
