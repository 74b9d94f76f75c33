"""Mitigations of a version, each tried on the half of the frames that its audit did not use, and accepted or not.

The order is fixed: what cannot flip by construction comes first, and of those the one that asks the model once. The
first that is accepted is proposed; all of them are reported and logged, also those that do not help.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab import registry
from trimtab.errors import Fixable
from trimtab.evaluation.compare import exact_share, proportion
from trimtab.evaluation.scorers import label_of
from trimtab.promotion.audits import (
    Place,
    answers_of,
    field_of,
    frames_of,
    half_of,
    labelled_rows,
    twins_of,
)
from trimtab.promotion.gather import Say
from trimtab.records.registry import ModelVersion, VersionSpec
from trimtab.records.responsible import Audit
from trimtab.registry import audits as runs
from trimtab.registry import project_files
from trimtab.responsible import identities, mitigation, plots
from trimtab.responsible.mitigation import Acceptance, Trial
from trimtab.responsible.plots import Point

METHODS = ("mask", "average", "instruction")
"""In the order in which they are proposed."""
LABELLED = 300
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
        """The first accepted one, in the order of METHODS."""
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
    everything, rows = frames_of(place), labelled_rows(place)[-LABELLED:]
    frames = half_of(everything, prove=True)
    seen = frozenset(frame.text for frame in half_of(everything, prove=False))
    before = twins_of(place, place.version, frames, _named(say, "as it is"))
    hits, _ = _right(place, place.version, rows, _named(say, "as it is, labelled rows"))
    groups, tried, left_out = _groups(place, rows), list[Tried](), dict[str, str]()
    points = [("as it is", before, hits)]
    flips = [f for f in before.findings if f.metric == "flip_rate" and f.attribute in axes]
    if not flips:
        raise Fixable(
            f"no frame of the half that proves is valid for {', '.join(axes)}", "add frames to fairness.frames"
        )
    worst = max(flips, key=lambda f: f.upper or 0.0)
    for method in (one for one in METHODS if one in methods):
        made = _made(place, method, axes)
        if isinstance(made, str):
            left_out[method] = made
            continue
        name, spec = made
        trial = place.version.model_copy(update={"spec": spec, "version": 0})
        after = twins_of(place, trial, frames, _named(say, name), subject=f"{place.subject} with {name}")
        right, decisions = _right(place, trial, rows, _named(say, f"{name}, labelled rows"))
        told = Trial(
            name=name,
            established=found.verdict,
            seen=seen,
            proved_on=frozenset(frame.text for frame in frames),
            before=hits,
            after=right,
            groups=groups,
            decisions=decisions,
            gap_before=worst,
            gap_after=next(f for f in after.findings if f.name == worst.name),
        )
        tried.append(Tried(method, name, spec, after, mitigation.accept(told, section.margin)))
        points.append((name, after, right))
    weighed = Weighed(before, tuple(tried), left_out)
    _log(place, weighed, points)
    return weighed


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
    if method == "mask":
        mask = identities.mask_of(words, axes)
        return f"mask {mask.name}", spec.model_copy(update={"masks": (*spec.masks, mask)})
    if method == "instruction":
        system = f"{spec.prompt.system}\n{INSTRUCTIONS[language]}".lstrip()
        prompt = spec.prompt.model_copy(update={"system": system})
        return "instruction in the prompt", spec.model_copy(update={"prompt": prompt})
    if spec.labels is None:
        return "an average counts answers of labels, and this version answers in free text"
    if spec.decoding.temperature != 0:
        return "an average needs answers without chance, and this version has a temperature"
    if spec.average is not None:
        return f"the version averages over {spec.average.name} already"
    average, others = identities.average_of(words, axes[0]), axes[1:]
    change: dict[str, Any] = {"average": average}
    if not others:
        return f"average {average.name}", spec.model_copy(update=change)
    mask = identities.mask_of(words, others)
    change["masks"] = (*spec.masks, mask)
    return f"average {average.name} and mask {mask.name}", spec.model_copy(update=change)


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
    replies = answers_of(place, version, [row["input_text"] for row in rows], say)
    wanted = [label_of(row["label"]) for row in rows]
    hits = [
        answer is not None and all(answer.get(k) == v for k, v in label.items())
        for answer, label in zip(replies, wanted, strict=True)
    ]
    field = field_of(place) or "text"
    return tuple(hits), dict(Counter((answer or {}).get(field, "") for answer in replies))


def _log(place: Place, weighed: Weighed, points: Sequence[tuple[str, Audit, tuple[bool, ...]]]) -> None:
    """One run for the audit before, one nested in it for each mitigation, accepted or not, and their frontier."""
    settings, model = place.settings, place.version.spec.model
    parent = runs.log_audit(settings, model, weighed.before, name="mitigation: before")
    for one in weighed.tried:
        run = runs.log_audit(settings, model, one.after, parent=parent, name=f"after {one.name}")
        runs.log_note(settings, run, {"rai.accepted": str(one.acceptance.accepted).lower()}, one.acceptance.reasons)
        runs.log_change(settings, run, weighed.before, one.after)
    accepted = {one.name for one in weighed.tried if one.acceptance.accepted}
    drawn: list[Point] = []
    for name, audit, hits in points:
        flips = max((f for f in audit.findings if f.metric == "flip_rate"), key=lambda f: f.upper or 0.0)
        n = flips.n or 0
        accuracy, share = proportion(sum(hits), len(hits)), exact_share(round((flips.value or 0.0) * n), n)
        if accuracy is not None and share is not None:
            drawn.append(Point(name, accuracy, share, name in accepted))
    if drawn:  # without a labelled row nobody knows the accuracy
        runs.log_pictures(settings, parent, {"frontier": plots.frontier(drawn, f"mitigations of {place.subject}")})
