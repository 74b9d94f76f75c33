"""The file: one model of trimtab.yaml. It says what we decide; `settings` says where things are.

A value that is wrong by itself is refused here; what needs a second value or another file is checked in `project`.
"""

from __future__ import annotations

import itertools
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from trimtab.records import keys
from trimtab.records.guards import GuardsSection
from trimtab.records.record import FileModel

MODEL_NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"


def _refused(problem: str, fix: str) -> PydanticCustomError:
    return PydanticCustomError("refused", "{problem}", {"problem": problem, "fix": fix})


def _notify(value: str) -> str:
    if value == "log" or re.fullmatch(r"webhook:https?://\S+", value):
        return value
    raise _refused("is neither log nor a webhook", "write log or webhook:https://…")


def _anchor(value: str) -> str:
    if value == "mlflow" or re.fullmatch(r"file:.+|webhook:https?://\S+", value):
        return value
    raise _refused("is no place for a checkpoint", "write mlflow, file:PATH or webhook:https://…")


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


def _rate(value: str) -> str:
    try:
        keys.rate(value)
    except ValueError as error:
        raise _refused(str(error), "write it like 600/min or 100k/min") from None
    return value


def _budget(value: str) -> str:
    try:
        keys.budget(value)
    except ValueError as error:
        raise _refused(str(error), "write it like 50 USD/day") from None
    return value


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


class ModelSection(FileModel):
    """What answers: base, prompt, few-shot examples, decoding. Change any of it and it is a new version."""

    base: str
    """smollm2-135m-instruct, gguf:PATH (relative to trimtab.yaml), echo (no model: for trying a set-up), or a hosted
    model as PROVIDER:MODEL, e.g. openai:gpt-5-mini, azure:DEPLOYMENT; see `providers`."""
    prompt: str
    """File with the system prompt, relative to trimtab.yaml."""
    examples: str | None = None
    """JSON Lines file of few-shot examples, each {"input": …, "output": {…}}."""
    decoding: DecodingSection = DecodingSection()
    price: PriceSection | None = None
    """What its tokens cost, e.g. of a machine of your own; null: the provider's list price, if it is known."""


class TaskSection(FileModel):
    """What an answer is."""

    kind: Literal["classification", "chat"] = "classification"
    """classification: the answer is one JSON line of labels. chat: free text, without labels or retraining."""
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

    on: tuple[Literal["input_drift", "quality"], ...]
    """Monitors whose breach raises this alert."""
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


class RetrainSection(FileModel):
    """When a cycle starts, and on what it trains."""

    when: tuple[Annotated[str, AfterValidator(_when)], ...] = ()
    """What starts a cycle: input_drift, quality, 'cron: 0 3 * * SUN' (UTC; days of the week as names)."""
    method: Literal["lora"] = "lora"
    """lora: a small adapter on the frozen base."""
    lora: LoraSection = LoraSection()
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


class GatesSection(FileModel):
    """The questions a candidate must pass before it meets a caller."""

    quality: Literal["non_inferior", "better"] | None = "non_inferior"
    """Against the champion on the same hold-out rows, paired."""
    margin: float = Field(default=0.02, ge=0, lt=1)
    """non_inferior: how much worse is still acceptable, in accuracy."""
    fairness: FairnessGate | None = None
    """Whether the answer depends on the writer's name."""
    latency_p95: str | None = Field(default="1.5x", pattern=r"^[0-9]+(\.[0-9]+)?x$", examples=["1.5x"])
    """Candidate's 95th percentile latency against the champion's, as a factor."""


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


class EvidenceSection(FileModel):
    """What an auditor can rely on."""

    anchor: tuple[Annotated[str, AfterValidator(_anchor)], ...] = ("mlflow",)
    """Where the audit log's signed checkpoints are kept besides the database: mlflow, file:PATH, webhook:https://…"""


class ProviderSection(FileModel):
    """A server that speaks OpenAI's chat completions: OpenAI, Azure OpenAI, Databricks model serving, vLLM, another."""

    base_url: str = Field(pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$", examples=["https://api.openai.com/v1"])
    """What stands before /chat/completions. Azure: https://NAME.openai.azure.com/openai/v1; with api_version (classic):
    https://NAME.openai.azure.com. Databricks: https://WORKSPACE/serving-endpoints."""
    kind: Literal["openai", "azure"] | None = None
    """azure: a key travels in the header api-key, and an api_version means deployment paths. Default: azure for the
    provider called azure, else openai."""
    api_version: str | None = Field(default=None, pattern=r"^[0-9A-Za-z.-]+$", examples=["2024-10-21"])
    """Azure only. Given: the classic paths /openai/deployments/DEPLOYMENT?api-version=…"""
    key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", examples=["OPENAI_API_KEY"])
    """Environment variable that holds the API key. The key itself never stands in this file."""
    token_file: str | None = None
    """File that holds a bearer token (Entra, Databricks OAuth), relative to trimtab.yaml; read again all the time."""
    token_command: tuple[str, ...] | None = Field(
        default=None,
        examples=[["az", "account", "get-access-token", "--resource", "https://cognitiveservices.azure.com"]],
    )
    """Command that prints a bearer token, plain or as JSON (accessToken, access_token); run again before it expires."""
    connect_seconds: float = Field(default=5.0, gt=0, le=60)
    """Longest wait for a connection."""
    first_byte_seconds: float = Field(default=60.0, gt=0, le=600)
    """Longest wait for the first byte of an answer."""


KNOWN_PROVIDERS = {"openai": ProviderSection(base_url="https://api.openai.com/v1", key_env="OPENAI_API_KEY")}
"""Providers that need no section."""


class ShadowSection(FileModel):
    """Copies of requests to another version, after the caller was answered; the caller never sees the answers."""

    base: str | None = None
    """Another base, under this file's prompt, e.g. openai:gpt-5-mini; or"""
    version: int | None = Field(default=None, ge=1)
    """a registered version."""
    percent: float = Field(default=5.0, gt=0, le=100)
    """Share of the requests, drawn at random."""
    requests_per_day: int = Field(default=1000, ge=1)
    """Copies in a day (UTC), at most."""
    tokens_per_day: int = Field(default=1_000_000, ge=1)
    """Tokens of copies in a day (UTC), input and output: no copy starts beyond it."""


class EndpointSection(FileModel):
    """Who may ask and how much; how requests reach the models: what is tried, how often, how many at once."""

    workers: int = Field(default=1, ge=1, le=64)
    """Gateway processes that share the port; one for each core that clients keep busy."""
    auth: Literal["none", "keys"] = "none"
    """none: anybody who reaches the port; only for this machine. keys: who has an API key (`trimtab keys create`)."""
    rate_limit: Annotated[str, AfterValidator(_rate)] | None = None
    """Requests of each key that has no limit of its own, e.g. 600/min."""
    budget: Annotated[str, AfterValidator(_budget)] | None = None
    """Money that each key without a budget of its own may spend, e.g. 50 USD/day: hour, day or month, in UTC."""
    deadline: float = Field(default=60.0, gt=0, le=3600)
    """Seconds for one answer, all attempts and waits included."""
    attempts: int = Field(default=2, ge=1, le=10)
    """Attempts at each model before the next one of `fallback`, or an error."""
    backoff: float = Field(default=0.2, gt=0, le=60)
    """Seconds before the second attempt; doubles with each further one, and is drawn between half and all of it."""
    max_wait: float = Field(default=10.0, ge=0, le=600)
    """Longest wait for a Retry-After, in seconds; one that asks for more is not waited for."""
    fallback: tuple[str, ...] = ()
    """Bases to ask, in order, when the champion does not answer; each is registered as a version under this file's
    prompt. A canary has no fallback: its failures are evidence."""
    breaker_failures: int = Field(default=5, ge=1)
    """Failures in a row after which a model is not asked for a while."""
    breaker_seconds: float = Field(default=10.0, gt=0, le=3600)
    """How long it is not asked; then one request tries."""
    concurrency: int = Field(default=256, ge=1)
    """Requests at one model at once, for each worker of the gateway."""
    queue: int = Field(default=256, ge=0)
    """Requests that may wait for their turn; the next one is refused with 429 and Retry-After."""
    shadow: ShadowSection | None = None
    """A share of requests copied to another version."""


class LocalTarget(FileModel):
    """The engine on this machine."""

    engine_threads: int = Field(default=0, ge=0)
    """Threads of the engine; 0 means all cores."""
    parallel: int = Field(default=4, ge=1, le=64)
    """Requests the engine decodes at once."""
    context: int = Field(default=1024, ge=256)
    """Tokens of context for each request."""


class TargetSection(FileModel):
    """Where it runs."""

    local: LocalTarget = LocalTarget()


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
    rollout: RolloutSection = RolloutSection()
    evidence: EvidenceSection = EvidenceSection()
    target: TargetSection = TargetSection()
    providers: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")], ProviderSection] = Field(default={})
    """Servers of hosted models, by the name that stands before the colon of a base. openai is known without."""
    endpoint: EndpointSection = EndpointSection()
    guards: GuardsSection = GuardsSection()

    def provider(self, base: str) -> ProviderSection | None:
        """The provider that a base names before its colon, or None when there is none of that name."""
        name = base.partition(":")[0]
        return (KNOWN_PROVIDERS | self.providers).get(name)
