"""Audits of a version: put twins to it, join groups to its labelled rows, look at its traffic; judge, record, log.

Judging is `responsible`'s; this asks engines, reads the lake and writes facts.
"""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from trimtab import averaging, masking
from trimtab.errors import Fixable
from trimtab.evaluation.scorers import label_of
from trimtab.project import Loaded
from trimtab.promotion import gather
from trimtab.promotion.gather import Say
from trimtab.records.record import content_hash, utc_now
from trimtab.records.registry import ModelVersion, VersionSpec
from trimtab.records.responsible import Audit, Kind, Look, Policy, Tolerance
from trimtab.registry import audits as runs
from trimtab.responsible import audit as audits
from trimtab.responsible import identities, labelled, pii, quality_of_service, twins
from trimtab.responsible.gate import Gap
from trimtab.responsible.identities import Frame, Orbit
from trimtab.responsible.log_odds import Deciding
from trimtab.responsible.quality_of_service import Served, language, script
from trimtab.responsible.twins import Outcome
from trimtab.settings import Settings
from trimtab.store import verify_audit
from trimtab.store.control import Control
from trimtab.store.lake import Lake
from trimtab.store.subjects import Subjects

LOOKED_AT = 5000
"""Newest requests of the lake that an audit looks at."""


@dataclass(frozen=True)
class Place:
    """What every audit needs."""

    settings: Settings
    loaded: Loaded
    control: Control
    version: ModelVersion

    @property
    def subject(self) -> str:
        return f"models:/{self.version.spec.model}/{self.version.version}"


@dataclass(frozen=True)
class Method:
    """How one kind of audit is done: its unit of analysis, its test, what it cannot show."""

    kind: Kind
    unit: str
    test: str
    limits: str


TWINS = Method("twins", "prompt frame", twins.TEST, twins.LIMITS)
GROUPS = Method("groups", "labelled request", labelled.TEST, labelled.LIMITS)


def policy_of(loaded: Loaded) -> Policy:
    """The policy that trimtab.yaml fixes."""
    section = loaded.project.fairness
    gating = {
        metric: Tolerance(gap=section.tolerances.get(metric, section.tolerance), deadband=section.deadband)
        for metric in section.gating
    }
    return Policy(
        gating=gating,
        alpha=section.alpha,
        minimum=section.minimum,
        merged=section.merged,
        waived=section.waived,
    )


def measure_twins(place: Place, say: Say) -> Audit:
    """Counterfactual twins on the half of the frames that is for finding. Raises Fixable without a frame."""
    frames = half_of(frames_of(place), prove=False)
    return recorded(place, twins_of(place, place.version, frames, say))


def measure_groups(place: Place, file: Path) -> Audit:
    """The version's labelled rows by the groups of a side file: CSV with a column `id` and one column an attribute."""
    rows, ids, table = joined(place, file)
    field = field_of(place)
    assert field is not None  # noqa: S101 (a labelled row has one)
    labels = place.version.spec.labels
    said = [labels.parse(row["output_text"] or "") if labels else None for row in rows]
    given = labelled.Labelled(
        truth=tuple(label_of(row["label"])[field] for row in rows),
        answers=tuple(None if answer is None else answer[field] for answer in said),
        groups=labelled.attributes_of(ids, table),
        positive=place.loaded.project.fairness.favourable,
    )
    policy = policy_of(place.loaded)
    names = list(given.groups)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    gaps = labelled.gaps(given, policy, pairs)
    return recorded(place, judged(place, GROUPS, gaps, len(rows), [ids, given.truth]))


def joined(place: Place, file: Path) -> tuple[list[dict[str, Any]], list[str], dict[str, dict[str, str]]]:
    """The version's labelled rows, the id by which a side file knows each, and the file by id. Raises Fixable."""
    table, number = _attributes(file), str(place.version.version)
    rows = [row for row in labelled_rows(place) if row["model_version"] == number]
    if not rows:
        raise Fixable(f"no labelled request was answered by {place.subject}", "post labels to /feedback first")
    ids = [row["client_request_id"] or row["databricks_request_id"] for row in rows]
    return rows, [i if i in table else row["databricks_request_id"] for i, row in zip(ids, rows, strict=True)], table


def measure_service(place: Place) -> Audit:
    """Quality of service of the version on its newest requests, by language and declared segments."""
    served = _served(place)
    if not served:
        raise Fixable(f"{place.subject} has answered nothing yet", "send requests first (`trimtab up`)")
    gaps = quality_of_service.gaps(served, policy_of(place.loaded))
    how = Method("quality_of_service", "request", quality_of_service.TEST, quality_of_service.LIMITS)
    return recorded(place, judged(place, how, gaps, len(served), [place.subject, len(served), served[-1].caller]))


def twins_of(place: Place, version: ModelVersion, frames: Sequence[Frame], say: Say, subject: str = "") -> Audit:
    """What twins of some frames show of a version, judged, not recorded. Raises Fixable without a valid frame."""
    section, policy = place.loaded.project.fairness, policy_of(place.loaded)
    words = identities.pack(section.language)
    orbits = identities.orbits(frames, words, section.axes)
    if not orbits:
        raise Fixable("no frame is valid for an axis", "add frames, or name other axes under fairness.axes")
    said, unmeasured = _outcomes(place, version, orbits, say)
    free = version.spec.labels is None
    gaps = twins.gaps(orbits, said, policy, favourable=section.favourable, free_text=free, words=words)
    return judged(
        place,
        TWINS,
        gaps,
        len(frames),
        evaluated(frames),
        subject=subject,
        examples=twins.worst_pairs(orbits, said, free),
        unmeasured=unmeasured,
    )


def flips_of(place: Place, version: ModelVersion, frames: Sequence[Frame], axis: str, say: Say) -> tuple[bool, ...]:
    """Whether the version's decision on each frame of an axis changes with the group; asked as in `twins_of`, so that
    after it nothing is asked again."""
    section = place.loaded.project.fairness
    orbits = identities.orbits(frames, identities.pack(section.language), section.axes)
    said, _ = _outcomes(place, version, orbits, say)
    return twins.flips(orbits, said, axis, version.spec.labels is None)


def _outcomes(
    place: Place, version: ModelVersion, orbits: Sequence[Orbit], say: Say
) -> tuple[list[list[Outcome]], dict[str, str]]:
    """What the version answers to every text, with the score behind it; and what could not be measured, and why. What
    it reads as the same words is one question: asked apart, an engine's batches may tell two answers apart that no
    group does."""
    texts = list(dict.fromkeys(text for orbit in orbits for text in orbit.texts))
    as_read = dict(zip(texts, _as_read(version.spec, texts), strict=True))
    asked: dict[tuple[str, ...], str] = {}
    for text, read in as_read.items():
        asked.setdefault(read, text)
    field, unmeasured = field_of(place), dict[str, str]()
    deciding = _deciding(place, version) if field else None
    if deciding is not None and not deciding.has_two_sides:
        unmeasured["score"] = "fairness.favourable must name some values of the field, and not all of them"
        deciding = None
    args = (place.settings, place.loaded, place.control, version, list(asked.values()), say)
    replies = gather.answers(*args, deciding=deciding)
    if replies.unscored:
        unmeasured["score"] = replies.unscored
    scores = replies.scores or (None,) * len(asked)
    told = dict(zip(asked, zip(replies.answers, scores, strict=True), strict=True))

    def outcome(text: str) -> Outcome:
        answer, score = told[as_read[text]]
        if field is None:
            return Outcome((answer or {}).get("text", ""))
        return Outcome(json.dumps(answer), None if answer is None else answer.get(field), score)

    return [[outcome(text) for text in orbit.texts] for orbit in orbits], unmeasured


def _as_read(spec: VersionSpec, texts: Sequence[str]) -> list[tuple[str, ...]]:
    """What a version's model is asked for each text: one text through its masks, or all twins that it averages over."""
    masks = [mask.model_dump() for mask in spec.masks]
    twin = averaging.twins(spec.average.model_dump()) if spec.average else lambda said: [list(said)]
    read = masking.through(masks, [{"role": "user", "content": text} for text in texts])
    return [tuple(str(one[0]["content"]) for one in twin([message])) for message in read]


def _deciding(place: Place, version: ModelVersion) -> Deciding | None:
    field, labels = field_of(place), version.spec.labels
    if field is None or labels is None:
        return None
    return Deciding(field, labels.fields[field], place.loaded.project.fairness.favourable)


def frames_of(place: Place) -> list[Frame]:
    """The file's frames, or the lake's texts that name a group, newest first."""
    section = place.loaded.project.fairness
    if section.frames is not None:
        return _read_frames(place.settings.root / section.frames)
    lake = Lake(place.settings)
    count = lake.count()
    rows = lake.sample(max(0, count - LOOKED_AT), count, ["input_text", "databricks_request_id"]).drop_nulls()
    asked = dict(sorted(rows.iter_rows()))
    words = identities.pack(section.language)
    framed = [
        (identities.frame_of(text, words, axis), request)
        for text, request in asked.items()
        if not pii.find(text)
        for axis in section.axes
    ]
    found = [replace(frame, request=request) for frame, request in framed if frame is not None]
    if not found:
        raise Fixable(
            "no request names a group of people, so there is nothing to swap",
            'name prompts under fairness.frames, each line {"text": "{A person} asks …", "valid_axes": ["age"]}',
        )
    return found


def _read_frames(path: Path) -> list[Frame]:
    try:
        lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise Fixable(f"fairness.frames: cannot read {path}: {error.strerror}", "correct the path") from None
    found: list[Frame] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            found.append(Frame(str(row["text"]), tuple(map(str, row["valid_axes"])), row.get("label") or {}))
        except (ValueError, KeyError, TypeError):
            raise Fixable(
                f"{path.name}, line {number} is no frame", 'write {"text": "{A person} asks …", "valid_axes": ["age"]}'
            ) from None
    return found


def evaluated(frames: Sequence[Frame]) -> list[object]:
    """What identifies a set of frames."""
    return [[frame.text, list(frame.valid_axes)] for frame in frames]


def half_of(frames: Sequence[Frame], *, prove: bool) -> list[Frame]:
    """Half of the frames, by the hash of the text: one half finds, the other proves."""
    return [frame for frame in frames if (int(content_hash(frame.text)[:8], 16) % 2 == 1) == prove]


def _attributes(path: Path) -> dict[str, dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            names, rows = table.fieldnames, list(table)
    except (OSError, UnicodeDecodeError) as error:
        raise Fixable(f"cannot read {path}: {error}", "name a CSV file with a column `id`") from None
    if not names:
        raise Fixable(f"{path} is empty", "see what the command before it in the pipe said, or name another file")
    if "id" not in names:
        raise Fixable(f"{path} has no column `id`", "give each row the request's id, or the client's own")
    if not rows:
        raise Fixable(f"{path} has a header and no row", "keep attributes of callers with `trimtab attributes add`")
    return {row["id"]: {k: v for k, v in row.items() if k != "id" and v} for row in rows}


def field_of(place: Place) -> str | None:
    """The answer field that must not depend on the group; None where answers are free text."""
    labels = place.version.spec.labels
    if labels is None:
        return None
    name = place.loaded.project.fairness.field or next(iter(labels.fields))
    if name not in labels.fields:
        raise Fixable(f"fairness.field: the labels have no field {name!r}", f"use one of {', '.join(labels.fields)}")
    return name


def labelled_rows(place: Place) -> list[dict[str, Any]]:
    """Rows with a label for the field, oldest first, each with its script as `segment`."""
    field = field_of(place)
    found = Lake(place.settings).labelled().filter(pl.col("label").is_not_null()).to_dicts()
    kept = [row for row in found if field is not None and field in label_of(row["label"]) and row["input_text"]]
    return [row | {"segment": script(row["input_text"])} for row in kept]


def _served(place: Place) -> list[Served]:
    lake, segments = Lake(place.settings), place.loaded.project.fairness.segments
    count = lake.count()
    columns = ["row", "requester", "request_tags", "request", "response", "status_code", "outcome", "route"]
    columns += ["input_text", "output_text", "execution_duration_ms", "model_version", "databricks_request_id"]
    rows = lake.sample(max(0, count - LOOKED_AT), count, columns).filter(pl.col("route") != "shadow")
    thumbs = lake.thumbs()
    rows = rows.filter(pl.col("model_version") == str(place.version.version))
    labels = place.version.spec.labels
    return [_one(row, segments, thumbs, labels) for row in rows.to_dicts()]


def _one(row: Mapping[str, Any], segments: Sequence[str], thumbs: Mapping[str, bool], labels: Any) -> Served:
    tags, ok = dict(row["request_tags"] or ()), row["outcome"] == "ok"
    text, response = row["output_text"] or "", row["response"] or ""
    blocked = '"content_filter"' in response or row["outcome"] == "blocked"
    told = _declared(row["request"], segments) if segments else {}
    down = thumbs.get(row["databricks_request_id"])
    return Served(
        caller=tags.get("caller") or row["requester"] or row["databricks_request_id"],
        groups={"language": language(row["input_text"] or ""), **told},
        refusal=twins.refused(text) if ok else None,
        guard_block=blocked,
        error=not ok and not blocked and row["outcome"] != "cancelled",
        invalid_format=labels.parse(text) is None if ok and labels is not None else None,
        seconds=row["execution_duration_ms"] / 1000 if ok else None,
        thumbs_down=None if down is None else not down,
    )


def _declared(request: str, segments: Sequence[str]) -> dict[str, str]:
    """The groups that a request declares of itself, in `metadata` or `usage_context`."""
    try:
        body = json.loads(request)
    except ValueError:
        return {}
    said = {**(body.get("metadata") or {}), **(body.get("usage_context") or {})} if isinstance(body, dict) else {}
    return {name: str(said[name]) for name in segments if said.get(name)}


def judged(
    place: Place,
    how: Method,
    gaps: Sequence[Gap],
    n: int,
    evaluation: object,
    *,
    subject: str = "",
    examples: Sequence[str] = (),
    numbers: Mapping[str, float] | None = None,
    unmeasured: Mapping[str, str] | None = None,
) -> Audit:
    """Gaps judged by the file's policy, with how often this evaluation set (anything JSON holds) was audited before."""
    newest = place.control.newest_checkpoint()
    digest = fingerprint(place, evaluation)
    return audits.conclude(
        how.kind,
        subject or place.subject,
        gaps,
        policy_of(place.loaded),
        unit=how.unit,
        n=n,
        test=how.test,
        evaluation_sha256=digest,
        now=utc_now(),
        audits_before=len(looks_at(place, digest)),
        limits=how.limits,
        numbers=numbers,
        unmeasured=unmeasured,
        examples=examples,
        log_root="" if newest is None else base64.b64encode(verify_audit.read_checkpoint(newest[1])[2]).decode(),
    )


def fingerprint(place: Place, evaluation: object) -> str:
    """A keyed hash of an evaluation set: it enters the log, and its texts may be customers'."""
    return Subjects(place.settings).fingerprint(content_hash(evaluation))


def looks_at(place: Place, digest: str) -> list[Audit | Look]:
    """Every audit of an evaluation set, and every look that mitigations took at it."""
    seen: list[Audit | Look] = [*place.control.facts("audit", Audit), *place.control.facts("look", Look)]
    return [one for one in seen if one.evaluation_sha256 == digest]


def recorded(place: Place, audit: Audit, *, tag: bool = True) -> Audit:
    """The audit, as a fact in the log and as a run in MLflow; `tag`: its verdict stands at the version, too."""
    place.control.put("audit", f"{place.subject}/{audit.kind}/{audit.at.isoformat()}", audit)
    runs.log_audit(place.settings, place.version.spec.model, audit, place.version.version if tag else None)
    return audit
