"""Thresholds by a declared group: fitted on half of the labelled rows where a gap is established, proved on the other.

Tried only where a person names it: to decide by a protected attribute may itself be unlawful. Which half a row is in
is told by the hash of its text, so that no text is in both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import Fixable
from trimtab.evaluation.compare import proportion
from trimtab.evaluation.scorers import label_of
from trimtab.promotion import audits, gather, mitigating
from trimtab.promotion.audits import GROUPS, LOOKED_AT, Place, field_of, fingerprint, judged, recorded
from trimtab.promotion.gather import Say
from trimtab.promotion.mitigating import Weighed
from trimtab.records.record import content_hash, utc_now
from trimtab.records.registry import Thresholds, VersionSpec
from trimtab.records.responsible import Audit, Finding, Look
from trimtab.responsible import labelled, mitigation, operating_points
from trimtab.responsible.labelled import UNDECLARED
from trimtab.responsible.log_odds import Deciding
from trimtab.responsible.mitigation import Disparity, Trial
from trimtab.responsible.plots import Point
from trimtab.store.subjects import Subjects

METHOD = "thresholds"
EQUALISED = {
    "equalized_odds": ("fpr", "fnr"),
    "demographic_parity": ("selection_rate",),
    "false_positive_rate_parity": ("fpr",),
    "true_positive_rate_parity": ("fnr",),
}
"""The metrics that each constraint makes equal."""


@dataclass(frozen=True)
class _Row:
    """A labelled row of the version: the group as the side file has it, and what the version answers when asked now."""

    id: str
    text: str
    script: str
    group: str
    label: Mapping[str, str]
    answer: Mapping[str, str] | None
    score: float | None

    def right(self, answer: Mapping[str, str] | None) -> bool:
        return answer is not None and all(answer.get(name) == value for name, value in self.label.items())


def weigh(place: Place, file: Path, say: Say) -> Weighed:
    """Fit thresholds for the groups of a side file, and judge them on rows that neither they nor the audit that
    established the gap has seen. Everything is logged, accepted or not.

    Raises Fixable where the version has no score that could decide, no failure is established, or a group is too small.
    """
    deciding = _fit_to_decide(place)
    known, ids, table = audits.joined(place, file)  # once: the file may be a pipe
    attribute = _attribute(place, file, table)
    rows = _rows(
        place, known, ids, {key: row.get(attribute) or UNDECLARED for key, row in table.items()}, deciding, say
    )
    find, prove = _half(rows, prove=False), _half(rows, prove=True)
    if not find or not prove:
        raise Fixable(f"{len(rows)} labelled rows are too few to fit and to prove", "post more labels to /feedback")
    found = recorded(place, _audit(place, attribute, find, _own(find)))
    worst = _worst(place, found, attribute)
    spec = _fitted(place, attribute, find, deciding)
    assert spec.thresholds is not None  # noqa: S101 (they were just fitted)
    told = spec.thresholds.model_dump(mode="json")
    own, decided = _own(prove), [_decided(told, row) for row in prove]
    name = f"thresholds by {attribute}, {spec.thresholds.constraint}"
    before = _look(place, place.version.spec, attribute, prove, own)
    after = _look(place, spec, attribute, prove, decided, f"{place.subject} with {name}")
    trial = Trial(
        name=name,
        established=found.verdict,
        seen=frozenset(row.id for row in find),
        proved_on=frozenset(row.id for row in prove),
        before=tuple(row.right(answer) for row, answer in zip(prove, own, strict=True)),
        after=tuple(row.right(answer) for row, answer in zip(prove, decided, strict=True)),
        groups=tuple((f"{attribute} {_merged(place, attribute, row.group)}", f"script {row.script}") for row in prove),
        decisions=Counter((answer or {}).get(deciding.field, "") for answer in decided),
        disparity=_disparity(place, worst, prove, own, decided),
        new_gaps=tuple(sorted(_failing(after) - _failing(before))),
    )
    tried = mitigating.concluded(place, before, [(METHOD, spec, after)], [trial])
    weighed = Weighed(before, tried, {})
    points = [_point("as it is", before, worst, trial.before), _point(name, after, worst, trial.after)]
    what = f"size of the gap {worst.name}"
    mitigating.log(place, weighed, [point for point in points if point is not None], what)
    return weighed


def _fit_to_decide(place: Place) -> Deciding:
    """What the version's score is of. Raises Fixable where thresholds cannot decide."""
    spec, field = place.version.spec, field_of(place)
    if spec.labels is None or field is None:
        raise Fixable("thresholds decide between two labels, and this version answers in free text", "use a mask")
    if spec.decoding.temperature != 0:
        raise Fixable("thresholds need answers without chance", "write decoding: {temperature: 0}, and register it")
    if spec.thresholds is not None:
        raise Fixable("the version has thresholds already", "name the version that they were fitted to (--version)")
    if spec.average is not None or spec.rotate:
        raise Fixable(
            "thresholds need one score, and this version answers by a vote",
            "name a version without average and rotate (--version)",
        )
    values = spec.labels.fields[field]
    favourable = [value for value in values if value in place.loaded.project.fairness.favourable]
    if len(values) != 2 or len(favourable) != 1:
        told = f"{field} has {', '.join(values)}, favourable: {', '.join(favourable) or 'none'}"
        raise Fixable(
            f"thresholds decide between two values, one of them favourable; {told}",
            "name a field of two values under fairness.field, and one of them under fairness.favourable",
        )
    other = next(value for value in values if value != favourable[0])
    return Deciding(field, (favourable[0], other), (favourable[0],))


def _attribute(place: Place, file: Path, table: Mapping[str, Mapping[str, str]]) -> str:
    names = sorted({name for row in table.values() for name in row})
    asked = place.loaded.project.fairness.thresholds.attribute
    if asked is not None and asked not in names:
        raise Fixable(f"{file} has no column {asked!r}", f"correct fairness.thresholds.attribute: {', '.join(names)}")
    if asked is None and len(names) != 1:
        raise Fixable(f"{file} has several attributes: {', '.join(names)}", "name one: fairness.thresholds.attribute")
    return asked or names[0]


def _rows(
    place: Place,
    rows: Sequence[Mapping[str, Any]],
    ids: Sequence[str],
    groups: Mapping[str, str],
    deciding: Deciding,
    say: Say,
) -> list[_Row]:
    """The newest rows, with what the version answers when it is asked now."""
    labels = [label_of(row["label"]) for row in rows]
    kept = [i for i, label in enumerate(labels) if label[deciding.field] in deciding.values][-LOOKED_AT:]
    texts = list(dict.fromkeys(rows[i]["input_text"] for i in kept))
    args = (place.settings, place.loaded, place.control, place.version, texts, say)
    replies = gather.answers(*args, deciding=deciding)
    if replies.unscored:
        raise Fixable(
            f"thresholds need a score: {replies.unscored}", "use an engine of ours, or a provider that tells `logprobs`"
        )
    told = dict(zip(texts, zip(replies.answers, replies.scores, strict=True), strict=True))
    return [
        _Row(
            id=ids[i],
            text=rows[i]["input_text"],
            script=rows[i]["segment"],
            group=groups.get(ids[i], UNDECLARED),
            label=labels[i],
            answer=told[rows[i]["input_text"]][0],
            score=told[rows[i]["input_text"]][1],
        )
        for i in kept
    ]


def _half(rows: Sequence[_Row], *, prove: bool) -> list[_Row]:
    return [row for row in rows if (int(content_hash(row.text)[:8], 16) % 2 == 1) == prove]


def _own(rows: Sequence[_Row]) -> list[Mapping[str, str] | None]:
    return [row.answer for row in rows]


def _decided(thresholds: Mapping[str, Any], row: _Row) -> Mapping[str, str] | None:
    """The answer as the gateway would decide it for the row's group."""
    value = operating_points.decided(thresholds, row.group, row.score, row.text)
    return row.answer if row.answer is None or value is None else {**row.answer, thresholds["field"]: value}


def _merged(place: Place, attribute: str, group: str) -> str:
    return place.loaded.project.fairness.merged.get(f"{attribute}={group}", group)


def _audit(
    place: Place,
    attribute: str,
    rows: Sequence[_Row],
    answers: Sequence[Mapping[str, str] | None],
    subject: str = "",
) -> Audit:
    field = field_of(place) or ""
    given = labelled.Labelled(
        truth=tuple(row.label[field] for row in rows),
        answers=tuple((answer or {}).get(field) for answer in answers),
        groups={attribute: tuple(row.group for row in rows)},
        positive=place.loaded.project.fairness.favourable,
    )
    gaps = labelled.gaps(given, audits.policy_of(place.loaded))
    return judged(place, GROUPS, gaps, len(rows), _evaluated(attribute, rows), subject=subject)


def _evaluated(attribute: str, rows: Sequence[_Row]) -> list[object]:
    return [attribute, [row.id for row in rows]]


def _look(
    place: Place,
    spec: VersionSpec,
    attribute: str,
    rows: Sequence[_Row],
    answers: Sequence[Mapping[str, str] | None],
    subject: str = "",
) -> Audit:
    """What the rows that prove show; each look at them is on record."""
    at, digest = utc_now(), fingerprint(place, _evaluated(attribute, rows))
    audit = _audit(place, attribute, rows, answers, subject)
    look = Look(subject=place.subject, evaluation_sha256=digest, spec_sha256=spec.hash, at=at)
    place.control.put("look", f"{place.subject}/{spec.hash[:16]}/{at.isoformat()}", look)
    return audit


def _worst(place: Place, found: Audit, attribute: str) -> Finding:
    """The gap to be mended. Raises Fixable where none is established."""
    metrics = EQUALISED[place.loaded.project.fairness.thresholds.constraint]
    failed = [f for f in found.findings if f.verdict == "fail" and f.gating and f.metric in metrics]
    if not failed:
        raise Fixable(
            f"no gap of {' or '.join(metrics)} by {attribute} is established on the {found.n} rows that find: there is "
            "nothing to mitigate",
            f"see that fairness.gating names {' and '.join(metrics)}; collect more labelled rows, or leave it as it is",
        )
    return max(failed, key=lambda f: f.upper or 0.0)


def _failing(audit: Audit) -> set[str]:
    return {f.name for f in audit.findings if f.gating and f.verdict == "fail"}


def _fitted(place: Place, attribute: str, rows: Sequence[_Row], deciding: Deciding) -> VersionSpec:
    """The version with thresholds. Raises Fixable with how many more rows of which group it takes."""
    constraint = place.loaded.project.fairness.thresholds.constraint
    kept = [(row, row.score) for row in rows if row.score is not None and row.group != UNDECLARED]
    points = mitigation.thresholds(
        [score for _, score in kept],
        [row.label[deciding.field] in deciding.favourable for row, _ in kept],
        [_merged(place, attribute, row.group) for row, _ in kept],
        constraint,
        of=2,
    )
    said = sorted({row.group for row, _ in kept})
    favourable, other = deciding.values
    made = Thresholds(
        attribute=attribute,
        constraint=constraint,
        field=deciding.field,
        favourable=favourable,
        other=other,
        groups={group: points[_merged(place, attribute, group)] for group in said},
        scores_of=place.version.spec.scoring_hash,
        key=Subjects(place.settings).fingerprint(content_hash(["thresholds", place.subject, attribute]))[:32],
    )
    return place.version.spec.model_copy(update={"thresholds": made})


def _disparity(
    place: Place,
    worst: Finding,
    rows: Sequence[_Row],
    before: Sequence[Mapping[str, str] | None],
    after: Sequence[Mapping[str, str] | None],
) -> Disparity:
    """The gap that was established, on the rows that prove."""
    field, favourable = field_of(place) or "", place.loaded.project.fairness.favourable
    positive = {"fpr": False, "fnr": True}.get(worst.metric)
    hit = worst.metric != "fnr"
    kept = [i for i, row in enumerate(rows) if positive is None or (row.label[field] in favourable) == positive]

    def events(answers: Sequence[Mapping[str, str] | None]) -> tuple[bool, ...]:
        return tuple(((answers[i] or {}).get(field) in favourable) == hit for i in kept)

    inside = tuple(_merged(place, worst.attribute, rows[i].group) == worst.group for i in kept)
    return Disparity(worst.name, inside, events(before), events(after), tuple(rows[i].text for i in kept))


def _point(name: str, audit: Audit, worst: Finding, hits: Sequence[bool]) -> Point | None:
    gap = next((f.gap for f in audit.findings if f.name == worst.name), None)
    accuracy = proportion(sum(hits), len(hits))
    if gap is None or accuracy is None:
        return None
    low, high = sorted((abs(gap.low), abs(gap.high)))
    low = 0.0 if gap.low < 0 < gap.high else low
    return Point(name, accuracy, gap.model_copy(update={"estimate": abs(gap.estimate), "low": low, "high": high}))
