"""The sections of trimtab.yaml that are about the endpoint: hosted providers, who may ask, what answers disclose."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from trimtab.records import keys
from trimtab.records.file_model import FileModel
from trimtab.records.file_model import refused as _refused


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
    credential: Literal["entra"] | None = None
    """entra: log in as azure-identity's DefaultAzureCredential does: AZURE_CLIENT_ID, AZURE_TENANT_ID and
    AZURE_CLIENT_SECRET, workload or managed identity, `az login`. Azure OpenAI only."""
    scope: str | None = Field(default=None, pattern=r"^\S+$", examples=["https://ai.azure.com/.default"])
    """What the Entra token is for. Default: https://cognitiveservices.azure.com/.default; endpoints of Azure AI Foundry
    and other clouds have scopes of their own."""
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
    usd_per_day: float | None = Field(default=None, gt=0, le=1_000_000)
    """What copies may cost in a day (UTC), in USD: no copy starts beyond it. The version needs a price."""


class RouteDisclosure(FileModel):
    """What the answers of one path say of themselves; what a path leaves out is as it is for all."""

    mode: Literal["machine-generated", "ai-originated", "ai-modified", "off"] = "machine-generated"
    """machine-generated: no person looks at an answer before it is used; ai-originated: one does; off: no header."""
    notice: Annotated[str, Field(pattern=r"^https?://[^\s<>]+$", examples=["https://example.org/ai-notice"])] | None = (
        None
    )
    """Page that tells people what they deal with; sent as a Link (describedby). null at a path: none there."""

    def header(self, model: str) -> str:
        """The value of AI-Disclosure (draft-abaris-aicdh-01, an RFC 9651 dictionary); empty when off."""
        return "" if self.mode == "off" else f'mode={self.mode}, model="{model}"'

    def lines(self, model: str) -> str:
        """Header lines, each with its end."""
        link = f'link: <{self.notice}>; rel="describedby"\r\n' if self.notice else ""
        return f"ai-disclosure: {self.header(model)}\r\n{link}" if self.mode != "off" else link


class DisclosureSection(RouteDisclosure):
    """What answers say of themselves: that a machine made them, and where people read more."""

    routes: dict[Annotated[str, Field(pattern=r"^/\S*$")], RouteDisclosure] = Field(default={})
    """Paths that say something else, e.g. {/predict: {mode: ai-originated}}."""

    @property
    def own(self) -> dict[str, RouteDisclosure]:
        """The paths of `routes` as they answer: what one does not set, it has from here."""
        general = self.model_dump(exclude={"routes"})
        set_there = {path: route.model_dump(exclude_unset=True) for path, route in self.routes.items()}
        return {path: RouteDisclosure.model_validate(general | said) for path, said in set_there.items()}

    def by_path(self, model: str) -> dict[str, str]:
        """Header lines by path; under the empty path those of every other one."""
        return {"": self.lines(model)} | {path: route.lines(model) for path, route in self.own.items()}


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
    disclosure: DisclosureSection = DisclosureSection()
    """The header that says a machine answered."""
