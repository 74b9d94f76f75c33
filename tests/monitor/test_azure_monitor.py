"""Rows reach Azure Monitor through Microsoft's own exporter, and nobody else hears of it.

Rung: the real exporter against a receiver of its protocol (`/v2.1/track`) on this machine.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import pytest
from azure.monitor.opentelemetry.exporter._configuration._state import get_configuration_manager
from azure.monitor.opentelemetry.exporter.statsbeat._state import is_statsbeat_enabled

from otlp_collector import Collector
from trimtab import settings as trimtab_settings
from trimtab.errors import Fixable
from trimtab.monitor.telemetry import Export, destinations
from trimtab.settings import Settings
from trimtab.store.drain import drain
from trimtab.store.journal import Closed, Journal

KEY = "11111111-2222-4333-8444-555555555555"


class Track:
    """Application Insights' ingestion endpoint, which can be told to be away."""

    def __init__(self) -> None:
        self.envelopes: list[dict[str, Any]] = []
        self.paths: set[str] = set()
        self.away = False
        track = self

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                body = gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body
                sent = json.loads(body)
                track.paths.add(self.path)
                if not track.away:
                    track.envelopes += sent
                answer = {"itemsReceived": len(sent), "itemsAccepted": len(sent), "errors": []}
                data = json.dumps(answer).encode()
                self.send_response(503 if track.away else 200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        self.thread = Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        port = self.server.server_address[1]
        self.connection = f"InstrumentationKey={KEY};IngestionEndpoint=http://127.0.0.1:{port}/"

    def data(self, kind: str) -> list[dict[str, Any]]:
        return [one["data"]["baseData"] for one in self.envelopes if one["data"]["baseType"] == kind]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def track(monkeypatch: pytest.MonkeyPatch) -> Iterator[Track]:
    track = Track()
    monkeypatch.setenv("APPLICATIONINSIGHTS_CONNECTION_STRING", track.connection)
    for name in ("STATSBEAT_DISABLED_ALL", "SDKSTATS_DISABLED", "CONTROLPLANE_DISABLED"):
        monkeypatch.delenv(f"APPLICATIONINSIGHTS_{name}", raising=False)  # and taken back after the test
        monkeypatch.setenv(f"APPLICATIONINSIGHTS_{name}", "false")
    yield track
    track.close()


@pytest.fixture
def place(tmp_path: Path) -> Settings:
    return trimtab_settings.load(tmp_path)


def ask(place: Settings, *numbers: int, **more: Any) -> None:
    """Rows in the lake, as the gateway and the drain leave them."""
    journal = Journal(place.journal)
    for number in numbers:
        row = Closed(
            request_id=f"{number + 1:032x}", client_request_id=None, caller="c", requester="k", model="desk", version=3,
            route="champion", path="/predict", at_ms=1_790_000_000_000 + number, request=b"Ferdinand",
            status_code=200, duration_ms=250, ttfb_ms=50, input_tokens=7, output_tokens=5, outcome="ok",
            input_text="Ferdinand", output_text="Ferdinand", response=b"Ferdinand",
        )  # fmt: skip
        journal.closed(msgspec.structs.replace(row, **more))
    journal.close()
    drain(place)


def test_rows_arrive_once_as_requests_and_metrics_with_what_the_alert_rules_ask_for(
    place: Settings, track: Track
) -> None:
    (to,) = destinations(place)
    export = Export(place, to)
    ask(place, 0, cost_nano_usd=1_500_000_000)
    export.send()
    track.away = True
    ask(place, 1, outcome="error", status_code=502, duration_ms=4000)
    export.send()
    assert len(track.data("RequestData")) == 1
    track.away = False
    (again,) = destinations(place)
    Export(place, again).send()  # another process: what was not taken is sent now, what was taken is not
    one, failed = track.data("RequestData")
    assert (one["success"], one["responseCode"], one["duration"]) == (True, "200", "0.00:00:00.250")
    assert (failed["success"], failed["responseCode"], failed["duration"]) == (False, "502", "0.00:00:04.000")
    assert one["properties"]["trimtab.route"] == "champion"
    assert float(one["properties"]["trimtab.cost_usd"]) == 1.5
    durations = [
        metric
        for data in track.data("MetricData")
        for metric in data["metrics"]
        if metric["name"] == "gen_ai.server.request.duration"
    ]
    assert [(metric["count"], metric["value"]) for metric in durations] == [(1, 0.25), (1, 4.0)]
    assert track.paths == {"/v2.1/track"}
    assert {envelope["iKey"] for envelope in track.envelopes} == {KEY}
    assert "Ferdinand" not in json.dumps(track.envelopes)
    kept = [path.read_text() for path in place.home.glob("telemetry*.json")]
    assert not any(KEY in text for text in kept)


def test_the_exporter_phones_nobody_and_stores_nothing(place: Settings, track: Track) -> None:
    (to,) = destinations(place)
    exporters: list[Any] = [to.spans, to.metrics]
    assert not is_statsbeat_enabled()
    assert get_configuration_manager() is None
    assert [(one.storage, one._storage_directory) for one in exporters] == [(None, None)] * 2


def test_a_collector_and_azure_monitor_are_served_side_by_side_at_their_own_pace(
    place: Settings, track: Track, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    exports = [Export(place, to) for to in destinations(place)]
    track.away = True
    ask(place, 0)
    for export in exports:
        export.send()
    assert len(collector.spans()) == 1
    track.away = False
    ask(place, 1)
    for export in exports:
        export.send()
    collector.close()
    assert (len(collector.spans()), len(track.data("RequestData"))) == (2, 2)


def test_what_is_no_connection_string_is_refused_without_being_quoted(
    place: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPLICATIONINSIGHTS_CONNECTION_STRING", "InstrumentationKey=secret-words")
    with pytest.raises(Fixable, match="is no connection string") as refused:
        destinations(place)
    assert "secret-words" not in str(refused.value)
