"""The checks behind guidelines: each a plain function from parameters and evidence to a finding's status. Pure.

The rule that all share: what is not there proves nothing. Absent evidence is INSUFFICIENT, never PASS; old evidence is
STALE; a failure stays a failure, however old. `judge` adds waivers and ages; what reads the evidence is
`lifecycle.compliance`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from trimtab.evaluation.compare import proportion
from trimtab.records.guidelines import (
    CHECKS,
    DAYS,
    Attest,
    CardComplete,
    Clause,
    Drill,
    ErasureBacklog,
    FairnessCounterfactual,
    FairnessGroup,
    Finding,
    GuardActive,
    Latency,
    LogCoverage,
    LogIntegrity,
    LogRetention,
    OversightDrill,
    Proof,
    Quality,
    SignedWord,
    Status,
)
from trimtab.records.keys import lifetime
from trimtab.records.promotion import GateResult
from trimtab.responsible.guards.cards import Recall


@dataclass(frozen=True)
class Guard:
    """A guard in force. `sha256` is that of its definition; `recall` is what its card says of it, if it does."""

    name: str
    direction: str
    action: str
    parameters: Mapping[str, Any]
    sha256: str
    recall: Recall | None = None


@dataclass(frozen=True)
class GroupGap:
    """One metric of one attribute, as an audit by groups found it: `verdict` is pass, fail or insufficient."""

    attribute: str
    metric: str
    verdict: str
    n: int
    upper: float | None
    detail: str
    at: datetime
    run: str | None = None


@dataclass(frozen=True)
class Measured:
    """A gate's result, when, and where it stands. `run` is the MLflow run of the version."""

    gate: GateResult
    at: datetime
    sha256: str
    run: str | None = None


@dataclass(frozen=True)
class Evidence:
    """Everything that checks look at, gathered at `now`. None or empty: there is none."""

    now: datetime
    labelled_task: bool = True
    gates: Mapping[str, Measured] = field(default_factory=dict[str, Measured])
    groups: Sequence[GroupGap] = ()
    guards: Sequence[Guard] = ()
    answered: int | None = None
    """Requests older than the grace period, and how many of them are sealed."""
    sealed: int = 0
    log_faults: Sequence[str] | None = None
    """None: there is no log."""
    log_size: int = 0
    metadata_days: int | None = None
    """Days that metadata is kept; None: for good."""
    shortest_kept: timedelta | None = None
    """Age of the youngest metadata ever deleted; None: none was."""
    lake_exists: bool = False
    drills: Sequence[Drill] = ()
    disclosure: str | None = None
    """The header that answers carry; empty: none; None: the running gateway and the file differ."""
    card_gaps: Sequence[str] | None = None
    """Headings of the card that say "Not recorded."; None: there is no card."""
    card_sha256: str | None = None
    erasure_requests: int = 0
    erasures_open: Sequence[datetime] = ()
    words: Sequence[SignedWord] = ()
    """Signed words whose signature holds."""


@dataclass(frozen=True)
class Found:
    """What a check says: its status, why, when it was proved (None: just now), and on what."""

    status: Status
    reason: str
    at: datetime | None = None
    proofs: tuple[Proof, ...] = ()


Check = Callable[[Any, Clause, Evidence], Found]


def judge(clause: Clause, evidence: Evidence) -> Finding:
    """What the evidence says of one clause now."""
    parameters = CHECKS[clause.check].model_validate(clause.parameters)
    found = _aged(clause, TABLE[clause.check](parameters, clause, evidence), evidence.now)
    waiver = _valid("waiver", clause, evidence)
    if waiver is not None and found.status in ("FAIL", "INSUFFICIENT", "STALE"):
        reason = f"{found.status}, waived by {waiver.by} until {waiver.until:%Y-%m-%d}: {waiver.reason}. {found.reason}"
        found = Found("WAIVED", reason, found.at, (*found.proofs, _word_proof(waiver)))
    until = waiver.until if found.status == "WAIVED" and waiver else _until(clause, found)
    return Finding(
        clause=clause.id,
        text=clause.text,
        check=clause.check,
        maps=clause.maps,
        status=found.status,
        reason=found.reason,
        blocks=clause.blocks(found.status),
        proved_at=found.at or (evidence.now if found.status in ("PASS", "FAIL") else None),
        until=until,
        evidence=found.proofs,
    )


def kept(clause: Clause, before: Finding | None, at: datetime, now: datetime) -> Finding | None:
    """The finding recorded `at` an earlier time, where the clause need not be proved again yet; None: prove it now.

    A clause that is not `on: promote` counts at a promotion as it was last proved, for as long as its period.
    """
    periods = [DAYS[occasion] for occasion in clause.on if occasion in DAYS]
    if "promote" in clause.on or not periods or before is None or before.status != "PASS":
        return None
    return before if at + timedelta(days=min(periods)) >= now else None


def _aged(clause: Clause, found: Found, now: datetime) -> Found:
    """PASS on evidence that is too old is STALE."""
    until = _until(clause, found)
    if found.status != "PASS" or found.at is None or until is None or until >= now:
        return found
    reason = f"Proved at {found.at:%Y-%m-%d %H:%M} UTC, too long ago. {found.reason}"
    return Found("STALE", reason, found.at, found.proofs)


def _until(clause: Clause, found: Found) -> datetime | None:
    if found.at is None or clause.evidence_max_age is None:
        return None
    return found.at + lifetime(clause.evidence_max_age)


def _valid(kind: str, clause: Clause, evidence: Evidence, by: Sequence[str] = ()) -> SignedWord | None:
    """The newest signed word for this very clause that has not ended."""
    fitting = [
        word
        for word in evidence.words
        if (word.kind, word.clause, word.clause_sha256) == (kind, clause.id, clause.sha256)
        and word.at <= evidence.now < word.until
        and (not by or word.by in by)
    ]
    return max(fitting, key=lambda word: word.at, default=None)


def _word_proof(word: SignedWord) -> Proof:
    return Proof(what=f"{word.kind} signed by {word.by}", command="trimtab audit export")


# The checks

_GATES = ": the gates of a cycle measure a candidate (`trimtab cycle run`); the first version has passed none."
_TWINS = ": `trimtab fairness measure` tests it, and so do the gates of a cycle."


def _counterfactual(limits: FairnessCounterfactual, clause: Clause, evidence: Evidence) -> Found:
    if not evidence.labelled_task:
        return Found("NOT_APPLICABLE", "The task has no labels whose dependence on names could be counted.")
    measured = evidence.gates.get("fairness")
    if measured is None:
        return Found("INSUFFICIENT", f"No counterfactual test of this version is on record{_TWINS}")
    gate, proofs = measured.gate, (_gate_proof(measured),)
    name = "flip_rate_upper" if limits.metric == "flip_rate" else "gap_upper"
    upper = gate.numbers.get(name)
    if gate.verdict == "fail" and limits.metric == "gap":
        return Found("FAIL", gate.detail, measured.at, proofs)
    if upper is None or gate.n < limits.min_units:
        reason = f"{gate.n} pairs, and {limits.min_units} are needed. {gate.detail}"
        return Found("INSUFFICIENT", reason, measured.at, proofs)
    if upper < limits.max:
        return Found("PASS", f"Upper bound {upper:.3f} < {limits.max:g} on {gate.n} pairs.", measured.at, proofs)
    return Found(
        "INSUFFICIENT", f"Upper bound {upper:.3f} is not below {limits.max:g}. {gate.detail}", measured.at, proofs
    )


def _group(limits: FairnessGroup, clause: Clause, evidence: Evidence) -> Found:
    mine = [gap for gap in evidence.groups if (gap.attribute, gap.metric) == (limits.attribute, limits.metric)]
    if not mine:
        return Found("INSUFFICIENT", f"No audit of {limits.metric} by {limits.attribute} is on record.")
    newest = max(mine, key=lambda gap: gap.at)
    proofs = (Proof(what="audit by groups", command=_check_command(clause), run=newest.run),)
    if newest.verdict == "fail":
        return Found("FAIL", newest.detail, newest.at, proofs)
    if newest.upper is None or newest.n < limits.min_denominator or newest.upper >= limits.tolerance:
        return Found("INSUFFICIENT", f"n = {newest.n}. {newest.detail}", newest.at, proofs)
    return Found("PASS", newest.detail, newest.at, proofs)


def _guard(limits: GuardActive, clause: Clause, evidence: Evidence) -> Found:
    mine = [guard for guard in evidence.guards if limits.guard in (guard.name, guard.parameters.get("kind"))]
    if not mine:
        return Found("INSUFFICIENT", f"No guard {limits.guard} is in force.")
    acting = [guard for guard in mine if not {guard.action, *guard.parameters.get("at", {}).values()} & _IDLE]
    acting = [guard for guard in acting if limits.action in (None, guard.action)]
    covered = {way for guard in acting for way in _ways(guard.direction)}
    missing = _ways(limits.direction) - covered
    proofs = tuple(
        Proof(what=f"guard {guard.name}", command="trimtab guards list", artifact_sha256=guard.sha256) for guard in mine
    )
    if missing:
        must = f"to {limits.action}" if limits.action else "to act"
        return Found("FAIL", f"No guard {limits.guard} is set {must} on {' and '.join(sorted(missing))}.", None, proofs)
    in_force = f"{', '.join(guard.name for guard in acting)} in force."
    if limits.min_recall is None:
        return Found("PASS", in_force, None, proofs)
    card = Proof(what="guard card", command=f"trimtab guards card {acting[0].parameters.get('kind', limits.guard)}")
    judged = [_recalled(guard, limits.min_recall) for guard in acting]
    found = {status for status, _ in judged}
    status: Status = "FAIL" if "FAIL" in found else "INSUFFICIENT" if "INSUFFICIENT" in found else "PASS"
    return Found(status, " ".join([in_force, *(said for _, said in judged)]), None, (*proofs, card))


def _recalled(guard: Guard, least: float) -> tuple[Status, str]:
    """Whether the card proves a recall of at least `least`: Wilson's interval lies above it, below it, or on it."""
    card = guard.recall
    interval = proportion(card.found, card.of) if card else None
    if card is None or interval is None:
        return "INSUFFICIENT", f"No card speaks of {guard.name} as it is set: measure it on your own texts."
    told = (
        f"{guard.name} found {card.found} of {card.of} (95% interval {interval.low:.3f} to {interval.high:.3f}; "
        f"least of {card.weakest}); at least {least:g} is asked."
    )
    if interval.high < least:
        return "FAIL", told
    if card.unmeasured:
        return "INSUFFICIENT", f"{told} Never measured: {', '.join(card.unmeasured)}."
    return ("PASS" if interval.low >= least else "INSUFFICIENT"), told


_IDLE = {"shadow", "allow"}
"""Actions that change nothing; a guard that takes one anywhere (`at`) is not in force everywhere."""


def _ways(direction: str) -> set[str]:
    return {"input", "output"} if direction == "both" else {direction}


def _coverage(limits: LogCoverage, clause: Clause, evidence: Evidence) -> Found:
    if not evidence.answered:
        return Found(
            "INSUFFICIENT", "No request older than the grace period was answered, so there is nothing to seal."
        )
    share = evidence.sealed / evidence.answered
    said = f"{evidence.sealed} of {evidence.answered} requests are sealed ({share:.2%}); `trimtab up` seals them."
    proofs = (Proof(what="seals in the audit log", command="trimtab audit verify --rows 0"),)
    return Found("PASS" if share >= limits.min else "FAIL", said, None, proofs)


def _integrity(limits: LogIntegrity, clause: Clause, evidence: Evidence) -> Found:
    if evidence.log_faults is None or not evidence.log_size:
        return Found("INSUFFICIENT", "There is no audit log.")
    proofs = (Proof(what="log, checkpoints, facts, sealed rows", command="trimtab audit verify --rows 0"),)
    if evidence.log_faults:
        return Found("FAIL", " ".join(evidence.log_faults[:3]), None, proofs)
    return Found("PASS", f"{evidence.log_size} entries, every checkpoint and the sealed rows agree.", None, proofs)


def _retention(limits: LogRetention, clause: Clause, evidence: Evidence) -> Found:
    if not evidence.lake_exists:
        return Found("INSUFFICIENT", "Nothing was answered yet, so nothing is kept.")
    proofs = (Proof(what="evidence.retention and what it did", command="trimtab retention --dry-run"),)
    kept = evidence.metadata_days
    if kept is not None and kept < limits.min_days:
        return Found("FAIL", f"Metadata is kept for {kept} days; {limits.min_days} are asked.", None, proofs)
    shortest = evidence.shortest_kept
    if shortest is not None and shortest < timedelta(days=limits.min_days):
        return Found("FAIL", f"Metadata {shortest.days} days old was deleted.", None, proofs)
    return Found("PASS", f"Metadata is kept {'for good' if kept is None else f'for {kept} days'}.", None, proofs)


def _drilled(limits: OversightDrill, clause: Clause, evidence: Evidence) -> Found:
    newest = {kind: max((d.at for d in evidence.drills if d.kind == kind), default=None) for kind in limits.kinds}
    never = [kind for kind, at in newest.items() if at is None]
    if never:
        kinds = ", ".join(never)
        return Found("INSUFFICIENT", f"No drill on record: {kinds} (`trimtab compliance drill {never[0]}`).")
    times = [at for at in newest.values() if at is not None]
    proofs = tuple(
        Proof(what=f"{drill.kind} by {drill.by}: {drill.seen}", command="trimtab audit export")
        for drill in evidence.drills
        if drill.at in times
    )
    oldest = min(times, default=evidence.now)
    if oldest + lifetime(limits.max_age) < evidence.now:
        return Found(
            "STALE", f"The last drill was at {oldest:%Y-%m-%d}; one is due every {limits.max_age}.", oldest, proofs
        )
    return Found("PASS", f"Drilled: {', '.join(limits.kinds)}, last at {oldest:%Y-%m-%d}.", oldest, proofs)


def _disclosed(limits: Any, clause: Clause, evidence: Evidence) -> Found:
    if evidence.disclosure is None:
        return Found("INSUFFICIENT", "The running gateway follows other routes than trimtab.yaml says: start it anew.")
    if not evidence.disclosure:
        return Found("FAIL", "Answers carry no AI-Disclosure header: endpoint.disclosure is off.")
    proofs = (
        Proof(what=evidence.disclosure, command='curl -sD - -o /dev/null GATEWAY/predict -d \'{"input": "hello"}\''),
    )
    return Found("PASS", f"Answers carry {evidence.disclosure}.", None, proofs)


def _card(limits: CardComplete, clause: Clause, evidence: Evidence) -> Found:
    if evidence.card_gaps is None:
        return Found("INSUFFICIENT", "There is no system card of this version.")
    gaps = [gap for gap in evidence.card_gaps if not limits.headings or gap in limits.headings]
    proofs = (Proof(what="system card", command="trimtab card", artifact_sha256=evidence.card_sha256),)
    if gaps:
        return Found("INSUFFICIENT", f"Nothing is recorded under: {', '.join(gaps)}.", None, proofs)
    return Found("PASS", "Every heading is filled from the records.", None, proofs)


def _quality(limits: Quality, clause: Clause, evidence: Evidence) -> Found:
    if not evidence.labelled_task:
        return Found("NOT_APPLICABLE", "The task has no labels to count right answers by.")
    measured = evidence.gates.get("quality")
    if measured is None:
        return Found("INSUFFICIENT", f"No comparison on labelled rows is on record for this version{_GATES}")
    found = _verdict(measured)
    accuracy = measured.gate.numbers.get("accuracy_candidate")
    if limits.min is None or found.status == "FAIL":
        return found
    if accuracy is None:
        return Found("INSUFFICIENT", "The comparison has no accuracy.", found.at, found.proofs)
    said = f"Accuracy {accuracy:.3f} on {measured.gate.n} held-out rows; at least {limits.min:g} is asked."
    return Found("PASS" if accuracy >= limits.min else "FAIL", said, found.at, found.proofs)


def _latency(limits: Latency, clause: Clause, evidence: Evidence) -> Found:
    measured = evidence.gates.get("latency")
    if measured is None:
        return Found("INSUFFICIENT", f"No latency comparison is on record for this version{_GATES}")
    return _verdict(measured)


def _verdict(measured: Measured) -> Found:
    statuses: dict[str, Status] = {"pass": "PASS", "fail": "FAIL", "insufficient": "INSUFFICIENT"}
    gate = measured.gate
    return Found(statuses[gate.verdict], gate.detail, measured.at, (_gate_proof(measured),))


def _backlog(limits: ErasureBacklog, clause: Clause, evidence: Evidence) -> Found:
    if not evidence.erasure_requests:
        return Found("NOT_APPLICABLE", "Nobody has asked for erasure.")
    proofs = (Proof(what="requests and tombstones in the audit log", command="trimtab audit export"),)
    late = [at for at in evidence.erasures_open if at + timedelta(days=limits.max_days) < evidence.now]
    if late:
        said = f"{len(late)} requests are open for over {limits.max_days} days, the first since {min(late):%Y-%m-%d}."
        return Found("FAIL", said, None, proofs)
    done = evidence.erasure_requests - len(evidence.erasures_open)
    return Found("PASS", f"{done} of {evidence.erasure_requests} requests are served; none is late.", None, proofs)


def _attested(limits: Attest, clause: Clause, evidence: Evidence) -> Found:
    word = _valid("attestation", clause, evidence, limits.by)
    if word is None:
        who = " or ".join(limits.by) or "somebody under people"
        return Found("INSUFFICIENT", f"Nobody has signed it: `trimtab compliance attest {clause.id}` by {who}.")
    return Found("PASS", f"Attested by {word.by}: {word.reason}", word.at, (_word_proof(word),))


def _gate_proof(measured: Measured) -> Proof:
    gate = measured.gate
    what = f"{gate.gate} gate: {gate.test}; n = {gate.n}"
    return Proof(what=what, command="trimtab card", run=measured.run, artifact_sha256=measured.sha256)


def _check_command(clause: Clause) -> str:
    return f"trimtab compliance --clause {clause.id}"


TABLE: dict[str, Check] = {
    "fairness.counterfactual": _counterfactual,
    "fairness.group": _group,
    "guard.active": _guard,
    "log.coverage": _coverage,
    "log.integrity": _integrity,
    "log.retention": _retention,
    "oversight.drill": _drilled,
    "disclosure.header": _disclosed,
    "card.complete": _card,
    "quality": _quality,
    "latency": _latency,
    "erasure.backlog": _backlog,
    "attest": _attested,
}
"""Every check; its parameters are in `records.guidelines.CHECKS`."""
