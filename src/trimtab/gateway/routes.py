"""Which version answers whom: snapshots of the routes file, and the split between champion and canary.

The boundary: reads the file that the supervisor replaces (`records.gateway.Routes` as JSON); opens no connection.
A request takes one `Snapshot` and keeps it to its end.
"""

from __future__ import annotations

import logging
import os
from functools import cached_property, lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import msgspec

from trimtab import averaging
from trimtab.providers.prices import Price
from trimtab.responsible.guards.guard_set import GuardSet

Route = Literal["champion", "canary", "fallback", "shadow"]

log = logging.getLogger("trimtab.gateway")


OUTPUT_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
"""What APIs call the limit on an answer's length."""


class Own(msgspec.Struct, frozen=True):
    """A version's own part of one question, as the JSON it came in."""

    messages: list[msgspec.Raw]
    params: dict[str, msgspec.Raw] = {}
    """What differs from the template's."""


class Template(msgspec.Struct, frozen=True):
    """The engine request without the user's messages, kept as the JSON it came in: it is only ever copied."""

    messages: list[msgspec.Raw] = []
    params: dict[str, msgspec.Raw] = {}
    masks: msgspec.Raw = msgspec.Raw(b"[]")
    """What a client's messages pass through; see `masking`."""
    average: msgspec.Raw = msgspec.Raw(b"null")
    """The twins that a client's conversation is asked as; see `averaging`."""
    rotations: list[Own] = []
    """The orders of labels under which it is asked; see `rotating`."""
    thresholds: msgspec.Raw = msgspec.Raw(b"null")
    """What decides for a declared group; see `responsible.operating_points`."""


class Demand(NamedTuple):
    """What a version asks of a key's limits: bytes of its own part of every prompt, tokens of its longest answer if it
    has one, at most how many nano-USD for a token of the prompt (None: nobody knows) and of the answer, and at most how
    many questions to the engine one conversation becomes."""

    prompt_bytes: int
    longest: int | None
    input_price: int | None
    output_price: int
    questions: int = 1


class Entity(msgspec.Struct, frozen=True, dict=True):
    """One version on one engine; mirrors `records.gateway.ServedEntity`. What follows from it is worked out once."""

    model: str
    version: int
    address: str
    template: Template
    api_key: str = ""
    name: str = ""
    tls: bool = False
    path: str = "/v1"
    query: str = ""
    protocol: Literal["openai", "mlflow"] = "openai"
    key_header: str = "authorization"
    connect_seconds: float = 5.0
    first_byte_seconds: float = 600.0
    price: Price | None = None
    guards: GuardSet | None = None

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError(f"address must be host:port, not {self.address!r}")

    @cached_property
    def upstream(self) -> str:
        """What errors and rows call it."""
        return self.name or f"{self.model}/{self.version}"

    @cached_property
    def place(self) -> str:
        """Whose turnstile a request passes: two models of one provider have limits of their own."""
        return f"{self.name}@{self.address}"

    @cached_property
    def masked(self) -> bool:
        """Whether a client's messages pass through masks."""
        return bytes(self.template.masks) != b"[]"

    @cached_property
    def twins(self) -> averaging.Twins | None:
        """How a client's conversation becomes the twins whose answers vote; None: it is asked as it is."""
        told = msgspec.json.decode(self.template.average)
        return None if told is None else averaging.twins(told)

    @cached_property
    def own(self) -> list[Own]:
        """Its own part of every question that a conversation becomes."""
        return self.template.rotations or [Own(self.template.messages)]

    @cached_property
    def votes(self) -> bool:
        """Whether a conversation may become several questions, whose answers vote."""
        return self.twins is not None or len(self.own) > 1

    @cached_property
    def thresholds(self) -> dict[str, Any] | None:
        """What decides for a declared group; None: the model's own answers stand."""
        return msgspec.json.decode(self.template.thresholds)

    @cached_property
    def whole(self) -> bool:
        """Whether its answers can only be given whole, and without chance."""
        return self.votes or self.thresholds is not None

    @cached_property
    def heads(self) -> dict[str, bytes]:
        """The heads of requests to it, by operation (`upstream`)."""
        return {}

    @cached_property
    def shown(self) -> dict[Route, bytes]:
        """How the header lines of an answer name it, by the route it was reached on."""
        name = f"{self.model}/{self.version}".encode("ascii", "replace")
        lines = b"x-trimtab-version: %b\r\nx-trimtab-route: %b\r\n"
        return {route: lines % (name, route.encode()) for route in get_args(Route)}

    @cached_property
    def demand(self) -> Demand:
        """What it asks of a key's limits."""
        template, price = self.template, self.price
        parts = [[*own.messages, *(template.params | own.params).values()] for own in self.own]
        prompt = max(sum(map(len, part)) for part in parts)
        limits = (template.params.get(name) for name in OUTPUT_LIMITS)
        longest = next((int(bytes(raw)) for raw in limits if raw is not None), None)
        average = msgspec.json.decode(template.average)
        questions = len(self.own) * (1 if average is None else len(average["groups"]))
        if price is None:
            return Demand(prompt, longest, None, 0, questions)
        input_price = max(price.input, price.cached_input, price.cache_write)
        return Demand(prompt, longest, input_price, price.output, questions)


class Shadow(msgspec.Struct, frozen=True):
    """How much is copied to another version; mirrors `records.project.ShadowSection`."""

    base: str | None = None
    version: int | None = None
    percent: float = 5.0
    requests_per_day: int = 1000
    tokens_per_day: int = 1_000_000
    usd_per_day: float | None = None


class Endpoint(msgspec.Struct, frozen=True):
    """What is tried, how often, how many at once; mirrors `records.project.EndpointSection`, which explains it."""

    deadline: float = 60.0
    attempts: int = 2
    backoff: float = 0.2
    max_wait: float = 10.0
    fallback: list[str] = []
    breaker_failures: int = 5
    breaker_seconds: float = 10.0
    concurrency: int = 256
    queue: int = 256
    shadow: Shadow | None = None


class Snapshot(msgspec.Struct, frozen=True, dict=True):
    """Everything one request needs to know about routing; mirrors `records.gateway.Routes`."""

    model: str
    revision: str
    champion: Entity | None
    canary: Entity | None = None
    canary_percent: float = 0.0
    endpoint: Endpoint = Endpoint()
    fallback: list[Entity] = []
    shadow: Entity | None = None
    disclosure: dict[str, str] = {}

    def disclosed(self, path: str) -> bytes:
        """The header lines in which answers of a path say that a machine made them."""
        return self.disclosure.get(path, self.disclosure.get("", "")).encode()

    @cached_property
    def names(self) -> frozenset[str | None]:
        """What a request may call the model."""
        return frozenset({None, "", self.model, f"{self.model}@champion"})

    @cached_property
    def answering(self) -> list[Entity]:
        """The versions that may answer a caller."""
        return [entity for entity in (self.champion, self.canary, *self.fallback) if entity is not None]

    @cached_property
    def demands(self) -> list[Demand]:
        """What those ask of a key's limits, each once."""
        return list({entity.demand for entity in self.answering})

    def entities(self) -> list[Entity]:
        """The versions that may be asked."""
        return [*self.answering, *([self.shadow] if self.shadow is not None else [])]


_decode = msgspec.json.Decoder(Snapshot).decode


class RoutesFile:
    """The newest good snapshot of a routes file. A missing or broken file changes nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self.snapshot: Snapshot | None = None

    def refresh(self) -> bool:
        """Look at the file again; True when it brought a new snapshot. Costs one stat when nothing changed."""
        try:
            status = os.stat(self.path)  # noqa: PTH116 (often, for as long as the process lives)
            seen = (status.st_mtime_ns, status.st_ino, status.st_size)
            if seen == self._seen:
                return False
            self._seen = seen
            self.snapshot = _decode(self.path.read_bytes())
        except FileNotFoundError:
            return False
        except (OSError, msgspec.MsgspecError) as error:
            log.error("routes file %s ignored: %s", self.path, error)
            return False
        return True


@lru_cache(4096)
def bucket(model: str, caller: str) -> float:
    """Where a caller stands between 0 and 100, evenly spread and for ever the same for this model."""
    digest = blake2b(caller.encode(errors="surrogatepass"), digest_size=8, salt=_salt(model)).digest()
    return int.from_bytes(digest) / 2**64 * 100


def choose(snapshot: Snapshot, caller: str) -> tuple[Entity, Route] | None:
    """The version for a caller, or None without a champion. A growing percentage only ever adds callers."""
    if snapshot.champion is None:
        return None
    if snapshot.canary is not None and bucket(snapshot.model, caller) < snapshot.canary_percent:
        return snapshot.canary, "canary"
    return snapshot.champion, "champion"


def find(snapshot: Snapshot, entity: Entity) -> tuple[Entity, Route] | None:
    """Where the same version is served now, if it still is."""
    served: list[tuple[Entity | None, Route]] = [(snapshot.champion, "champion"), (snapshot.canary, "canary")]
    for now, route in [*served, *((entity, "fallback") for entity in snapshot.fallback)]:
        if now is not None and (now.model, now.version) == (entity.model, entity.version):
            return now, route
    return None


def _salt(model: str) -> bytes:
    """Two models with the same callers must not try their canaries on the same people."""
    return blake2b(model.encode(), digest_size=16).digest()
