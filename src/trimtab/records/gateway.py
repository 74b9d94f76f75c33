"""Stage 2, serve: what gateways follow and what clients tell us afterwards."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from trimtab.records.record import Record


class ServedEntity(Record):
    """One version on one engine, ready to answer.

    `template` is the engine request without the user's messages: `messages` (the version's prompt) to put in front,
    and `params` (decoding, response format, adapters) to merge in. Built by `providers.llama_cpp.request_template`.
    """

    model: str
    version: int
    address: str
    """host:port of the engine, on loopback."""
    template: dict[str, Any]
    api_key: str = ""
    """Bearer token of the engine."""
    price: dict[str, int] | None = None
    """`providers.prices.Price`: nano-USD for one token of each kind; None: what it costs is not known."""


class Routes(Record):
    """What a gateway needs to answer: replaced as a whole, so a request sees exactly one snapshot."""

    model: str
    revision: str
    champion: ServedEntity | None
    canary: ServedEntity | None = None
    canary_percent: float = 0.0


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
