"""The file: one model of trimtab.yaml. It says what we decide; `settings` says where things are.

A value that is wrong by itself is refused here; what needs a second value or another file is checked in `project`.
"""

from __future__ import annotations

import itertools
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from trimtab.records.databricks import DatabricksTarget
from trimtab.records.endpoint import KNOWN_PROVIDERS, EndpointSection, ProviderSection
from trimtab.records.erasure import SubjectField
from trimtab.records.file_model import FileModel
from trimtab.records.file_model import refused as _refused
from trimtab.records.guards import GuardsSection
from trimtab.records.threshold import Threshold, threshold
from trimtab.records.training import DataMitigation

MONITORS = ("input_drift", "quality")
"""What an alert can be on besides thresholds."""
PYFUNC = "pyfunc:"
"""How a base that is an MLflow model begins."""
MODEL_NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"


def _notify(value: str) -> str:
    if value == "log" or re.fullmatch(r"webhook:https?://\S+", value):
        return value
    raise _refused("is neither log nor a webhook", "write log or webhook:https://…")


def _anchor(value: str) -> str:
    if value == "mlflow" or re.fullmatch(r"file:.+|webhook:https?://\S+", value):
        return value
    raise _refused("is no place for a checkpoint", "write mlflow, file:PATH or webhook:https://…")


def _watched(value: str) -> str:
    if value in MONITORS:
        return value
    try:
        threshold(value)
    except ValueError as error:
        fix = "write input_drift, quality, latency_p99 > 2s, error_rate > 2% or cost > 5 USD/day"
        raise _refused(str(error), fix) from None
    return value


def _when(value: str) -> str:
    if value in ("input_drift", "quality") or value.startswith("cron:"):
        return value
    raise _refused("starts nothing", "write input_drift, quality or 'cron: 0 3 * * SUN'")


def _growing(steps: tuple[str, ...]) -> tuple[str, ...]:
    shares = [float(step.removesuffix("%")) for step in steps]
    fix = "write growing shares that end at 100%, e.g. [10%, 50%, 100%]"
    if any(after <= before for before, after in itertools.pairwise([0.0, *shares])):
        raise _refused("the steps do not grow", fix)
    if not shares or shares[-1] != 100:
        raise _refused("the last step is not 100%", fix)
    return steps


def _price(value: float) -> float:
    if round(value, 3) != value:
        raise _refused("has more than three decimals", "give USD per million tokens to a tenth of a cent")
    return value


Usd = Annotated[float, Field(ge=0, le=1_000_000), AfterValidator(_price)]


class PriceSection(FileModel):
    """What tokens cost, in USD per million. Reasoning tokens are output."""

    input: Usd
    """Prompt tokens."""
    output: Usd
    """Answer tokens."""
    cached_input: Usd | None = None
    """Prompt tokens that the provider had in its cache; null: as input."""
    cache_write: Usd | None = None
    """Prompt tokens that the provider wrote to its cache; null: as input."""


class DecodingSection(FileModel):
    """How the answer is decoded; part of the version."""

    temperature: float | None = Field(default=0.0, ge=0, le=2)
    """0 is greedy: the same question gets the same answer. null: not sent, nor is the seed (for reasoning models)."""
    max_tokens: int = Field(default=48, ge=1, le=4096)
    """Longest answer, in tokens."""
    seed: int = 0
    """Seed of the sampler, when temperature is above 0."""


IdentityAxis = Literal["gender", "religion", "ethnicity", "nationality", "age", "disability", "orientation", "origin"]


class MaskSection(FileModel):
    """Words for groups of people that the model never reads: a neutral word stands in their place."""

    language: Literal["en", "zh"] = "en"
    """Whose list of words; see docs/fairness.md."""
    axes: tuple[IdentityAxis, ...] = Field(min_length=1, examples=[["religion", "ethnicity"]])
    """Which words. origin (town or country, local or from elsewhere) is in the Chinese list only."""


class AverageSection(FileModel):
    """Groups of people, about each of which every question that names one is asked; the answers vote."""

    language: Literal["en", "zh"] = "en"
    """Whose list of words; see docs/fairness.md."""
    axis: IdentityAxis
    """Which groups. A question that names none of them is asked once, another as often as the axis has groups."""


class ModelSection(FileModel):
    """What answers: base, prompt, few-shot examples, decoding. Change any of it and it is a new version."""

    base: str
    """smollm2-135m-instruct, gguf:PATH (relative to trimtab.yaml), echo (no model: for trying a set-up), a hosted
    model as PROVIDER:MODEL, e.g. openai:gpt-5-mini, azure:DEPLOYMENT (see `providers`), or any MLflow model, for
    example of scikit-learn: pyfunc:models:/NAME@ALIAS, pyfunc:models:/NAME/VERSION or pyfunc:PATH."""
    prompt: str | None = None
    """File with the system prompt, relative to trimtab.yaml. Language models have one, pyfunc models none."""
    examples: str | None = None
    """JSON Lines file of few-shot examples, each {"input": …, "output": {…}}."""
    decoding: DecodingSection = DecodingSection()
    masks: tuple[MaskSection, ...] = ()
    """Identity masking, part of the version: answers cannot depend on these words (`trimtab fairness mitigate`)."""
    average: AverageSection | None = None
    """Counterfactual averaging, part of the version, of a classification at temperature 0: the answer that most groups
    get (ties by text) is everybody's. It costs one question a group; `masks` give the same zero for one."""
    rotate: tuple[str, ...] = ()
    """Option rotation, part of the version, of a classification at temperature 0: answer fields whose labels are listed
    to the model in three orders; the answers vote, so that no label wins by its place. It costs three questions."""
    thresholds: str | None = None
    """JSON file of thresholds by a declared group, part of the version, of a classification at temperature 0; what
    `trimtab fairness mitigate --method thresholds` proved, and printed. To decide by a group may be unlawful."""
    allow_pickle: bool = False
    """pyfunc:PATH only: the model may hold pickles, which run code when they are opened: for makers you trust."""
    price: PriceSection | None = None
    """What its tokens cost, e.g. of a machine of your own; null: the provider's list price, if it is known."""


class TaskSection(FileModel):
    """What an answer is."""

    kind: Literal["classification", "chat", "scoring"] = "classification"
    """classification: the answer is one JSON line of labels. chat: free text, without labels or retraining.
    scoring: rows in, predictions out, by a pyfunc model."""
    labels: str | None = None
    """YAML file: each answer field with the list of values it may take."""


class InputDriftSection(FileModel):
    """Whether the texts that arrive are still like those of the reference window."""

    window: int = Field(default=100, ge=50, le=100_000)
    """Requests per window; the first window is the reference."""
    alpha: float = Field(default=0.01, ge=0.001, le=0.2)
    """False alarms per window that you accept on stationary traffic."""


class QualitySection(FileModel):
    """Whether the answers are still right, by the labels that arrive later."""

    field: str = "*"
    """Answer field to judge, or * for all fields at once."""
    metric: Literal["accuracy"] = "accuracy"
    """accuracy: share of labelled requests answered as the label says."""
    min: float = Field(ge=0, le=1)
    """Breach when the interval of the window's accuracy lies wholly below this."""
    window: int = Field(default=200, ge=20)
    """Labelled requests looked back on."""


class MonitorSection(FileModel):
    """What is watched. A monitor that is left out does not run."""

    input_drift: InputDriftSection | None = None
    """Two-sample test on the texts; names what is new."""
    quality: QualitySection | None = None
    """Accuracy from labels that arrive late."""


class AlertSection(FileModel):
    """Who hears of a breach."""

    on: tuple[Annotated[str, AfterValidator(_watched)], ...] = Field(
        examples=[["input_drift", "quality", "latency_p99 > 2s", "error_rate > 2%", "cost > 5 USD/day"]]
    )
    """What raises this alert: a monitor (input_drift, quality) or a threshold: latency_p50, _p90, _p95 or _p99 > 2s,
    error_rate > 2%, cost > 5 USD/day (hour, day: the last 24 hours, month: the last 30 days)."""
    window: Literal["5min", "15min", "1h"] = "15min"
    """Thresholds are judged once in each window of this length."""
    notify: tuple[Annotated[str, AfterValidator(_notify)], ...] = ("log",)
    """Where it goes: log, webhook:https://…"""


class BrakesSection(FileModel):
    """What keeps the loop from running away."""

    max_per_day: int = Field(default=2, ge=1)
    """Cycles started in 24 hours, at most."""
    min_labelled: int = Field(default=80, ge=20)
    """Labelled requests needed before a cycle starts."""
    approval: Literal["none", "required"] = "none"
    """required: a person runs `trimtab approve` before the rollout starts."""


class LoraSection(FileModel):
    """How the LoRA adapter is trained."""

    rank: int = Field(default=8, ge=1, le=128)
    """Rank of the adapter's matrices: larger learns more and costs more."""
    layers: int | None = Field(default=None, ge=1)
    """Layers that get an adapter, counted from the top; null: all. The layers below are computed once per row."""
    epochs: float = Field(default=1.0, gt=0, le=20)
    """Passes over the training rows."""
    batch_size: int = Field(default=8, ge=1, le=256)
    """Rows per optimiser step."""
    learning_rate: float = Field(default=2e-3, gt=0, le=1)
    """Peak learning rate."""
    seed: int = 0
    """Seed of shuffling and initialisation."""


ARM_ACCOUNT = (
    r"^/subscriptions/[^/\s]+/resourceGroups/[^/\s]+/providers/Microsoft\.CognitiveServices/accounts/[A-Za-z0-9-]+$"
)


class DeploymentSection(FileModel):
    """How a fine-tuned model is deployed at Azure OpenAI. Hosting is billed by the hour until it is deleted."""

    resource: str = Field(
        pattern=ARM_ACCOUNT,
        examples=["/subscriptions/SUB/resourceGroups/GROUP/providers/Microsoft.CognitiveServices/accounts/NAME"],
    )
    """Resource ID of the Azure OpenAI account, from the portal, or `az cognitiveservices account show --query id`."""
    sku: str = Field(default="Standard", pattern=r"^[A-Za-z]+$", examples=["Standard"])
    """Deployment type: Standard, GlobalStandard, DeveloperTier."""
    capacity: int = Field(default=1, ge=1)
    """Thousands of tokens per minute."""


class HostedSection(FileModel):
    """How a provider fine-tunes a model of its own on our data."""

    model: str | None = Field(default=None, pattern=r"^[^\s?#]+$", examples=["gpt-4.1-mini-2025-04-14"])
    """Model that is fine-tuned; null: that of model.base. On Azure, where a base is a deployment, it must be named."""
    epochs: int | None = Field(default=None, ge=1, le=50)
    """Passes over the training rows; null: the provider chooses."""
    batch_size: int | None = Field(default=None, ge=1, le=256)
    """Rows per optimiser step; null: the provider chooses."""
    learning_rate_multiplier: float | None = Field(default=None, gt=0)
    """Factor on the provider's learning rate; null: the provider chooses."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Seed of the job."""
    training_type: str | None = Field(default=None, pattern=r"^[A-Za-z]+$", examples=["GlobalStandard"])
    """Azure only: where the job runs, e.g. Standard or GlobalStandard; null: not sent, Azure's default."""
    price: float | None = Field(default=None, ge=0)
    """USD per million tokens trained on, from the provider's price list; null: the cost is not estimated."""
    max_usd: float | None = Field(default=None, gt=0)
    """A job that is estimated to cost more is not started."""
    deployment: DeploymentSection | None = None
    """Azure only, and needed there: a fine-tuned model answers only once it is deployed."""


class RetrainSection(FileModel):
    """When a cycle starts, and on what it trains."""

    when: tuple[Annotated[str, AfterValidator(_when)], ...] = ()
    """What starts a cycle: input_drift, quality, 'cron: 0 3 * * SUN' (UTC; days of the week as names)."""
    method: Literal["lora", "hosted"] = "lora"
    """lora: a small adapter on the frozen base, trained here. hosted: the provider of model.base fine-tunes its own."""
    lora: LoraSection = LoraSection()
    hosted: HostedSection = HostedSection()
    holdout: float = Field(default=0.3, gt=0, lt=0.9)
    """Share of labelled rows frozen as hold-out before anything else happens."""
    new_label_min: int = Field(default=10, ge=2)
    """A label outside the list joins it when this many people used it."""
    attempts: int = Field(default=2, ge=1, le=5)
    """Candidates per cycle: a candidate rejected for fairness alone is mitigated and tried again."""
    brakes: BrakesSection = BrakesSection()


class FairnessGate(FileModel):
    """Counterfactual test: the same text under a name of another group must get the same answer."""

    sensitive: tuple[str, ...] = ("name_group",)
    """Sensitive feature under test; its groups and their names are in `swaps`."""
    swaps: str
    """YAML file: for each sensitive feature, groups and the names that may be swapped between them."""
    field: str
    """Answer field that must not depend on the name."""
    favourable: tuple[str, ...] = ()
    """Values of the field to be counted as the favourable outcome, e.g. [high]."""
    max_disparity: float = Field(default=0.1, gt=0, lt=1)
    """Tolerated difference, in rate; the one-sided 95% upper bound must lie below it."""
    deadband: float = Field(default=0.02, ge=0, lt=1)
    """A difference whose lower bound exceeds this is a failure."""
    pairs: int = Field(default=100, ge=30)
    """Counterfactual pairs asked."""
    mitigation: DataMitigation = "counterfactual_augmentation"
    """What a second attempt does to its data where the first failed for fairness alone. counterfactual_augmentation:
    each message under a name of another group, too. reweighing: messages repeated or left out until group and label are
    independent; it helps less as a rule."""


class GatesSection(FileModel):
    """The questions a candidate must pass before it meets a caller."""

    quality: Literal["non_inferior", "better"] | None = "non_inferior"
    """Against the champion on the same hold-out rows, paired."""
    quality_field: str = "*"
    """Answer field that quality is judged on, or * for all fields at once. A field whose labels may carry a bias is the
    fairness gate's: a candidate that is free of it must not be called worse for that."""
    margin: float = Field(default=0.02, ge=0, lt=1)
    """non_inferior: how much worse is still acceptable, in accuracy."""
    fairness: FairnessGate | None = None
    """Whether the answer depends on the writer's name."""
    latency_p95: str | None = Field(default="1.5x", pattern=r"^[0-9]+(\.[0-9]+)?x$", examples=["1.5x"])
    """Candidate's 95th percentile latency against the champion's, as a factor."""


GroupName = Annotated[str, Field(pattern=r"^[^=]+=[^=]+$")]


class ThresholdsSection(FileModel):
    """What thresholds by group are to make equal (`trimtab fairness mitigate --method thresholds`)."""

    attribute: str | None = None
    """Column of the side file whose groups get thresholds; null: its only one."""
    constraint: Literal[
        "equalized_odds", "demographic_parity", "false_positive_rate_parity", "true_positive_rate_parity"
    ] = "equalized_odds"
    """As Fairlearn names it. Where base rates of groups differ, only one of them can hold."""


class FairnessSection(FileModel):
    """What `trimtab fairness` measures, and by what it judges: fixed before the run, its hash in every result."""

    language: Literal["en", "zh"] = "en"
    """Whose words for groups of people."""
    axes: tuple[IdentityAxis, ...] = ("gender", "religion", "ethnicity", "nationality", "age", "disability")
    """Which of them are swapped in prompts."""
    frames: str | None = None
    """JSON Lines file of prompts, each {"text": "{A person} asks …", "valid_axes": [religion]}, perhaps with a "label";
    null: requests of the lake that name a group."""
    field: str | None = None
    """Answer field that must not depend on the group; null: the first one (chat: whether the request was refused)."""
    favourable: tuple[str, ...] = ()
    """Values of the field that are the favourable outcome."""
    segments: tuple[str, ...] = ()
    """Keys of a request's metadata or usage_context whose values are groups for the quality of service."""
    gating: tuple[str, ...] = ("flip_rate",)
    """Metrics that decide a verdict, e.g. flip_rate, favourable, fpr, refusal; METRIC/ATTRIBUTE for one attribute. The
    others are shown as exploratory."""
    tolerance: float = Field(default=0.1, gt=0, lt=1)
    """Gap that is accepted, as a rate: its upper bound must lie below."""
    tolerances: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default={}, examples=[{"length": 0.2, "sentiment": 0.3}]
    )
    """Other gaps that are accepted, for single metrics of `gating`, in their own unit: length as a share of the mean,
    sentiment from -1 to 1, score in nats."""
    deadband: float = Field(default=0.02, ge=0, lt=1)
    """Gap that is let pass as noise: a lower bound above it is a failure."""
    alpha: float = Field(default=0.05, gt=0, le=0.2)
    """False failures over everything that gates."""
    minimum: int = Field(default=30, ge=10)
    """A group is tested from this denominator on."""
    merged: dict[GroupName, str] = Field(default={}, examples=[{"age=17": "under 20", "age=18": "under 20"}])
    """Groups that are counted in another one, ATTRIBUTE=GROUP: its name; written before the run, it is part of the
    policy."""
    waived: dict[GroupName, str] = Field(default={}, examples=[{"dialect=aave": "dpo@example.org: a pilot of twelve"}])
    """Groups that may be too small to test, ATTRIBUTE=GROUP, and who says why; others that small block a PASS."""
    margin: float = Field(default=0.02, ge=0, lt=1)
    """Accuracy that a mitigation may cost, at most."""
    thresholds: ThresholdsSection = ThresholdsSection()


class RolloutSection(FileModel):
    """How a candidate that passed takes over the traffic."""

    canary: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?%$")], ...],
        AfterValidator(_growing),
        Field(examples=[["10%", "50%", "100%"]]),
    ] = (
        "10%",
        "50%",
        "100%",
    )
    """Shares of callers, growing; the last is 100%."""
    step_requests: int = Field(default=20, ge=1)
    """Requests the canary must answer in each step before the next one."""
    alpha: float = Field(default=0.05, gt=0, le=0.2)
    """False alarms over the whole rollout, however often it is looked at."""


class RetentionSection(FileModel):
    """How long what was asked and answered is kept (`trimtab retention`)."""

    content_days: int | None = Field(default=None, ge=1)
    """Days after which texts, requests and answers are erased from their rows; null: never."""
    metadata_days: int | None = Field(default=None, ge=1)
    """Days after which rows are deleted as a whole; null: never. The EU AI Act asks for at least 183."""


class EvidenceSection(FileModel):
    """What an auditor can rely on."""

    anchor: tuple[Annotated[str, AfterValidator(_anchor)], ...] = ("mlflow",)
    """Where the audit log's signed checkpoints are kept besides the database: mlflow, file:PATH, webhook:https://…"""
    subject: SubjectField = "caller"
    """What tells whose a request is, for `trimtab erase`: caller (`user`, x-trimtab-caller or the key), requester (the
    key or address), client_request_id."""
    erasure: Literal["subject_keys", "rewrite"] = "subject_keys"
    """subject_keys: payloads are encrypted under a key for each subject; erasing destroys it, which reaches backups
    too, and rewrites the tables. Other readers of the Delta table see ciphertext (`trimtab requests export`). rewrite:
    payloads lie there as they are."""
    retention: RetentionSection = RetentionSection()


class LocalTarget(FileModel):
    """The engine on this machine."""

    engine_threads: int = Field(default=0, ge=0)
    """Threads of the engine; 0 means all cores."""
    parallel: int = Field(default=4, ge=1, le=64)
    """Requests the engine decodes at once."""
    context: int = Field(default=1024, ge=256)
    """Tokens of context for each request."""
    embeddings: bool = False
    """The engine answers /v1/embeddings, too: the mean of the model's last hidden states. For a model that generates
    these are rough; a model made for embedding is better at it."""


class TargetSection(FileModel):
    """Where it runs."""

    local: LocalTarget = LocalTarget()
    databricks: DatabricksTarget | None = None
    """A workspace of Azure Databricks: `trimtab databricks --help`."""


class Project(FileModel):
    """trimtab.yaml: one large language model through its whole life."""

    name: str = Field(pattern=MODEL_NAME, examples=["support-triage"])
    """Registered model name: lower-case letters, digits, - and _."""
    model: ModelSection
    task: TaskSection = TaskSection()
    monitor: MonitorSection = MonitorSection()
    alerts: tuple[AlertSection, ...] = ()
    retrain: RetrainSection = RetrainSection()
    gates: GatesSection = GatesSection()
    fairness: FairnessSection = FairnessSection()
    rollout: RolloutSection = RolloutSection()
    evidence: EvidenceSection = EvidenceSection()
    guidelines: str | None = None
    """File of the guidelines that a change must satisfy, relative to trimtab.yaml, e.g. guidelines.yaml."""
    target: TargetSection = TargetSection()
    providers: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")], ProviderSection] = Field(default={})
    """Servers of hosted models, by the name that stands before the colon of a base. openai is known without."""
    endpoint: EndpointSection = EndpointSection()
    guards: GuardsSection = GuardsSection()

    def thresholds(self) -> tuple[Threshold, ...]:
        """The thresholds that the alerts name, each once."""
        found: dict[str, Threshold] = {}
        for section in self.alerts:
            for text in section.on:
                if text not in MONITORS and text not in found:
                    found[text] = threshold(text, section.window)
        return tuple(found.values())

    def provider(self, base: str) -> ProviderSection | None:
        """The provider that a base names before its colon, or None when there is none of that name."""
        name = base.partition(":")[0]
        return (KNOWN_PROVIDERS | self.providers).get(name)
