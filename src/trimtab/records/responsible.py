"""Responsible AI: the policy that an audit was run under, and what it found. Fixed before, recorded after."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from trimtab.records.monitor import Interval
from trimtab.records.promotion import GateVerdict
from trimtab.records.record import Record, content_hash

Kind = Literal["twins", "groups", "quality_of_service", "guard", "probes"]
OVERUSED = 10
"""Audits on one evaluation set after which its answers are known too well to prove anything new."""


class Tolerance(Record):
    """What one gating metric is judged by, in the metric's own unit (a rate, mostly)."""

    gap: float = Field(gt=0, description="a gap whose upper bound lies below this is accepted")
    deadband: float = Field(default=0.02, ge=0, description="a gap whose lower bound exceeds this is a failure")


class Policy(Record):
    """Everything that decides a verdict, fixed before the run. Its hash stands in every result."""

    gating: dict[str, Tolerance] = Field(description="by metric, or METRIC/ATTRIBUTE; others are exploratory")
    alpha: float = Field(default=0.05, gt=0, le=0.2)
    minimum: int = Field(default=30, ge=10, description="a group is tested from this denominator on")
    displayed: int = Field(default=10, description="a group's value is shown from this denominator on")
    suppressed: int = Field(default=5, description="below this denominator not even the count is told")
    resamples: int = Field(default=4000, ge=2000)
    seed: int = 0
    merged: dict[str, str] = Field(default={}, description="ATTRIBUTE=GROUP to the group that it is counted in")
    waived: dict[str, str] = Field(default={}, description="ATTRIBUTE=GROUP too small to test, and who says why")

    @property
    def hash(self) -> str:
        return content_hash(self)

    def tolerance(self, metric: str, attribute: str) -> Tolerance | None:
        """What the metric gates by on this attribute; None: it is exploratory. Intersections gate by full name only."""
        plain = None if "+" in attribute else self.gating.get(metric)
        return self.gating.get(f"{metric}/{attribute}") or plain


class Finding(Record):
    """One group on one metric. What is too small to tell is None."""

    metric: str
    attribute: str
    group: str
    n: int | None = Field(description="of the metric's denominator, in units of analysis; None: suppressed")
    value: float | None
    rest: float | None = Field(description="the same of everybody else, or of the twin")
    gap: Interval | None = Field(description="value - rest; its ends are the one-sided bounds at alpha")
    lower: float | None = Field(description="Holm-adjusted lower bound of |gap|")
    upper: float | None = Field(description="one-sided upper bound of |gap|")
    p_adjusted: float | None = Field(description="Holm-adjusted, of a gap not above the deadband")
    gating: bool
    verdict: GateVerdict
    collect: int = Field(default=0, description="about how many more units of this group would settle it")
    note: str = ""

    @property
    def name(self) -> str:
        """METRIC/ATTRIBUTE/GROUP."""
        return f"{self.metric}/{self.attribute}/{self.group}"


class Audit(Record):
    """One audit: what was measured of whom, by what policy, and the verdict."""

    kind: Kind
    subject: str = Field(description="what was audited, e.g. models:/desk/3")
    verdict: GateVerdict
    reasons: tuple[str, ...]
    unit: str = Field(description="unit of analysis, e.g. prompt frame")
    n: int
    test: str
    findings: tuple[Finding, ...]
    policy: Policy
    policy_sha256: str
    evaluation_sha256: str = Field(description="keyed hash of the evaluation set: its texts may be users'")
    audits_before: int = Field(default=0, description="audits on the same evaluation set before this one")
    numbers: dict[str, float] = Field(default={})
    unmeasured: dict[str, str] = Field(default={}, description="metrics that could not be measured, and why")
    examples: tuple[str, ...] = Field(default=(), description="worst pairs, verbatim")
    limits: str = ""
    log_root: str = Field(default="", description="root of the audit log when it was made: what it stands after")
    at: datetime

    @property
    def overused(self) -> bool:
        return self.audits_before >= OVERUSED


class Look(Record):
    """One look at how a version, or a mitigation tried on it, answers the frames that prove: it wears them out as an
    audit does."""

    subject: str = Field(description="the version that is to be mended, e.g. models:/desk/3")
    evaluation_sha256: str
    spec_sha256: str = Field(description="of the specification that was asked")
    at: datetime


class Attempt(Record):
    """One mitigation that was tried, and whether it was accepted."""

    name: str
    spec_sha256: str
    accepted: bool
    confidence: float = Field(description="of the intervals it was judged by, after Holm over all tried together")
    reasons: tuple[str, ...]


class MitigationRun(Record):
    """Mitigations tried on one version on one set of frames."""

    subject: str
    evaluation_sha256: str
    policy_sha256: str
    margin: float = Field(description="accuracy that one may cost")
    tries: int = Field(description="different mitigations tried on this set so far, which share the 5%")
    attempts: tuple[Attempt, ...]
    at: datetime
