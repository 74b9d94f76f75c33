"""Stage 2, serve: what gateways follow and what clients tell us afterwards."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from trimtab.records.endpoint import EndpointSection
from trimtab.records.record import Record


class Upstream(Record):
    """A server of chat completions, or of MLflow's scoring protocol: an engine of ours on loopback, or a provider's."""

    address: str
    """host:port."""
    api_key: str = ""
    """Key or bearer token."""
    name: str = ""
    """What errors call it, e.g. azure:gpt-5-mini; empty: model and version."""
    tls: bool = False
    """Speak TLS, with the certificate checked against the host's name."""
    path: str = "/v1"
    """What stands before /chat/completions."""
    query: str = ""
    """What stands behind the path, e.g. ?api-version=2024-10-21."""
    protocol: Literal["openai", "mlflow"] = "openai"
    """openai: conversations at /chat/completions. mlflow: rows at /invocations."""
    key_header: Literal["authorization", "api-key"] = "authorization"
    """authorization carries the key as a bearer token."""
    connect_seconds: float = 5.0
    first_byte_seconds: float = 600.0


class ServedEntity(Upstream):
    """One version on one engine or provider, ready to answer.

    `template` is the engine request without the user's messages: `messages` (the version's prompt) to put in front,
    `params` (decoding, response format, adapters) to merge in;
    `masks`, `average`, `rotations` and `thresholds`, where it has any. Built by `providers.llama_cpp.request_template`.
    """

    model: str
    version: int
    template: dict[str, Any]
    guards: dict[str, Any] | None = None
    """`records.guards.GuardSet` with its hash as `sha256`; None: nothing is looked at."""
    price: dict[str, int] | None = None
    """`providers.prices.Price`: nano-USD for one token of each kind; None: what it costs is not known."""


class Routes(Record):
    """What a gateway needs to answer: replaced as a whole, so a request sees exactly one snapshot."""

    model: str
    revision: str
    champion: ServedEntity | None
    canary: ServedEntity | None = None
    canary_percent: float = 0.0
    endpoint: EndpointSection = EndpointSection()
    fallback: tuple[ServedEntity, ...] = ()
    """In the order they are asked."""
    shadow: ServedEntity | None = None
    disclosure: dict[str, str] = Field(default={})
    """Header lines of answers, by path; under the empty path those of every other one."""


class Feedback(Record):
    """A label, rating or correction for an earlier request (MLflow: an assessment).

    Joined by `request_id`, else by `client_request_id`. `value` holds the correct field values.
    """

    feedback_id: str
    at: datetime
    request_id: str | None = None
    client_request_id: str | None = None
    name: str = "label"
    value: dict[str, Any]
    source: Literal["human", "code", "llm_judge"] = "human"


class EngineState(Record):
    """What the supervisor knows of the engine that serves one version."""

    model: str
    version: int
    state: Literal["starting", "ready", "failed", "stopped"]
    address: str | None = None
    pid: int | None = None
    error: str | None = None
    at: datetime
