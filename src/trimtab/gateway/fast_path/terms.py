"""On what terms a connection is lent to the fast path, as numbers and bytes; and what it heard of an engine, as values.

The boundary: pure but for the clock; `fast_path` lends and takes back.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from trimtab.gateway import routes
from trimtab.gateway.answer import Caller
from trimtab.gateway.exchange import Head
from trimtab.gateway.fast_path import layout
from trimtab.gateway.keys import Key
from trimtab.gateway.ledger import place_of
from trimtab.gateway.routes import Entity, Route, Snapshot
from trimtab.gateway.rows import Gateway
from trimtab.gateway.shapes import Asked, chat, scoring
from trimtab.gateway.stream import Usage
from trimtab.gateway.upstream import EngineConnection, EngineGone

CHAT, INVOCATIONS, PREDICT = "/v1/chat/completions", "/invocations", "/predict"
PATHS = {CHAT: layout.CHAT, INVOCATIONS: layout.ROWS, PREDICT: layout.ONE_ROW}
"""What may be asked there: chat completions of language models, and rows of MLflow models in JSON."""
pack = msgspec.msgpack.Encoder().encode
"""MessagePack, as the journal has it."""
_PERIODS = {"hour": 0, "day": 1, "month": 2}
_PARAMETER = re.compile(r"[a-z_0-9]+")
_OURS = frozenset({"messages", "stream", "stream_options", "max_completion_tokens"})


@dataclass
class Lent:
    """What is known of a connection that was lent."""

    head: Head
    caller: Caller
    key: Key | None
    entity: Entity
    route: Route
    snapshot: Snapshot
    patience: float
    peer: str

    @property
    def path(self) -> str:
        """Where its requests go."""
        return self.head.path

    def read(self, body: bytes) -> Asked:
        """What a request asks, as the rest of this room reads it."""
        if self.path == CHAT:
            return chat.asked(body)
        if self.path == PREDICT:
            return scoring.predict(body)
        return scoring.asked(body, self.head.headers.get(b"content-type", b""), True)


@dataclass
class Terms:
    """On what terms connections with a head are lent: good until routes or keys change."""

    lent: Lent
    route: int
    caller: layout.CallerSpec


def plain(gateway: Gateway, snapshot: Snapshot, head: Head, peer: str) -> Lent | None:
    """What is known of a connection whose requests may be answered there; None: they may not."""
    caller, key = head.known.caller, head.known.key
    chosen = routes.choose(snapshot, caller.id)
    if chosen is None or snapshot.shadow is not None or gateway.spans_exported:
        return None
    entity, route = chosen
    if caller.parent is not None or caller.client_request_id is not None or len(snapshot.demands) > layout.DEMANDS:
        return None
    if key is not None and len(key.budgets) > layout.BUDGETS:
        return None
    if (entity.protocol == "mlflow") != (head.path != CHAT):
        return None
    if head.path == INVOCATIONS and not scoring.is_json(head.headers.get(b"content-type", b"")):
        return None
    if entity.tls or entity.guards is not None or entity.masked or entity.whole:
        return None
    params = entity.template.params
    if params.keys() & _OURS or not all(_PARAMETER.fullmatch(name) for name in params):
        return None
    longest = gateway.deadline or snapshot.endpoint.deadline
    patience = longest if caller.deadline is None else min(longest, caller.deadline)
    return Lent(head, caller, key, entity, route, snapshot, patience, peer)


def heard_of(entity: Entity, told: layout.Handed) -> EngineConnection:
    """The engine's connection as it stands: what came of its answer, and whether more can come."""
    failure = None
    if told.error == layout.TIMED_OUT:
        failure = EngineGone(f"{entity.upstream} took no connection within {entity.connect_seconds:g} s")
    elif told.error:
        failure = EngineGone(f"the engine at {entity.address} does not answer: {os.strerror(told.error)}")
    return EngineConnection.of(
        entity,
        told.status,
        told.head.bytes(),
        told.data.bytes(),
        complete=bool(told.complete),
        kept=bool(told.kept),
        silent=bool(told.silent),
        failure=failure,
    )


def usage_of(told: layout.Handed) -> Usage:
    """The tokens that the engine has told of."""
    counts = (told.usage.prompt, told.usage.completion, told.usage.cached, told.usage.written, told.usage.reasoning)
    return Usage(*(None if count < 0 else count for count in counts))


def caller_spec(lent: Lent, before: bytes, after: bytes) -> layout.CallerSpec:
    """A client's head, before and behind the digits of its length, and who that is."""
    spec, key = layout.CallerSpec(), lent.key
    spec.hold("before", before)
    spec.hold("after", after)
    spec.hold("row", b"".join(map(pack, (None, lent.caller.id, lent.caller.requester))))
    spec.hold("path", pack(lent.path))
    spec.patience, spec.until_ms = lent.patience, -1
    spec.limits = limits_of(key)
    if key is not None:  # to the next moment at which one of its secrets ends
        ends = [until for until in key.until_ms if until is not None and until > time.time() * 1000]
        spec.until_ms = min(ends, default=-1)
    return spec


def limits_of(key: Key | None) -> layout.Limits:
    """A key's limits as the loop knows them."""
    one = layout.Limits(limited=key is not None and key.limited)
    for budget in one.budgets:
        budget.per = -1
    if key is None:
        return one
    one.base, one.tag = place_of(key)
    for rate, said in ((one.requests, key.requests), (one.tokens, key.tokens)):
        if said is not None:
            rate.count, rate.each_ns = said.count, said.each_ns
    for budget, said in zip(one.budgets, key.budgets, strict=False):
        budget.nano_usd, budget.per = said.nano_usd, _PERIODS[said.per]
    return one


def month_of(now: int) -> tuple[int, int]:
    """The number of the month (UTC) of a moment, as the ledger counts them, and when it ends; both moments epoch ns."""
    moment = datetime.fromtimestamp(now // 1_000_000_000, UTC)
    following = datetime(moment.year + moment.month // 12, moment.month % 12 + 1, 1, tzinfo=UTC)
    return moment.year * 12 + moment.month, int(following.timestamp()) * 1_000_000_000


def socket_address(address: str) -> bytes | None:
    """A socket address as the kernel takes it; None when the host is a name."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    for family, shape in ((socket.AF_INET, "4s8x"), (socket.AF_INET6, "4x16s4x")):
        try:
            packed = socket.inet_pton(family, host)
        except OSError:
            continue
        return struct.pack("=H", family) + struct.pack(">H", int(port)) + struct.pack(f"={shape}", packed)
    return None
