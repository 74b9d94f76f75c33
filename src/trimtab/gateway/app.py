"""What is at which path. `answer` is the application that the server calls for every request.

The boundary: paths, methods and the small endpoints are here; how a question is answered is in `answer`.
"""

from __future__ import annotations

import logging
import secrets
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import unquote

import msgspec

from trimtab.gateway import observing, openapi, request_ids
from trimtab.gateway.answer import Caller, caller_of, question
from trimtab.gateway.exchange import Exchange
from trimtab.gateway.exposition import CONTENT_TYPE, exposition
from trimtab.gateway.keys import Key, authenticate
from trimtab.gateway.rows import Gateway, no_journal
from trimtab.gateway.shapes import (
    Asked,
    Fault,
    chat,
    completions,
    embeddings,
    feedback,
    predict,
    responses,
    scoring,
)
from trimtab.store.journal import FeedbackFrame

log = logging.getLogger("trimtab.gateway")

Action = Callable[[Gateway, Exchange, str], None]


class _Known(msgspec.Struct, frozen=True):
    """What was made of a head: good for as long as the key in it is."""

    action: Action
    key: Key | None
    caller: Caller
    good: Callable[[], bool]
    """Whether the keys still say the same."""


def answer(gateway: Gateway, exchange: Exchange) -> None:
    """Answer any request. Errors come in the envelope of the path; a bug is a 500, logged."""
    request_id = request_ids.new()
    gateway.meter.arrived()
    try:
        if exchange.fault is not None:
            raise exchange.fault
        known: _Known | None = exchange.head.known
        if known is None or not known.good():
            known = exchange.head.known = _know(gateway, exchange)
        exchange.key = known.key
        known.action(gateway, exchange, request_id)
    except Fault as fault:
        _reply_fault(exchange, request_id, fault)
    except Exception:
        log.exception("the gateway failed", extra={"request_id": request_id, "path": _label(exchange)})
        _reply_fault(exchange, request_id, Fault(500, "internal_error", "the gateway failed; its log says why"))


def left(gateway: Gateway, exchange: Exchange) -> None:
    """Count a request that was answered, or given up."""
    gateway.meter.left(_label(exchange), exchange.status)


def _know(gateway: Gateway, exchange: Exchange) -> _Known:
    """Read a head. Raises Fault 400, 401, 403, 404 or 405."""
    exchange.key, good = authenticate(gateway.keys, exchange.path, exchange.headers)
    action = _action(exchange)
    return _Known(action, exchange.key, caller_of(exchange), good)


def _ask(read: Callable[[bytes], Asked], gateway: Gateway, exchange: Exchange, request_id: str) -> None:
    question(gateway, exchange, exchange.head.known.caller, request_id, read(exchange.body))


def _predict(gateway: Gateway, exchange: Exchange, request_id: str) -> None:
    _ask(scoring.predict if _scores(gateway) else predict.asked, gateway, exchange, request_id)


def _invocations(gateway: Gateway, exchange: Exchange, request_id: str) -> None:
    question(gateway, exchange, exchange.head.known.caller, request_id, _rows(gateway, exchange))


def _rows(gateway: Gateway, exchange: Exchange) -> Asked:
    return scoring.asked(exchange.body, exchange.headers.get(b"content-type", b""), _scores(gateway))


def _scores(gateway: Gateway) -> bool:
    """Whether an MLflow model is served, and not a language model."""
    snapshot = gateway.routes.snapshot
    return snapshot is not None and snapshot.champion is not None and snapshot.champion.protocol == "mlflow"


def _endpoint(gateway: Gateway, exchange: Exchange, request_id: str) -> None:
    """Databricks' path of an endpoint: its name is the model's, whatever the body says."""
    asked = _rows(gateway, exchange)
    asked.named.model = unquote(exchange.path.split("/")[2])
    question(gateway, exchange, exchange.head.known.caller, request_id, asked)


def _feedback(gateway: Gateway, exchange: Exchange, request_id: str) -> None:
    at_ms = time.time_ns() // 1_000_000
    frames = [
        FeedbackFrame(
            feedback_id=secrets.token_hex(16),
            at_ms=at_ms,
            request_id=item.request_id,
            client_request_id=None if item.client_request_id is None else str(item.client_request_id),
            name=item.name,
            value=item.value,
            source=item.source,
        )
        for item in feedback.told(exchange.body)
    ]
    try:
        for frame in frames:
            gateway.journal.feedback(frame)
    except OSError as error:
        raise no_journal(error) from error
    _reply_json(exchange, request_id, 202, {"feedback_ids": [frame.feedback_id for frame in frames]})


def _healthz(gateway: Gateway, exchange: Exchange, request_id: str) -> None:
    _reply_json(exchange, request_id, 200, {"status": "alive"})


def _readyz(gateway: Gateway, exchange: Exchange, request_id: str) -> None:
    snapshot = gateway.routes.snapshot
    if snapshot is None or snapshot.champion is None:
        raise Fault(503, "no_champion", "no champion is routed yet")
    try:
        with tempfile.TemporaryFile(dir=gateway.journal_folder) as probe:
            probe.write(bytes(4096))
    except OSError as error:
        raise Fault(503, "journal_unavailable", f"the journal is not writable: {error.strerror or error}") from error
    version = f"{snapshot.champion.model}/{snapshot.champion.version}"
    _reply_json(exchange, request_id, 200, {"status": "ready", "champion": version})


def _metrics(gateway: Gateway, exchange: Exchange, request_id: str) -> None:
    exchange.reply(200, exposition(gateway.meter), content_type=CONTENT_TYPE)


def _models(gateway: Gateway, exchange: Exchange, request_id: str) -> None:
    _reply_json(exchange, request_id, 200, {"object": "list", "data": [*_served(gateway).values()]})


def _model(gateway: Gateway, exchange: Exchange, request_id: str) -> None:
    name, served = unquote(exchange.path.removeprefix("/v1/models/")), _served(gateway)
    if name not in served:
        raise Fault(404, "model_not_found", f"the model {name!r} does not exist here; see /v1/models", "model")
    _reply_json(exchange, request_id, 200, served[name])


def _served(gateway: Gateway) -> dict[str, dict[str, Any]]:
    snapshot = gateway.routes.snapshot
    names = [snapshot.model, f"{snapshot.model}@champion"] if snapshot and snapshot.champion else []
    return {name: {"id": name, "object": "model", "created": 0, "owned_by": "trimtab"} for name in names}


def _openapi(gateway: Gateway, exchange: Exchange, request_id: str) -> None:
    exchange.reply(200, openapi.document(), b"x-request-id: %b\r\n" % request_id.encode())


def _root(gateway: Gateway, exchange: Exchange, request_id: str) -> None:
    if gateway.dashboard:
        location = b"x-request-id: %b\r\nlocation: %b\r\n" % (request_id.encode(), gateway.dashboard.encode())
        exchange.reply(307, b"", location)
        return
    paths = sorted(path for path in _ACTIONS if path != "/")
    _reply_json(exchange, request_id, 200, {"name": "trimtab gateway", "paths": paths})


def _reply_json(exchange: Exchange, request_id: str, status: int, value: dict[str, Any]) -> None:
    exchange.reply(status, msgspec.json.encode(value), b"x-request-id: %b\r\n" % request_id.encode())


def _reply_fault(exchange: Exchange, request_id: str, fault: Fault) -> None:
    headers = b"x-request-id: %b\r\n%b" % (request_id.encode(), fault.headers)
    if fault.status == 405:
        headers += b"allow: %b\r\n" % _found(exchange.path)[0].encode()
    observing.refused(request_id, _label(exchange), fault.status, fault.code)
    exchange.reply(fault.status, fault.body(exchange.path), headers)


_ACTIONS: dict[str, tuple[str, Action]] = {
    "/v1/chat/completions": ("POST", partial(_ask, chat.asked)),
    "/v1/completions": ("POST", partial(_ask, completions.asked)),
    "/v1/responses": ("POST", partial(_ask, responses.asked)),
    "/v1/embeddings": ("POST", partial(_ask, embeddings.asked)),
    "/predict": ("POST", _predict),
    "/invocations": ("POST", _invocations),
    # Databricks: OpenAI's clients have {host}/serving-endpoints as their base URL there.
    "/serving-endpoints/chat/completions": ("POST", partial(_ask, chat.asked)),
    "/serving-endpoints/completions": ("POST", partial(_ask, completions.asked)),
    "/serving-endpoints/responses": ("POST", partial(_ask, responses.asked)),
    "/serving-endpoints/embeddings": ("POST", partial(_ask, embeddings.asked)),
    "/serving-endpoints/{name}/invocations": ("POST", _endpoint),
    "/feedback": ("POST", _feedback),
    "/healthz": ("GET", _healthz),
    "/readyz": ("GET", _readyz),
    "/metrics": ("GET", _metrics),
    "/v1/models": ("GET", _models),
    "/v1/models/{model}": ("GET", _model),
    "/openapi.json": ("GET", _openapi),
    "/": ("GET", _root),
}


def _found(path: str) -> tuple[str, Action]:
    """Method and function of a path, {names} in it included. Raises Fault 404."""
    known = _pattern(path)
    if known not in _ACTIONS:
        raise Fault(404, "not_found", f"there is nothing at {path}")
    return _ACTIONS[known]


def _pattern(path: str) -> str:
    """The path as it stands in the table, where names stand in it."""
    parts = path.split("/")
    if len(parts) == 4 and parts[1] == "serving-endpoints" and parts[2] and parts[3] == "invocations":
        return "/serving-endpoints/{name}/invocations"
    if len(parts) > 3 and parts[1:3] == ["v1", "models"] and parts[3]:
        return "/v1/models/{model}"
    return path


def _label(exchange: Exchange) -> str:
    """The path as counted and logged: one of ours. What else clients try must not make series, nor reach the log."""
    path = exchange.head.path
    if path in _ACTIONS:
        return path
    known = _pattern(path)
    return known if known in _ACTIONS else "other"


def _action(exchange: Exchange) -> Action:
    """The function for a path. Raises Fault 404 or 405."""
    method, action = _ACTIONS.get(exchange.path) or _found(exchange.path)
    if exchange.method != method and (exchange.method, method) != ("HEAD", "GET"):
        raise Fault(405, "method_not_allowed", f"{exchange.path} takes {method}, not {exchange.method}")
    return action
