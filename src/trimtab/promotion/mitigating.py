"""Mitigations of a version, each tried on the half of the frames that its audit did not use, and accepted or not.

The order is fixed: what cannot flip by construction comes first, and of those the one that asks the model once. The
first that is accepted is proposed; all of them are reported and logged, also those that do not help.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trimtab import registry, rotating
from trimtab.errors import Fixable
from trimtab.evaluation.compare import exact_share, proportion
from trimtab.evaluation.scorers import label_of
from trimtab.promotion import gather
from trimtab.promotion.audits import (
    Place,
    evaluated,
    field_of,
    fingerprint,
    flips_of,
    frames_of,
    half_of,
    labelled_rows,
    looks_at,
    twins_of,
)
from trimtab.promotion.gather import Say
from trimtab.records.promotion import GateVerdict
from trimtab.records.record import utc_now
from trimtab.records.registry import ModelVersion, VersionSpec
from trimtab.records.responsible import Attempt, Audit, Look, MitigationRun
from trimtab.registry import audits as runs
from trimtab.registry import project_files
from trimtab.responsible import identities, mitigation, plots
from trimtab.responsible.identities import Frame
from trimtab.responsible.mitigation import Acceptance, Trial
from trimtab.responsible.plots import Point

METHODS = ("mask", "average", "instruction")
"""In the order in which they are proposed."""
NAMED = ("rotate",)
"""Tried only where they are named: they were made for another ill, and each that is tried makes the proof of the others
harder."""
LABELLED = 400
"""Newest labelled rows on which the price of a mitigation is measured."""
INSTRUCTIONS = {
    "en": "The answer must not depend on the group of people that the message names or speaks of.",
    "zh": "答案不得因消息中提到的人属于哪个群体而不同。",
}


@dataclass(frozen=True)
class Tried:
    """One mitigation: the specification that it makes, what twins show of it, and whether it is accepted."""

    method: str
    name: str
    spec: VersionSpec
    after: Audit
    acceptance: Acceptance


@dataclass(frozen=True)
class Weighed:
    """The audit before, everything that was tried, and what could not be, with the reason."""

    before: Audit
    tried: tuple[Tried, ...]
    left_out: Mapping[str, str]

    @property
    def chosen(self) -> Tried | None:
        """The first accepted one, in the order of METHODS, then NAMED."""
        return next((one for one in self.tried if one.acceptance.accepted), None)


def weigh(place: Place, say: Say, methods: Sequence[str] = METHODS) -> Weighed:
    """Try each method where the newest audit by twins failed, and log it all: one run for the audit before, one nested
    in it for each method, and the frontier. Raises Fixable when no audit is on record, it established no failure, or
    the file has no axis or no frame any more on which that failure could be mended.
    """
    section = place.loaded.project.fairness
    found = place.control.last("audit", Audit, f"{place.subject}/twins/")
    if found is None:
        raise Fixable(f"{place.subject} was not audited", "run `trimtab fairness measure` first")
    if found.verdict != "fail":
        message = (
            f"the newest audit of {place.subject} by twins is {found.verdict.upper()}: there is nothing to mitigate"
        )
        raise Fixable(message, "collect more frames and run `trimtab fairness measure` again, or leave it as it is")
    failed = {f.attribute for f in found.findings if f.verdict == "fail"}
    axes = sorted((a for a in section.axes if a in failed), key=lambda axis: -_flips(found, axis))
    if not axes:
        message = f"fairness.axes names none of the axes that failed: {', '.join(sorted(failed))}"
        raise Fixable(message, "name them, or run `trimtab fairness measure` again")
    frames, rows = half_of(frames_of(place), prove=True), labelled_rows(place)[-LABELLED:]
    before = _look(place, place.version, frames, _named(say, "as it is"))
    flips = [f for f in before.findings if f.metric == "flip_rate" and f.attribute in axes]
    if not flips:
        raise Fixable(
            f"no frame of the half that proves is valid for {', '.join(axes)}", "add frames to fairness.frames"
        )
    worst = max(flips, key=lambda f: f.upper or 0.0).attribute
    as_it_is = _measured(place, place.version, frames, rows, worst, _named(say, "as it is, labelled rows"))
    asked, left_out = list[_Asked](), dict[str, str]()
    for method in (one for one in (*METHODS, *NAMED) if one in methods):
        made = _made(place, method, axes)
        if isinstance(made, str):
            left_out[method] = made
        else:
            asked.append(_ask(place, method, *made, frames, rows, worst, say))
    tried = _judged(place, found.verdict, before, as_it_is, asked, rows, frames)
    weighed = Weighed(before, tried, left_out)
    points = [("as it is", before, as_it_is.right), *((a.name, a.audit, a.found.right) for a in asked)]
    drawn = [point for told in points if (point := _point(*told))]
    log(place, weighed, drawn)  # without a labelled row nobody knows the accuracy
    return weighed


@dataclass(frozen=True)
class _Measured:
    """Which frames of the axis that decides flip, which labelled rows are right, and how often each answer is given."""

    flips: tuple[bool, ...]
    right: tuple[bool, ...]
    decisions: Mapping[str, int]


@dataclass(frozen=True)
class _Asked:
    """A mitigation that was put to the frames and to the labelled rows."""

    method: str
    name: str
    spec: VersionSpec
    audit: Audit
    found: _Measured


def _ask(
    place: Place,
    method: str,
    name: str,
    spec: VersionSpec,
    frames: Sequence[Frame],
    rows: Sequence[Mapping[str, Any]],
    axis: str,
    say: Say,
) -> _Asked:
    trial = place.version.model_copy(update={"spec": spec, "version": 0})
    audit = _look(place, trial, frames, _named(say, name), subject=f"{place.subject} with {name}")
    found = _measured(place, trial, frames, rows, axis, _named(say, f"{name}, labelled rows"))
    return _Asked(method, name, spec, audit, found)


def _look(place: Place, version: ModelVersion, frames: Sequence[Frame], say: Say, subject: str = "") -> Audit:
    """What twins show of a version, or of a trial, on the frames that prove. Each look wears these frames out, as an
    audit does, and is in the log before anybody sees what it showed."""
    digest, at = fingerprint(place, evaluated(frames)), utc_now()
    audit = twins_of(place, version, frames, say, subject=subject)
    look = Look(subject=place.subject, evaluation_sha256=digest, spec_sha256=version.spec.hash, at=at)
    place.control.put("look", f"{place.subject}/{version.spec.hash[:16]}/{at.isoformat()}", look)
    return audit


def _measured(
    place: Place,
    version: ModelVersion,
    frames: Sequence[Frame],
    rows: Sequence[Mapping[str, Any]],
    axis: str,
    say: Say,
) -> _Measured:
    flips = flips_of(place, version, frames, axis, say)
    return _Measured(flips, *_right(place, version, rows, say))


def _judged(
    place: Place,
    established: GateVerdict,
    before: Audit,
    as_it_is: _Measured,
    asked: Sequence[_Asked],
    rows: Sequence[Mapping[str, Any]],
    frames: Sequence[Frame],
) -> tuple[Tried, ...]:
    groups = _groups(place, rows)
    seen = frozenset(frame.text for frame in half_of(frames_of(place), prove=False))
    trials = [
        Trial(
            name=one.name,
            established=established,
            seen=seen,
            proved_on=frozenset(frame.text for frame in frames),
            before=as_it_is.right,
            after=one.found.right,
            groups=groups,
            decisions=one.found.decisions,
            flips_before=as_it_is.flips,
            flips_after=one.found.flips,
        )
        for one in asked
    ]
    return concluded(place, before, [(one.method, one.spec, one.audit) for one in asked], trials)


def concluded(
    place: Place, before: Audit, asked: Sequence[tuple[str, VersionSpec, Audit]], trials: Sequence[Trial]
) -> tuple[Tried, ...]:
    """What was tried (by which method, the version that it makes, what was seen of it), accepted or not, and on record.
    Everything that was ever tried on what `before` was asked shares the 5%."""
    margin, now = place.loaded.project.fairness.margin, {spec.hash for _, spec, _ in asked}
    looks = [look for look in looks_at(place, before.evaluation_sha256) if isinstance(look, Look)]
    ever = {look.spec_sha256 for look in looks if look.subject == place.subject} - {place.version.spec.hash}
    accepted = mitigation.accept_all(trials, margin, earlier=len(ever - now))
    tried = tuple(
        Tried(method, trial.name, spec, audit, said)
        for (method, spec, audit), trial, said in zip(asked, trials, accepted, strict=True)
    )
    at = utc_now()
    record = MitigationRun(
        subject=place.subject,
        evaluation_sha256=before.evaluation_sha256,
        policy_sha256=before.policy_sha256,
        margin=margin,
        tries=len(ever | now),
        attempts=tuple(
            Attempt(
                name=t.name, spec_sha256=t.spec.hash, accepted=a.accepted, confidence=a.confidence, reasons=a.reasons
            )
            for t in tried
            for a in [t.acceptance]
        ),
        at=at,
    )
    place.control.put("mitigation", f"{place.subject}/{at.isoformat()}", record)
    return tried


def register(place: Place, chosen: Tried) -> ModelVersion:
    """What was accepted as a version of its own, child of the one it mends."""
    return registry.register(
        place.settings,
        place.control,
        chosen.spec,
        config_hash=project_files.keep(place.control, place.loaded),
        note=f"{chosen.name}: {'; '.join(chosen.acceptance.reasons)}",
        parent=place.version.version,
    )


def _made(place: Place, method: str, axes: Sequence[str]) -> tuple[str, VersionSpec] | str:
    """The name of a mitigation and the version that it makes; else why it cannot be tried. The worst axis is first."""
    spec, language = place.version.spec, place.loaded.project.fairness.language
    words = identities.pack(language)
    if spec.thresholds is not None:
        return "its thresholds were fitted to the version as it is; mend that without them, and fit them anew"
    if method == "mask":
        mask = identities.mask_of(words, axes)
        return f"mask {mask.name}", spec.model_copy(update={"masks": (*spec.masks, mask)})
    if method == "instruction":
        system = f"{spec.prompt.system}\n{INSTRUCTIONS[language]}".lstrip()
        prompt = spec.prompt.model_copy(update={"system": system})
        return "instruction in the prompt", spec.model_copy(update={"prompt": prompt})
    if spec.labels is None:
        return "a vote counts answers of labels, and this version answers in free text"
    if spec.decoding.temperature != 0:
        return "a vote needs answers without chance, and this version has a temperature"
    if method == "rotate":
        return _rotated(place, spec)
    if spec.average is not None:
        return f"the version averages over {spec.average.name} already"
    average, others = identities.average_of(words, axes[0]), axes[1:]
    change: dict[str, Any] = {"average": average}
    if not others:
        return f"average {average.name}", spec.model_copy(update=change)
    mask = identities.mask_of(words, others)
    change["masks"] = (*spec.masks, mask)
    return f"average {average.name} and mask {mask.name}", spec.model_copy(update=change)


def _rotated(place: Place, spec: VersionSpec) -> tuple[str, VersionSpec] | str:
    """The labels of the field that must not depend on the group, in several orders."""
    field, labels = field_of(place), spec.labels
    assert field is not None and labels is not None  # noqa: S101, PT018 (a version with labels has a field)
    if field in spec.rotate:
        return f"the labels of {field} are asked in several orders already"
    if spec.base.format != "hosted" and not rotating.lists(spec.prompt.system, labels.fields[field]):
        return (
            f"the prompt does not list the labels of {field}, so they have no order; write them into it, e.g. "
            f"`{field}: {', '.join(labels.fields[field])}`, and register it"
        )
    return f"rotate {field}", spec.model_copy(update={"rotate": (*spec.rotate, field)})


def _flips(audit: Audit, axis: str) -> float:
    return max((f.upper or 0.0 for f in audit.findings if (f.metric, f.attribute) == ("flip_rate", axis)), default=0.0)


def _named(say: Say, what: str) -> Say:
    return lambda fraction, eta, text: say(fraction, eta, f"{what}: {text}")


def _groups(place: Place, rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], ...]:
    """The groups of each labelled row: its script, and the groups of people that its text names."""
    section = place.loaded.project.fairness
    words = identities.pack(section.language)
    found: list[tuple[str, ...]] = []
    for row in rows:
        named = [(axis, identities.named(row["input_text"], words, axis)) for axis in section.axes]
        found.append((f"script {row['segment']}", *(f"{axis} {group}" for axis, group in named if group)))
    return tuple(found)


def _right(
    place: Place, version: ModelVersion, rows: Sequence[Mapping[str, Any]], say: Say
) -> tuple[tuple[bool, ...], dict[str, int]]:
    """Whether each labelled row is answered wholly right, and how often each answer was given."""
    if not rows:
        return (), {}
    texts = [row["input_text"] for row in rows]
    replies = gather.answers(place.settings, place.loaded, place.control, version, texts, say).answers
    wanted = [label_of(row["label"]) for row in rows]
    hits = [
        answer is not None and all(answer.get(k) == v for k, v in label.items())
        for answer, label in zip(replies, wanted, strict=True)
    ]
    field = field_of(place) or "text"
    return tuple(hits), dict(Counter((answer or {}).get(field, "") for answer in replies))


def _point(name: str, audit: Audit, hits: Sequence[bool]) -> Point | None:
    flips = max((f for f in audit.findings if f.metric == "flip_rate"), key=lambda f: f.upper or 0.0)
    n = flips.n or 0
    accuracy, share = proportion(sum(hits), len(hits)), exact_share(round((flips.value or 0.0) * n), n)
    return Point(name, accuracy, share) if accuracy is not None and share is not None else None


def log(place: Place, weighed: Weighed, points: Sequence[Point], disparity: str = plots.FLIPS) -> None:
    """One run for the audit before, one nested in it for each mitigation, accepted or not, and their frontier."""
    settings, model = place.settings, place.version.spec.model
    parent = runs.log_audit(settings, model, weighed.before, name="mitigation: before")
    for one in weighed.tried:
        run = runs.log_audit(settings, model, one.after, parent=parent, name=f"after {one.name}")
        told = {"rai.accepted": str(one.acceptance.accepted).lower()}
        told["rai.confidence"] = f"{one.acceptance.confidence:.4f}"
        runs.log_note(settings, run, told, one.acceptance.reasons)
        runs.log_change(settings, run, weighed.before, one.after)
    accepted = {one.name for one in weighed.tried if one.acceptance.accepted}
    if points:
        drawn = [replace(point, accepted=point.name in accepted) for point in points]
        pictures = {"frontier": plots.frontier(drawn, f"mitigations of {place.subject}", disparity)}
        runs.log_pictures(settings, parent, pictures)
