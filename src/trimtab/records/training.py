"""Stage 4, retrain: why, on what, and how it went."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from trimtab.records.record import Record
from trimtab.records.registry import LabelSet

TWIN = "~twin"
"""Ends the request id of a counterfactual twin; before it stands that of the message."""
Mitigation = Literal["none", "counterfactual_augmentation"]


class Trigger(Record):
    """Whether a cycle starts now, and why or why not."""

    model: str
    at: datetime
    fired: bool
    reason: str
    alert_key: str | None = None


class Case(Record):
    """One labelled text."""

    request_id: str
    at: datetime
    input: str
    label: dict[str, str]


class DatasetVersion(Record):
    """Train and hold-out rows as files beside each other, under a hash of their content and recipe."""

    hash: str
    recipe: str = Field(description="hash of the curation settings")
    mitigation: Mitigation
    path: str = Field(description="folder with train.jsonl, holdout.jsonl, frames.jsonl")
    n_train: int
    n_holdout: int
    n_frames: int = Field(description="unlabelled texts kept for counterfactual twins, disjoint from train")
    labels: LabelSet
    new_labels: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    excluded: dict[str, int] = Field(default_factory=dict, description="rows left out, by reason")
    nearest_leak: float = Field(description="largest similarity between a train and a hold-out row, 0 to 1")
    cut: datetime = Field(description="rows after this time were not seen")


class TrainingRun(Record):
    """One fine-tune. Losses are mean answer-token negative log-likelihoods in nats."""

    key: str
    dataset_hash: str
    method: Literal["lora"] = "lora"
    base_sha256: str
    params: dict[str, float | int | str]
    steps: int
    loss_first: float
    loss_last: float
    seconds: float
    adapter_sha256: str
    start_adapter_sha256: str | None = Field(default=None, description="the adapter it went on from; None: a fresh one")
