"""What is told about a request besides its row and its answer: the numbers of `meter`, one log line when it failed.

The boundary: durations, names and codes only; never a header of the client's, a question or an answer.
"""

from __future__ import annotations

import logging
from typing import Protocol

from trimtab.gateway.exchange import Exchange
from trimtab.gateway.meter import Meter
from trimtab.gateway.routes import Entity, Route
from trimtab.gateway.stream import Usage
from trimtab.store.journal import Opened

log = logging.getLogger("trimtab.gateway")


class Row(Protocol):
    """What is looked at of `answer.Row`; times are perf_counter, durations in seconds."""

    exchange: Exchange
    opened: Opened
    entity: Entity
    route: Route
    engine_seconds: float
    first_byte: float | None
    attempts: int
    usage: Usage


def row_closed(meter: Meter, row: Row, status: int, outcome: str, now: float) -> None:
    """Count a row that was closed at `now` (perf_counter); a failure, ours or the engine's, is one line in the log."""
    begun, opened, usage, entity, first = row.exchange.at, row.opened, row.usage, row.entity, row.first_byte
    meter.closed(
        (opened.path, status, entity.model, entity.version, row.route, outcome),
        now - begun,
        (first or now) - begun - row.engine_seconds,
        None if first is None else first - begun,
        usage.prompt_tokens,
        usage.completion_tokens,
        row.attempts,
    )
    if status >= 500:
        details = {
            "request_id": opened.request_id,
            "path": opened.path,
            "status": status,
            "outcome": outcome,
            "version": f"{row.entity.model}/{row.entity.version}",
            "route": row.route,
            "attempts": row.attempts,
            "duration_ms": round((now - begun) * 1000),
        }
        log.warning("request failed", extra=details)


def refused(request_id: str, path: str, status: int, code: str) -> None:
    """One line for a request that got no row because of us; what a client did wrong is its own to read."""
    if status >= 500:
        log.warning("request refused", extra={"request_id": request_id, "path": path, "status": status, "code": code})
