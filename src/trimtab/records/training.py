"""Stage 4, retrain: why, on what, and how it went."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from trimtab.records.record import Record
from trimtab.records.registry import LabelSet, VersionSpec

TWIN = "~twin"
"""Ends the request id of a counterfactual twin; before it stands that of the message."""
DataMitigation = Literal["counterfactual_augmentation", "reweighing"]
Mitigation = Literal["none", DataMitigation]


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


class HostedFile(Record):
    """A file that was uploaded to a provider for a fine-tune; found again by its name, which carries the key's hash."""

    id: str
    name: str
    sha256: str
    bytes: int


class HostedJob(Record):
    """A fine-tuning job that was started at a provider. A fact, so that it is started once."""

    id: str
    provider: str
    model: str = Field(description="the model that is fine-tuned")
    training_file: str


class HostedDeployment(Record):
    """A deployment that an attempt of a cycle asked for. A fact, written first, so that what is billed is known."""

    key: str
    name: str
    resource: str = Field(description="ARM resource id of the account it belongs to")
    served: str = Field(description="PROVIDER:NAME, as a version's base")


class HostedRemoval(Record):
    """A deployment that was deleted, and why nobody needs it any more."""

    name: str
    at: datetime
    reason: str


class HostedTuning(Record):
    """What a provider made of our data, and where it answers."""

    job: str
    base: str = Field(description="the model that was fine-tuned")
    model: str = Field(description="the fine-tuned model")
    served: str = Field(description="PROVIDER:NAME, as a version's base; on Azure the name of the deployment")
    files: dict[str, str] = Field(description="ids at the provider, by part: training, result")
    sha256: str = Field(description="of the training file")
    trained_tokens: int | None = None


class TrainingRun(Record):
    """One fine-tune. Losses are mean answer-token negative log-likelihoods in nats; None: the provider told none."""

    key: str
    dataset_hash: str
    method: Literal["lora", "hosted"] = "lora"
    base_sha256: str
    params: dict[str, float | int | str]
    steps: int
    loss_first: float | None
    loss_last: float | None
    seconds: float
    adapter_sha256: str | None = Field(default=None, description="the LoRA adapter in the blob store")
    start_adapter_sha256: str | None = Field(default=None, description="the adapter it went on from; None: a fresh one")
    hosted: HostedTuning | None = None

    def made(self, spec: VersionSpec) -> bool:
        """Whether a version answers with what this run made."""
        if self.hosted is not None:
            return spec.base.name == self.hosted.served
        return spec.adapter_sha256 == self.adapter_sha256

    def losses(self, digits: int, arrow: str) -> str:
        """`loss 2.31 to 0.14`, or that none is known."""
        if self.loss_first is None or self.loss_last is None:
            return "loss not told by the provider"
        return f"loss {self.loss_first:.{digits}f}{arrow}{self.loss_last:.{digits}f}"
