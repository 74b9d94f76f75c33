"""Guidelines as code: what guidelines.yaml says, the parameters of each check, signed words, and what was found.

A value that is wrong by itself is refused here; `project.guidelines` checks what needs a second value or the table
below. What a check does with its parameters and the evidence is in `responsible.checks`.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from trimtab.records import keys
from trimtab.records.file_model import FileModel
from trimtab.records.record import Record, content_hash

Occasion = Literal["promote", "daily", "weekly", "monthly"]
Status = Literal["PASS", "FAIL", "INSUFFICIENT", "STALE", "WAIVED", "NOT_APPLICABLE"]
SETTLED: tuple[Status, ...] = ("PASS", "WAIVED", "NOT_APPLICABLE")
"""What lets a blocking clause through."""
DAYS: dict[str, int] = {"daily": 1, "weekly": 7, "monthly": 31}
"""How long a periodic proof holds."""


def _refused(problem: str, fix: str) -> PydanticCustomError:
    return PydanticCustomError("refused", "{problem}", {"problem": problem, "fix": fix})


def _length(value: str) -> str:
    try:
        keys.lifetime(value)
    except ValueError as error:
        raise _refused(str(error), "write it like 30d, 12h or 5min") from None
    return value


def _clause_id(value: str) -> str:
    if re.fullmatch(r"[A-Z][A-Z0-9]*-[0-9]+", value):
        return value
    raise _refused("is not a clause id", "write it like BIAS-01")


def _person(value: str) -> str:
    if re.fullmatch(r"[^\s+]+", value):
        return value
    raise _refused("is not a name that can sign", "write an e-mail address or a name without spaces and +")


Length = Annotated[str, AfterValidator(_length)]
Share = Annotated[float, Field(ge=0, le=1)]


class IntendedUse(FileModel):
    """What the system is for."""

    purpose: str
    """One sentence: what it does, and for what."""
    domains: tuple[str, ...] = ()
    """Where it may be used, e.g. [customer support]."""
    users: tuple[str, ...] = ()
    """Who may use it, e.g. [staff]."""


class Clause(FileModel):
    """One promise, and how it is checked."""

    id: Annotated[str, AfterValidator(_clause_id)]
    """Its name, e.g. BIAS-01."""
    text: str
    """The promise, in a sentence that people understand."""
    check: str
    """What proves it: the name of a check, or attest (a named person's signed word)."""
    maps: tuple[str, ...] = ()
    """What it speaks to, e.g. [AIA-10.2f, NIST-MS-2.11, ISO42001-A.6.2.4]."""
    parameters: dict[str, Any] = Field(default={}, alias="with")
    """The check's parameters."""
    on: tuple[Occasion, ...] = ("promote",)
    """When it must be proved again: promote, daily, weekly, monthly."""
    evidence_max_age: Length | None = None
    """Age at which its evidence goes stale, e.g. 30d; null: never."""
    on_fail: Literal["block", "warn"] = "block"
    """What failing does: block holds every promotion, warn is only shown."""
    on_insufficient: Literal["block", "warn"] = "block"
    """What missing or stale evidence does."""

    @property
    def sha256(self) -> str:
        """What a waiver or an attestation is bound to: a clause that changes needs a new one."""
        return content_hash(self)

    def blocks(self, status: Status) -> bool:
        """Whether a finding of this status holds a promotion."""
        if status in SETTLED:
            return False
        return (self.on_fail if status == "FAIL" else self.on_insufficient) == "block"


class Guidelines(FileModel):
    """guidelines.yaml: what a system is for, and the promises that must be proved before it changes."""

    system: str
    """What is governed."""
    owner: str
    """Who answers for it."""
    intended_use: IntendedUse
    prohibited_use: tuple[str, ...] = ()
    """What it must not be used for."""
    risks: tuple[str, ...] = ()
    """Known and foreseeable risks, a sentence each."""
    oversight: str = ""
    """Who can overrule or stop it, and how."""
    people: dict[Annotated[str, AfterValidator(_person)], str] = Field(default={})
    """Who may sign waivers and attestations: name and verifier key (`trimtab compliance key`)."""
    clauses: tuple[Clause, ...]
    """The promises."""


# Parameters of the checks


class FairnessCounterfactual(FileModel):
    """The same text under another declared name gets the same answer."""

    metric: Literal["gap", "flip_rate"] = "gap"
    """gap: difference in favourable rate; flip_rate: share of pairs whose answer changed in any way."""
    max: Share = 0.1
    """The one-sided 95% upper bound must lie below this."""
    min_units: int = Field(default=100, ge=1)
    """Pairs needed."""


class FairnessGroup(FileModel):
    """A metric on labelled rows does not differ between groups."""

    attribute: str
    """The attribute, e.g. dialect."""
    metric: str
    """The metric, e.g. fpr."""
    tolerance: Share = 0.1
    """The upper bound of each gap must lie below this."""
    min_denominator: int = Field(default=30, ge=1)
    """Rows of a group that the metric rests on."""


class GuardActive(FileModel):
    """A guard of this kind is in force. One that trimtab.yaml does not declare is put in force by the clause itself."""

    guard: str
    """Its name or kind, e.g. pii."""
    direction: Literal["input", "output", "both"] = "both"
    """On what it acts."""
    action: Literal["redact", "block", "flag"] | None = None
    """What it must do; null: anything but shadow or allow, as trimtab.yaml declares it."""
    min_recall: Share | None = None
    """Recall on its card, at least."""


class LogCoverage(FileModel):
    """What was answered is sealed in the audit log."""

    min: Share = 0.999
    """Share of the requests answered so far."""
    grace: Length = "5min"
    """Requests younger than this need not be sealed yet."""


class LogIntegrity(FileModel):
    """Log, checkpoints, facts and sealed rows agree."""

    rows: int = Field(default=10_000, ge=0)
    """Newest sealed rows held against their seals; 0: all."""


class LogRetention(FileModel):
    """The log and the requests' metadata are kept long enough."""

    min_days: int = Field(default=183, ge=1)
    """Days (AI Act, Art. 19 and 26: at least six months)."""


class OversightDrill(FileModel):
    """People have shown lately that they can take back and stop the system."""

    kinds: tuple[Literal["rollback", "kill_switch"], ...] = ("rollback", "kill_switch")
    """Which drills."""
    max_age: Length = "90d"
    """How old the last one may be."""


class DisclosureHeader(FileModel):
    """Every answer says that a machine made it."""


class CardComplete(FileModel):
    """The system card has something to say under each heading of Annex IV."""

    headings: tuple[str, ...] = ()
    """Headings that must not say "Not recorded."; empty: all that can be known before the rollout."""


class Quality(FileModel):
    """The answers are right often enough."""

    min: Share | None = None
    """Accuracy on the hold-out, at least; null: the quality gate's own verdict."""


class Latency(FileModel):
    """The answers are quick enough: the latency gate's verdict."""


class ErasureBacklog(FileModel):
    """Requests for erasure are served in time."""

    max_days: int = Field(default=30, ge=1)
    """Days (GDPR, Art. 12(3): one month)."""


class Attest(FileModel):
    """A named person's signed word, where no machine can check."""

    by: tuple[str, ...] = ()
    """Who may give it; empty: anybody under `people`."""


CHECKS: dict[str, type[FileModel]] = {
    "fairness.counterfactual": FairnessCounterfactual,
    "fairness.group": FairnessGroup,
    "guard.active": GuardActive,
    "log.coverage": LogCoverage,
    "log.integrity": LogIntegrity,
    "log.retention": LogRetention,
    "oversight.drill": OversightDrill,
    "disclosure.header": DisclosureHeader,
    "card.complete": CardComplete,
    "quality": Quality,
    "latency": Latency,
    "erasure.backlog": ErasureBacklog,
    "attest": Attest,
}
"""Every check and its parameters."""


# Facts


class GuidelinesText(Record):
    """A guidelines file as it was written: `sha256` is that of the text in UTF-8."""

    sha256: str
    text: str


class SignedWord(Record):
    """A waiver of a clause, or a person's word for one. `note` is the signed text (C2SP signed-note) of the rest."""

    kind: Literal["waiver", "attestation"]
    clause: str
    clause_sha256: str
    by: str
    at: datetime
    until: datetime
    reason: str
    note: str = ""


class Drill(Record):
    """An exercise of human oversight: what was done, by whom, and what was seen."""

    kind: Literal["rollback", "kill_switch"]
    at: datetime
    by: str
    seen: str
    entry: str | None = Field(default=None, description="kind/key of the fact that proves it")


class Proof(Record):
    """What a finding rests on, and how to see it oneself."""

    what: str
    command: str
    run: str | None = Field(default=None, description="MLflow run")
    artifact_sha256: str | None = None
    log_first: int | None = Field(default=None, description="first audit entry")
    log_last: int | None = None
    log_root: str | None = Field(default=None, description="base64 root of the log up to log_last")


class Finding(Record):
    """What was found of one clause."""

    clause: str
    text: str
    check: str
    maps: tuple[str, ...]
    status: Status
    reason: str
    blocks: bool = Field(description="whether it holds a promotion")
    proved_at: datetime | None = None
    until: datetime | None = Field(default=None, description="when the proof goes stale or the waiver ends")
    evidence: tuple[Proof, ...] = ()


class ComplianceReport(Record):
    """Every clause of one guidelines file, as found for one version."""

    model: str
    version: int
    guidelines_sha256: str
    config_hash: str = Field(default="", description="of the project file then; empty: an earlier release")
    system: str
    occasion: str
    at: datetime
    findings: tuple[Finding, ...]
    log_size: int
    log_root: str

    @property
    def open(self) -> tuple[Finding, ...]:
        """What holds a promotion."""
        return tuple(finding for finding in self.findings if finding.blocks)
