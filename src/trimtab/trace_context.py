"""W3C Trace Context: read what a caller sent, and say what goes on to an engine.

The boundary: header values in, header lines out; nothing is exported here. The gateway's own span has an id that
follows from the request id, so that the process which exports it later, and twice if it must, gives it the same one.
Source: https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Literal

_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_MOST_STATE = 512
"""Bytes of `tracestate` that are passed on; the standard asks for at least these."""


def parent_of(headers: Mapping[bytes, bytes]) -> str | None:
    """The caller's `traceparent` (55 characters), or None when there is none or it is not valid."""
    value = headers.get(b"traceparent")
    if value is None or not _TRACEPARENT.fullmatch(value):
        return None
    if value[:2] == b"00" and len(value) != 55:
        return None
    return value[:55].decode("ascii")


def span_of(request_id: str) -> str:
    """The id of the gateway's span for a request (16 hexadecimal digits)."""
    return request_id[16:]


Signal = Literal["TRACES", "METRICS"]
AZURE_MONITOR = "APPLICATIONINSIGHTS_CONNECTION_STRING"


def exported(signal: Signal) -> bool:
    """Whether this environment names anybody to export a signal to."""
    return over_otlp(signal) or to_azure_monitor(signal)


def over_otlp(signal: Signal) -> bool:
    """Whether it names a collector for a signal (OpenTelemetry's own variables; none is named unset)."""
    env = os.environ
    named = env.get("OTEL_EXPORTER_OTLP_ENDPOINT") or env.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    return bool(named) and _wanted(signal)


def to_azure_monitor(signal: Signal) -> bool:
    """Whether it names an Application Insights component (Azure Monitor's own variable)."""
    return bool(os.environ.get(AZURE_MONITOR)) and _wanted(signal)


def _wanted(signal: Signal) -> bool:
    env = os.environ
    return env.get("OTEL_SDK_DISABLED", "").lower() != "true" and env.get(f"OTEL_{signal}_EXPORTER") != "none"


def onward(headers: Mapping[bytes, bytes], parent: str | None, request_id: str, own_span: bool) -> bytes:
    """Header lines for the engine.

    `own_span`: the gateway's span is exported, and the engine's becomes its child; else the caller's context passes.
    """
    if own_span:
        trace, flags = (parent[3:35], parent[53:55]) if parent else (request_id, "01")
        lines = f"traceparent: 00-{trace}-{span_of(request_id)}-{flags}\r\n".encode()
    elif parent is not None:
        lines = f"traceparent: {parent}\r\n".encode()
    else:
        return b""
    state = headers.get(b"tracestate", b"")
    return lines + b"tracestate: %b\r\n" % state if parent and 0 < len(state) <= _MOST_STATE else lines
