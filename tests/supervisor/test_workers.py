"""Several workers on one port, with TLS: one is killed under load, the others answer, every answer is one row."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator

import httpx
import psutil
import pytest
import trustme
from prometheus_client.parser import text_string_to_metric_families

import place
from otlp_collector import Collector
from running import Desk, desk, kill, until
from trimtab.errors import Fixable
from trimtab.project import load
from trimtab.store.drain import drain
from trimtab.store.lake import Lake
from trimtab.supervisor import up
from trimtab.trace_context import span_of

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(180)]
FILE = f"{place.FILE}endpoint: {{workers: 3}}\n"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Desk]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_LOG_FORMAT", "json")
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        folder, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        authority.cert_pem.write_to_path(folder / "authority.pem")
        issued.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
        for variable in ("TRIMTAB_TLS_CERT", "TRIMTAB_TLS_KEY"):
            patch.setenv(variable, str(folder / "server.pem"))
        patch.setenv("SSL_CERT_FILE", str(folder / "authority.pem"))  # whom httpx trusts
        with desk(tmp_path_factory.mktemp("workers"), FILE) as one:
            until(lambda: len(workers(one)) == 3)
            until(lambda: responds(f"http://127.0.0.1:{one.settings.dashboard_port}/api/status"))
            yield one


def responds(url: str) -> bool:
    try:
        return httpx.get(url).status_code < 500
    except httpx.HTTPError:
        return False


def workers(served: Desk) -> list[psutil.Process]:
    children = psutil.Process(served.up.pid).children()
    return [one for one in children if one.status() != psutil.STATUS_ZOMBIE and "trimtab.gateway" in one.cmdline()]


def counted(served: Desk) -> int:
    """Rows by /metrics of whichever worker answers."""
    text = httpx.get(f"{served.url}/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return int(sum(sample.value for sample in families["trimtab_requests"].samples if sample.labels["status"] == "200"))


def rows(served: Desk) -> dict[str, str]:
    """Outcome of each row by request id."""
    drain(served.settings)
    lake = Lake(served.settings)
    found = lake.sample(0, lake.count(), ["databricks_request_id", "outcome"])
    assert found["databricks_request_id"].is_unique().all()
    return dict(found.iter_rows())


def test_a_worker_that_is_killed_under_load_costs_only_what_it_was_answering(served: Desk) -> None:
    done, answered, broken = threading.Event(), list[str](), list[Exception]()
    before = workers(served)

    def client() -> None:
        while not done.is_set():
            try:  # a new connection each time, so that the kernel spreads them
                reply = served.http.post(f"{served.url}/predict", json={"input": "where is it?"})
            except httpx.TransportError as error:
                broken.append(error)
                continue
            assert reply.status_code == 200, reply.text
            answered.append(reply.headers["x-request-id"])

    clients = [threading.Thread(target=client) for _ in range(4)]
    for thread in clients:
        thread.start()
    try:
        until(lambda: len(answered) > 50)
        kill(before[1])
        at = len(answered)
        until(lambda: len(answered) > at + 50)  # the others answer, before or after it is back
        until(lambda: len(workers(served)) == 3)
        at = len(answered)
        until(lambda: len(answered) > at + 50)
    finally:
        done.set()
        for thread in clients:
            thread.join()
    assert served.up.poll() is None
    assert len(broken) <= 8  # what was with it, or on its way to it, in that moment
    found = until(lambda: (r := rows(served)) and set(answered) <= r.keys() and r)
    assert len(set(answered)) == len(answered)
    good = [request for request, outcome in found.items() if outcome == "ok"]
    assert set(answered) <= set(good)
    assert len(found) <= len(answered) + len(broken) + 5  # questions while it started
    assert counted(served) == len(good)


def test_every_process_logs_objects_and_no_question(served: Desk) -> None:
    served.ask("my cat Ferdinand is ill", "sk-planted-0123456789abcdef")
    served.child("trimtab.web").send_signal(signal.SIGKILL)
    until(lambda: "control ended with" in (served.settings.root / "up.log").read_text())
    until(served.answers)
    texts = {path.name: path.read_text() for path in served.settings.logs.glob("*.log") if "engine" not in path.name}
    assert {"gateway.log", "gateway-1.log", "gateway-2.log", "control.log"} <= texts.keys()
    warned = [line for line in (served.settings.root / "up.log").read_text().splitlines() if line.startswith("{")]
    assert any("ended with" in json.loads(line)["message"] for line in warned)
    for line in (line for text in texts.values() for line in text.splitlines()):
        assert json.loads(line)["message"]
    for text in (*texts.values(), *warned):
        assert "Ferdinand" not in text
        assert "sk-planted" not in text


def test_every_row_of_every_worker_is_one_span_though_the_control_process_was_killed(
    served: Desk, collector: Collector
) -> None:
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    body, headers = {"input": "where is it?"}, {"traceparent": f"00-{trace}-{parent}-01"}
    traced = httpx.post(f"{served.url}/predict", json=body, headers=headers, timeout=30).headers["x-request-id"]
    wanted = {span_of(request) for request in rows(served)}
    spans = until(lambda: (s := {one.span_id.hex(): one for one in collector.spans()}).keys() >= wanted and s)
    assert spans.keys() == wanted
    assert all(spans[one.span_id.hex()] == one for one in collector.spans())  # a kill may send some twice: the same
    mine = spans[span_of(traced)]
    assert (mine.trace_id.hex(), mine.parent_span_id.hex()) == (trace, parent)


def test_a_second_house_does_not_share_the_port_of_the_first(served: Desk) -> None:
    assert served.url.startswith("https://")
    with pytest.raises(Fixable, match=f"port {served.settings.port} cannot be had") as refused:
        up(served.settings, load(served.settings.root))
    assert "TRIMTAB_PORT" in refused.value.fix
