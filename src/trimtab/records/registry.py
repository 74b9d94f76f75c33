"""Stage 1, register: what decides an answer, and who was live when."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, cast

from pydantic import Field

from trimtab.records.guards import GuardSet
from trimtab.records.record import Record, content_hash


class Weights(Record):
    """Base weights, kept once in the blob store and referred to by hash.

    A hosted model (`format` hosted) has no bytes here: it is PROVIDER:MODEL, with an empty hash. Where the provider is
    and how it is paid decides no answer, so neither is part of a version.
    """

    name: str = Field(description="the base as trimtab.yaml names it, e.g. smollm2-135m-instruct")
    sha256: str
    format: str = "gguf"


class Example(Record):
    """One few-shot exchange: what a user writes, what the model should answer."""

    input: str
    output: str


class Prompt(Record):
    """The system text, and the few-shot examples placed before the user's message."""

    system: str
    examples: tuple[Example, ...] = ()


class Decoding(Record):
    """Decoding parameters, named as in OpenAI's API. `constrained`: the answer is forced into the label set's JSON."""

    temperature: float | None = 0.0
    max_tokens: int = 48
    seed: int = 0
    constrained: bool = True


class LabelSet(Record):
    """The fields of a classification answer and the values each may take, in order."""

    fields: dict[str, tuple[str, ...]]

    def json_schema(self) -> dict[str, Any]:
        """JSON Schema of one answer, e.g. {"intent": "refund", "urgency": "low"}."""
        return {
            "type": "object",
            "properties": {name: {"type": "string", "enum": list(values)} for name, values in self.fields.items()},
            "required": list(self.fields),
            "additionalProperties": False,
        }

    def parse(self, text: str) -> dict[str, str] | None:
        """The answer as a mapping, or None when it is not one JSON object with exactly these fields and values."""
        try:
            value: Any = json.loads(text)
        except ValueError:
            return None
        if not isinstance(value, dict):
            return None
        answer = cast("dict[str, Any]", value)
        if answer.keys() != self.fields.keys():
            return None
        if any(answer[name] not in allowed for name, allowed in self.fields.items()):
            return None
        return {name: str(answer[name]) for name in self.fields}

    def dump(self, values: dict[str, str]) -> str:
        """The one-line JSON text of an answer, fields in order: what training targets look like."""
        return json.dumps({name: values[name] for name in self.fields}, ensure_ascii=False, separators=(",", ":"))


class Mask(Record):
    """Words for groups of people, each with the neutral word that the model reads instead (`masking`)."""

    name: str = Field(description="of the list, e.g. en@1, and the axes: en@1 religion+gender")
    terms: dict[str, str] = Field(description="each term, in lower case, and its neutral word")
    guarded: tuple[str, ...] = Field(default=(), description="terms that count only where they are said of people")
    roles: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    absorbed: dict[str, str] = Field(default={})
    articles: bool = True


class Average(Record):
    """Groups of one axis, about each of which a question is asked; the answers vote (`averaging`)."""

    name: str = Field(description="of the list, and the axis: en@1 religion")
    mask: Mask = Field(description="the words that name a group; the twins are worked out from the masked text")
    groups: dict[str, dict[str, dict[str, str]]] = Field(description="each group's word, by neutral word and form")


class OperatingPoint(Record):
    """Where a group's score decides: favourable with probability `start`, and with so much more above each threshold,
    in nats of log-odds. Two thresholds are mixed where one alone cannot make groups alike (Hardt et al. 2016)."""

    start: float = Field(default=0.0, ge=0, le=1)
    steps: tuple[tuple[float, Annotated[float, Field(ge=0, le=1)]], ...] = ()


class Thresholds(Record):
    """Thresholds by a group that the calling application declares; who declares none gets the model's own answer."""

    attribute: str = Field(description="what the groups are of, e.g. dialect")
    constraint: str = Field(description="what was made equal, as Fairlearn names it")
    field: str = Field(description="the answer field that is decided, of two values")
    favourable: str
    other: str
    groups: dict[str, OperatingPoint] = Field(min_length=2)
    scores_of: str = Field(description="`scoring_hash` of the version whose scores they were fitted to")
    key: str = Field(description="of the draw where thresholds are mixed, so that a question is always decided alike")


class VersionSpec(Record):
    """Everything that decides an answer. Change any of it and it is a new version."""

    model: str = Field(description="registered model name")
    base: Weights
    adapter_sha256: str | None = Field(default=None, description="GGUF LoRA adapter in the blob store")
    prompt: Prompt
    decoding: Decoding
    labels: LabelSet | None = None
    masks: tuple[Mask, ...] = Field(default=(), description="applied in order to every message, and to the prompt")
    average: Average | None = Field(default=None, description="asked about every group of it, after the masks")
    rotate: tuple[str, ...] = Field(default=(), description="fields whose labels are listed in several orders")
    thresholds: Thresholds | None = Field(
        default=None, description="of a declared group, on the score behind an answer"
    )
    guards: GuardSet | None = None

    @property
    def hash(self) -> str:
        """What a version is without changes no hash: it was given before there was any."""
        names = ("masks", "average", "rotate", "thresholds", "guards")
        absent = {name for name in names if not getattr(self, name)}
        return content_hash(self.model_dump(mode="json", exclude=absent or None))

    @property
    def scoring_hash(self) -> str:
        """Of all that decides the score behind an answer: thresholds fitted to one score mean nothing on another."""
        return self.model_copy(update={"thresholds": None, "guards": None}).hash

    @property
    def mitigations(self) -> dict[str, str]:
        """What keeps answers from depending on a group, or on an order, by its name."""
        told = {
            "identity masks": "; ".join(mask.name for mask in self.masks),
            "asked about every group": self.average.name if self.average else "",
            "labels asked in several orders": ", ".join(self.rotate),
            "thresholds by a declared group": _of(self.thresholds),
        }
        return {name: detail for name, detail in told.items() if detail}


def _of(thresholds: Thresholds | None) -> str:
    return f"{thresholds.attribute}, {thresholds.constraint} of {thresholds.field}" if thresholds else ""


class ModelVersion(Record):
    """One MLflow model version with its lineage."""

    spec: VersionSpec
    version: int
    run_id: str
    config_hash: str
    data_hash: str | None = None
    parent: int | None = Field(default=None, description="the champion it was trained to replace")
    created_at: datetime
    note: str = ""


class ProjectFile(Record):
    """What trimtab.yaml said from a moment on, of what no version carries."""

    model: str
    hash: str = Field(description="the config_hash of what it produced")
    at: datetime
    watched: tuple[str, ...] = Field(description="what is monitored, a sentence each")
    guidelines_sha256: str = Field(description="of the guidelines' bytes; empty: the file names none")


class AliasMove(Record):
    """One move of an alias. `before`/`after` None means the alias did not / does not exist."""

    model: str
    alias: str
    before: int | None
    after: int | None
    at: datetime
    actor: str = Field(description="cycle id, cli, dashboard")
    reason: str
    decision: str | None = Field(default=None, description="key of the Decision fact behind it")


class Traffic(Record):
    """The canary's share of traffic from this moment. `version` None: no canary, the champion answers all."""

    model: str
    version: int | None
    percent: float = Field(ge=0, le=100)
    at: datetime
    reason: str
