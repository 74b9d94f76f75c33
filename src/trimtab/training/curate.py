"""Requests and their labels as a dataset: hold-out frozen first, then what may be trained on, then proof of no leak.

Same rows, same hash. Reads no store: rows come in, files go out under settings.datasets/<hash>/.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from trimtab.errors import Fixable, StepFailed
from trimtab.records.project import RetrainSection
from trimtab.records.record import content_hash
from trimtab.records.registry import LabelSet
from trimtab.records.training import Case, DatasetVersion, Mitigation
from trimtab.responsible import pii
from trimtab.responsible.swaps import Groups, augment, resample
from trimtab.settings import Settings

NEAR = 0.9
"""Cosine of character trigram counts from which two texts count as the same."""
MIN_TRAIN, MIN_HOLDOUT = 16, 8
MAX_FRAMES = 1000
"""Unlabelled texts kept for counterfactual pairs, newest first: ten times what a fairness gate asks by default."""
RECIPE = {"holdout", "new_label_min"}
"""Settings under `retrain` that decide what a dataset holds."""

_SENDER = re.compile(r"\n[ \t]*from:[^\n]*\s*$", re.IGNORECASE)
_BLOCK = 512


@dataclass(frozen=True)
class Labelled:
    """A request that a person labelled, and what its text is compared by."""

    case: Case
    body: str


def curate(
    settings: Settings,
    lake_rows: pl.DataFrame,
    *,
    model: str,
    labels: LabelSet,
    section: RetrainSection,
    mitigation: Mitigation,
    swaps: Groups | None,
    field: str | None = None,
    cut: datetime,
) -> DatasetVersion:
    """Curate the rows of `Lake.labelled` up to `cut` into train, hold-out and frames; the files are there afterwards.

    `labels` is the champion's label set; values outside it that at least `section.new_label_min` rows carry join it.
    `swaps` are the groups of names of the feature to mitigate, `field` the label's field that reweighing makes
    independent of them. Raises StepFailed when too few rows are left or a leak is found, Fixable when the file lacks
    what this needs.
    """
    if not labels.fields:
        raise Fixable(f"{model} has no label set to train on", "name a labels file under task.labels")
    if mitigation != "none" and swaps is None:
        raise Fixable(f"{mitigation.replace('_', ' ')} needs groups of names", "name a file under gates.fairness.swaps")
    groups = swaps if mitigation == "counterfactual_augmentation" else None
    excluded: Counter[str] = Counter()
    seen = [row for row in lake_rows.sort("row").iter_rows(named=True) if row["request_time"] <= cut]
    labelled, unlabelled = _read(seen, labels, excluded)
    grown, new = grow(labels, (row.case.label for row in labelled), section.new_label_min)
    clean = _clean(labelled, grown, excluded)
    holdout = _newest([row for row in clean if held_out(row.body, section.holdout)], excluded)
    free = [row for row in clean if not held_out(row.body, section.holdout)]
    train = _trainable(free, holdout, groups, excluded)
    if len(train) < MIN_TRAIN or len(holdout) < MIN_HOLDOUT:
        raise StepFailed(_too_few(len(labelled), len(train), len(holdout), excluded))
    cases = [case for row in train for case in _with_twin(row.case, groups)]
    balance: dict[str, Any] = {}
    if mitigation == "reweighing" and swaps is not None and field is not None:
        cases, balance = resample(cases, swaps, field), {"swaps": swaps, "field": field}
    frames = _frames(holdout, unlabelled, cases)
    nearest_leak = assert_no_leak(cases, [row.case for row in holdout], frames)
    made_by = {"near": NEAR, "mitigation": mitigation, "swaps": groups, **balance}
    recipe = content_hash({**made_by, **section.model_dump(include=RECIPE)})
    parts = {"train": cases, "holdout": [row.case for row in holdout], "frames": frames}
    digest, path = _write(settings.datasets, recipe, grown, parts)
    return DatasetVersion(
        hash=digest,
        recipe=recipe,
        mitigation=mitigation,
        path=str(path),
        n_train=len(cases),
        n_holdout=len(holdout),
        n_frames=len(frames),
        labels=grown,
        new_labels=new,
        excluded={reason: n for reason, n in sorted(excluded.items()) if n},
        nearest_leak=nearest_leak,
        cut=cut,
    )


def body(text: str) -> str:
    """What a text is compared by: its words in lower case, without a last line that only names the sender."""
    message = _SENDER.sub("", text)
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", message).casefold())
    return " ".join(words) or " ".join(message.casefold().split())


def held_out(body: str, share: float) -> bool:
    """Whether a text is hold-out: by its own hash, so that it is in every later cycle too (while `share` stays)."""
    digest = hashlib.sha256(f"holdout\n{body}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def grow(labels: LabelSet, used: Iterable[dict[str, str]], minimum: int) -> tuple[LabelSet, dict[str, tuple[str, ...]]]:
    """The label set with every value that at least `minimum` rows use added at the end, in alphabetical order; and
    the added values by field."""
    counts = Counter((field, value) for label in used for field, value in label.items())
    new: dict[str, tuple[str, ...]] = {}
    for field, known in labels.fields.items():
        often = (value for (name, value), n in counts.items() if name == field and n >= minimum and value not in known)
        if values := tuple(sorted(often)):
            new[field] = values
    return LabelSet(fields={field: (*known, *new.get(field, ())) for field, known in labels.fields.items()}), new


def similarity(texts: list[str], others: list[str]) -> np.ndarray:
    """Each text's largest similarity (0 to 1) to any of the others: cosine of the trigram counts of their bodies."""
    nearest = np.zeros(len(texts))
    if not texts or not others:
        return nearest
    left, right = _vectors(texts), _vectors(others).T.tocsr()
    for start in range(0, len(texts), _BLOCK):
        nearest[start : start + _BLOCK] = (left[start : start + _BLOCK] @ right).max(axis=1).toarray().ravel()
    return np.minimum(nearest, 1.0)


def assert_no_leak(train: list[Case], holdout: list[Case], frames: list[Case]) -> float:
    """The largest similarity between a train and a hold-out text. Raises StepFailed when a train text, or one nearly
    the same, is held out or a frame."""
    texts = [case.input for case in train]
    shut = [case.input for case in (*holdout, *frames)]
    same = {body(text) for text in texts} & {body(text) for text in shut}
    worst = similarity(texts, shut)
    if same or worst.max(initial=0.0) >= NEAR:
        request = train[int(worst.argmax())].request_id
        raise StepFailed(f"leak: the train text of request {request} is a held-out text or nearly one")
    return float(similarity(texts, [case.input for case in holdout]).max(initial=0.0))


def _read(rows: list[dict[str, Any]], labels: LabelSet, excluded: Counter[str]) -> tuple[list[Labelled], list[Case]]:
    """Rows that a person labelled in all fields, and rows without a label, oldest first. Others are counted."""
    labelled: list[Labelled] = []
    unlabelled: list[Case] = []
    for row in rows:
        text = row["input_text"] or ""
        said = None if row["label"] is None else _label(row["label"], labels)
        case = Case(
            request_id=row["databricks_request_id"],
            at=row["request_time"].astimezone(UTC),
            input=text,
            label=said or {},
        )
        if row["label"] is None:
            unlabelled += [case] if body(text) else []
        elif said is None or not body(text):
            excluded["incomplete label" if body(text) else "no text"] += 1
        else:
            labelled.append(Labelled(case, body(text)))
    return labelled, unlabelled


def _label(text: str, labels: LabelSet) -> dict[str, str] | None:
    """The fields of the label set out of a feedback value, or None when one is missing or no text."""
    value = json.loads(text)
    if not isinstance(value, dict):
        return None
    said = {
        field: value[field] for field in labels.fields if isinstance(value.get(field), str) and value[field].strip()
    }
    return said if len(said) == len(labels.fields) else None


def _clean(rows: list[Labelled], labels: LabelSet, excluded: Counter[str]) -> list[Labelled]:
    kept: list[Labelled] = []
    for row in rows:
        if any(value not in labels.fields[field] for field, value in row.case.label.items()):
            excluded["rare label"] += 1
        elif pii.find(row.case.input):
            excluded["personal data"] += 1
        else:
            kept.append(row)
    return kept


def _newest(rows: list[Labelled], excluded: Counter[str]) -> list[Labelled]:
    """One row for each body: the newest, for what a text should be answered may have changed."""
    newest = {row.body: row for row in rows}
    excluded["duplicate"] += len(rows) - len(newest)
    return list(newest.values())


def _trainable(
    rows: list[Labelled], holdout: list[Labelled], groups: Groups | None, excluded: Counter[str]
) -> list[Labelled]:
    """The rows that are not nearly a held-out text, neither themselves nor as a twin, nor nearly a newer row."""
    shut = [row.case.input for row in holdout]
    pairs = [[case.input for case in _with_twin(row.case, groups)] for row in rows]
    worst = np.maximum(similarity([pair[0] for pair in pairs], shut), similarity([pair[-1] for pair in pairs], shut))
    far = [row for row, nearest in zip(rows, worst, strict=True) if nearest < NEAR]
    newest_first = far[::-1]
    distinct = [newest_first[index] for index in _distinct([row.case.input for row in newest_first])][::-1]
    excluded["near hold-out"] += len(rows) - len(far)
    excluded["duplicate"] += len(far) - len(distinct)
    return distinct


def _distinct(texts: list[str]) -> list[int]:
    """Indices of the texts that are not nearly the same as an earlier one that is kept."""
    if not texts:
        return []
    vectors = _vectors(texts)
    kept: set[int] = set()
    for start in range(0, len(texts), _BLOCK):
        near = (vectors[start : start + _BLOCK] @ vectors.T >= NEAR).tocsr()
        for row in range(near.shape[0]):
            if not kept.intersection(near.indices[near.indptr[row] : near.indptr[row + 1]].tolist()):
                kept.add(start + row)
    return sorted(kept)


def _vectors(texts: list[str]) -> Any:
    from sklearn.feature_extraction.text import HashingVectorizer  # a second and a half, which trainers do not need

    # Hashed, not fitted: a similarity does not depend on which other rows there are.
    trigrams = HashingVectorizer(analyzer="char", ngram_range=(3, 3), lowercase=False, alternate_sign=False, norm="l2")
    return trigrams.transform([f" {body(text)} " for text in texts])


def _with_twin(case: Case, groups: Groups | None) -> list[Case]:
    """The case, and with groups of names its twin under a name of another group, same label."""
    return [case] if groups is None else augment([case], groups)


def _frames(holdout: list[Labelled], unlabelled: list[Case], train: list[Case]) -> list[Case]:
    """Texts for counterfactual pairs: the hold-out's, and unlabelled ones that are not nearly a train text."""
    newest = {body(case.input): case for case in unlabelled}
    held = {row.body for row in holdout}
    others = [case for text, case in newest.items() if text not in held and not pii.find(case.input)][-MAX_FRAMES:]
    far = similarity([case.input for case in others], [case.input for case in train]) < NEAR
    kept = [row.case for row in holdout] + [case for case, keep in zip(others, far, strict=True) if keep]
    return [case.model_copy(update={"label": {}}) for case in kept]


def _too_few(labelled: int, train: int, holdout: int, excluded: Counter[str]) -> str:
    left_out = ", ".join(f"{reason} {n}" for reason, n in sorted(excluded.items()) if n) or "none"
    return (
        f"too few rows: {train} to train on (at least {MIN_TRAIN}) and {holdout} held out (at least {MIN_HOLDOUT}), "
        f"from {labelled} labelled; left out: {left_out}. Post more labels, or change retrain.holdout."
    )


def _write(datasets: Path, recipe: str, labels: LabelSet, parts: dict[str, list[Case]]) -> tuple[str, Path]:
    """Write the parts as JSON Lines into a folder named by their hash, all at once; the hash and the folder."""
    # Escaped to ASCII, because readers may also break lines at separators that JSON allows inside a string.
    lines = {name: [case.model_dump_json(ensure_ascii=True) for case in cases] for name, cases in parts.items()}
    texts = {name: "".join(f"{line}\n" for line in written) for name, written in lines.items()}
    digest = content_hash({"recipe": recipe, "labels": labels.model_dump(mode="json"), **texts})
    target = datasets / digest
    if target.exists():
        return digest, target
    datasets.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=datasets) as folder:
        draft = Path(folder) / digest
        draft.mkdir()
        for name, text in texts.items():
            (draft / f"{name}.jsonl").write_text(text)
        draft.replace(target)
    return digest, target
