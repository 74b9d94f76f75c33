"""The caller's trace is kept in the row and goes on to the engine; what is not valid is not kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from gateway_place import Place
from hypothesis import given
from hypothesis import strategies as st

import plain_http
from trimtab.trace_context import parent_of, span_of

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{PARENT}-01"


@contextmanager
def listening_engine() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """An engine that keeps the headers it was sent."""
    heard: list[dict[str, str]] = []

    class Engine(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            heard.append({name.lower(): value for name, value in self.headers.items()})
            body = json.dumps({"choices": [{"message": {"content": "hi"}}]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Engine) as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield "{}:{}".format(*server.server_address[:2]), heard
        server.shutdown()


def ask(place: Place, **headers: str) -> str:
    said = plain_http.post(f"{place.url}/predict", json={"input": "x"}, headers=headers)
    assert said.status_code == 200, said.text
    return said.headers["x-request-id"]


@pytest.mark.parametrize("collector", ["", "http://127.0.0.1:9"])
def test_the_engine_gets_the_callers_trace_and_the_row_keeps_it(
    place: Place, collector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector)
    with listening_engine() as (address, heard):
        place.route({"model": "m", "version": 1, "address": address, "template": {"messages": [], "params": {}}})
        place.gateway()
        request = ask(place, traceparent=GIVEN, tracestate="vendor=1")
        alone = ask(place, tracestate="vendor=1", traceparent="00-nonsense")
        place.stop()
    first, second = heard
    rows = place.closed()
    assert (rows[request].traceparent, rows[alone].traceparent) == (GIVEN, None)
    assert first["tracestate"] == "vendor=1"
    assert "tracestate" not in second
    if collector:  # our span stands between the caller's and the engine's
        assert first["traceparent"] == f"00-{TRACE}-{span_of(request)}-01"
        assert second["traceparent"] == f"00-{alone}-{span_of(alone)}-01"
    else:
        assert first["traceparent"] == GIVEN
        assert "traceparent" not in second


def test_the_split_of_the_time_is_in_a_header_that_browsers_read(shared: Place) -> None:
    said = plain_http.post(f"{shared.url}/predict", json={"input": "x"})
    parts = dict(part.split(";dur=") for part in said.headers["server-timing"].split(", "))
    assert parts.keys() == {"gateway", "engine", "journal"}
    assert all(float(value) > 0 for value in parts.values())
    overhead = float(said.headers["x-trimtab-overhead-ms"])
    assert abs(float(parts["gateway"]) + float(parts["journal"]) - overhead) < 0.002  # three places each


@given(
    st.from_regex(rb"[0-9a-f]{2}", fullmatch=True),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=8, max_size=8),
    st.binary(min_size=1, max_size=1),
    st.sampled_from([b"", b"-", b"-more"]),
)
def test_a_traceparent_is_taken_exactly_when_the_standard_says_so(
    version: bytes, trace: bytes, parent: bytes, flags: bytes, more: bytes
) -> None:
    value = b"-".join([version, trace.hex().encode(), parent.hex().encode(), flags.hex().encode()])
    valid = version != b"ff" and any(trace) and any(parent) and (not more or version != b"00")
    assert parent_of({b"traceparent": value + more}) == (value.decode() if valid else None)


@given(st.binary(max_size=80))
def test_other_bytes_are_no_traceparent(value: bytes) -> None:
    assert parent_of({b"traceparent": value}) is None
