"""The data card: what one dataset is made of, from whom, and what was left out. Pure; from records only.

Markdown with the metadata block that Hugging Face reads. The same records give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from typing import Any

from ruamel.yaml import YAML

from trimtab.records.erasure import Tombstone
from trimtab.records.training import DatasetVersion
from trimtab.responsible.card import table

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def render(
    dataset: DatasetVersion,
    *,
    model: str,
    versions: Sequence[int],
    language: str = "en",
    tombstones: Sequence[Tombstone] = (),
) -> str:
    """The card as Markdown. `versions` were trained on it; `tombstones` of erasures that reached it."""
    sections = {
        "What it is": _summary(dataset, model, versions),
        "Composition": _composition(dataset),
        "Where it comes from": _origin(dataset),
        "What was left out": _excluded(dataset),
        "People in it": _people(dataset, tombstones),
        "Limits": "It is what callers of one system asked and what its people answered. It speaks for nobody else.",
        "Check it yourself": (
            f"The hash `{dataset.hash}` is the SHA-256 of the files and the recipe `{dataset.recipe}` as they were "
            "curated; an erasure changes the files, never the hash, and leaves a tombstone in the audit log."
        ),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"---\n{_metadata(dataset, model, language)}---\n\n# {model}, dataset {dataset.hash[:12]}\n\n{body}\n"


def _metadata(dataset: DatasetVersion, model: str, language: str) -> str:
    rows = dataset.n_train + dataset.n_holdout
    block: dict[str, Any] = {
        "license": "other",
        "language": [language],
        "pretty_name": f"{model} {dataset.hash[:12]}",
        "task_categories": ["text-classification"],
        "size_categories": [next((name for limit, name in _SIZES if rows < limit), "1M<n<10M")],
        "source_datasets": ["original"],
        "tags": ["trimtab"],
    }
    out = StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(block, out)  # pyright: ignore[reportUnknownMemberType]
    return out.getvalue()


def _summary(dataset: DatasetVersion, model: str, versions: Sequence[int]) -> str:
    trained = ", ".join(f"version {number}" for number in versions) or "none yet"
    fields = "; ".join(f"`{name}` ({', '.join(values)})" for name, values in dataset.labels.fields.items())
    return f"Requests to {model} and the labels that people gave them: {fields}. Trained on it: {trained}."


def _composition(dataset: DatasetVersion) -> str:
    rows = [
        ("train", str(dataset.n_train)),
        ("hold-out, frozen before training", str(dataset.n_holdout)),
        ("frames: texts for counterfactual pairs, never trained on", str(dataset.n_frames)),
    ]
    new = "; ".join(f"{field}: {', '.join(values)}" for field, values in dataset.new_labels.items()) or "none"
    return f"{table(('part', 'rows'), rows)}\n\nLabels that joined: {new}. Mitigation: {dataset.mitigation}."


def _origin(dataset: DatasetVersion) -> str:
    return f"Live requests asked until {dataset.cut.isoformat()}, and what people had said about them by then."


def _excluded(dataset: DatasetVersion) -> str:
    rows = [(reason, str(count)) for reason, count in sorted(dataset.excluded.items())]
    leak = f"Largest likeness of a training and a hold-out row: {dataset.nearest_leak:.3f}, from 0 to 1."
    return (table(("reason", "rows"), rows) if rows else "Nothing.") + f"\n\n{leak}"


def _people(dataset: DatasetVersion, tombstones: Sequence[Tombstone]) -> str:
    kept = "Texts are as they were written; rows with contact or payment data are left out, names of people stay."
    rows = [(stone.at.isoformat(), str(stone.dataset_rows[dataset.hash])) for stone in tombstones]
    return f"{kept}\n\n{table(('erased at', 'rows'), rows)}" if rows else f"{kept} Nobody was erased from it."
