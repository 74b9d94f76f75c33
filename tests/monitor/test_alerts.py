"""An alert fires once per cause, is found again after a crash, reads like a sentence, and never stops the loop."""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.monitor import alerts
from trimtab.records.monitor import Alert, Cluster, DriftReport, Interval, QualityReport, Verdict, Window
from trimtab.records.project import Project

AT = datetime(2026, 3, 2, 14, 5, tzinfo=UTC)
INTERVAL = Interval(estimate=0.22, low=0.08, high=0.35, confidence=0.99, method="Newcombe")
CLUSTER = Cluster(
    terms=("battery", "recall", "swollen", "hot"),
    examples=("9f0c", "77ab"),
    n=24,
    share=0.24,
    share_reference=0.02,
    difference=INTERVAL,
    began_at=AT,
)


def project(*notify: str, on: tuple[str, ...] = ("input_drift", "quality")) -> Project:
    body = {"name": "desk", "model": {"base": "echo", "prompt": "p.md"}, "alerts": [{"on": on, "notify": notify}]}
    return Project.model_validate(body)


def report(verdict: Verdict, first: int = 0, clusters: tuple[Cluster, ...] = ()) -> DriftReport:
    window = Window(first=first, last=first + 100, start=AT, end=AT + timedelta(hours=1))
    return DriftReport(
        model="desk", at=AT, reference=window, current=window, test="MMD", statistic=0.01, p_value=0.001, alpha=0.01,
        n_reference=100, n_current=98, verdict=verdict, clusters=clusters,
    )  # fmt: skip


def due(reports: list[DriftReport], raised: list[Alert], file: Project | None = None) -> list[Alert]:
    return alerts.due(file or project("log"), "input_drift", 3, reports, raised, AT)


@given(st.lists(st.sampled_from(["ok", "breach", "insufficient"]), max_size=25))
def test_one_alert_for_each_run_of_breaches_however_often_one_looks(verdicts: list[Verdict]) -> None:
    reports = [report(verdict, 100 * i) for i, verdict in enumerate(verdicts)]
    raised: list[Alert] = []
    for seen in range(1, len(reports) + 1):
        cleared = [i for i, verdict in enumerate(verdicts[: seen - 1]) if verdict == "ok"]
        enough = reports[cleared[-1] if cleared else 0 : seen]
        assert due(enough, raised) == due(reports[:seen], raised)
        raised += due(enough, raised)
        assert due(enough, raised) == []
    decided = [verdict for verdict in verdicts if verdict != "insufficient"]
    runs = sum(now == "breach" and before != "breach" for before, now in zip(["ok", *decided], decided, strict=False))
    assert [alert.key for alert in raised] == [f"desk/input_drift/3/{n + 1}" for n in range(runs)]
    assert due(reports, []) == raised  # all at once, as after a crash


def test_only_listed_monitors_raise() -> None:
    assert due([report("breach")], [], project("log", on=("quality",))) == []


def test_the_drift_alert_tells_what_is_new_since_when_and_how_sure() -> None:
    second = CLUSTER.model_copy(update={"terms": (), "share": 0.1})
    (alert,) = due([report("breach", 300, (CLUSTER, second))], [])
    assert alert.title == (
        "desk: two new topics: battery, recall, swollen (24% of requests, from 14:05 UTC); "
        "a group without words of its own (10% of requests, from 14:05 UTC)"
    )
    for part in (
        "Requests 300 to 399",
        "MMD",
        "p = 0.001",
        "98 against",
        "8.0 to 35.0 points",
        "`trimtab explain 77ab`",
        "02 Mar",
    ):
        assert part in alert.body
    assert alert.report_key == "desk/3/300"
    (vague,) = due([report("breach")], [])
    assert "without a single topic" in vague.title


def test_the_quality_alert_tells_the_share_the_interval_and_what_is_unknown() -> None:
    window = Window(first=10, last=90, start=AT, end=AT + timedelta(days=1))
    bad = QualityReport(
        model="desk", at=AT, window=window, field="*", n=60, minimum=0.85, verdict="breach",
        value=Interval(estimate=0.5, low=0.36, high=0.64, method="exact"), unknown_labels={"intent=recall": 12},
    )  # fmt: skip
    (alert,) = alerts.due(project("log"), "quality", 3, [bad], [], AT)
    assert alert.title == "desk: accuracy of version 3 is 50%, below 85% (at most 64%)"
    for part in ("60 labelled requests, 10 to 89", "36.0% to 64.0%", "does not know: intent=recall (12)", "03 Mar"):
        assert part in alert.body


@pytest.fixture
def webhook() -> Iterator[tuple[str, queue.Queue[dict]]]:
    posted: queue.Queue[dict] = queue.Queue()

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204 if self.path == "/ok" else 500)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Endpoint) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", posted
        server.shutdown()


def finish() -> None:
    for thread in threading.enumerate():
        if thread.name == "trimtab-webhook":
            thread.join(30)


def test_a_webhook_is_sent_the_alert_once(webhook: tuple[str, queue.Queue[dict]]) -> None:
    (alert,) = due([report("breach", 0, (CLUSTER,))], [])
    target = f"webhook:{webhook[0]}/ok"
    alerts.notify(project(target, target), alert)
    finish()
    assert Alert.model_validate(webhook[1].get(timeout=30)) == alert
    assert webhook[1].empty()


@pytest.mark.parametrize("base", ["http://127.0.0.1:9", "refuses"])
def test_a_webhook_that_fails_is_logged_without_its_secret_path(
    base: str, webhook: tuple[str, queue.Queue[dict]], caplog: pytest.LogCaptureFixture
) -> None:
    (alert,) = due([report("breach")], [])
    url = webhook[0] if base == "refuses" else base
    with caplog.at_level(logging.WARNING):
        alerts.notify(project("log", f"webhook:{url}/s3cret"), alert)
        finish()
    levels = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert levels[0] == ("WARNING", f"alert {alert.key}: {alert.title}")
    assert levels[1][0] == "ERROR"
    assert "127.0.0.1" in levels[1][1]
    assert "s3cret" not in caplog.text
