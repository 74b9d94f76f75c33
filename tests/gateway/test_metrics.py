"""/metrics says what the journal says, in a form that Prometheus' own parser reads, and stays small whatever comes."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import httpx
from gateway_place import Place, chat, entity, until
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

import plain_http
from running import kill
from trimtab.gateway.exposition import exposition
from trimtab.gateway.meter import CELLS, MOST_PATHS, MOST_VERSIONS, Meter
from trimtab.store import journal

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Samples:
    """Every sample, by name and labels. The parser refuses families that are torn apart or without a type."""
    families = list(text_string_to_metric_families(text))
    assert {family.type for family in families} <= {"counter", "gauge", "histogram"}
    samples = [sample for family in families for sample in family.samples]
    found = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
    assert len(found) == len(samples), "a series is there twice"
    return found


def scrape(place: Place) -> Samples:
    said = plain_http.get(f"{place.url}/metrics")
    assert said.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parsed(said.text)


def total(samples: Samples, name: str, **labels: str) -> float:
    return sum(value for (n, has), value in samples.items() if n == name and labels.items() <= dict(has).items())


def test_every_row_is_counted_once_under_its_own_labels(place: Place) -> None:
    place.route(entity(place.engine()), entity(place.engine(), 2), 50)
    place.gateway("--deadline", "2")  # nobody starts the engine again that is stopped below
    with httpx.Client(base_url=place.url) as http:
        for n in range(12):
            http.post("/predict", json={"input": "a b c"}, headers={"x-trimtab-caller": str(n)})
            http.post("/v1/chat/completions", json=chat("one two", stream=True), headers={"x-trimtab-caller": str(n)})
        place.children[0].stop()
        for n in range(4):
            http.post("/predict", json={"input": "too late"}, headers={"x-trimtab-caller": str(n)})
    rows = place.closed().values()
    written = sum(path.stat().st_size for path in journal.segments(place.journal))
    samples = until(lambda: (s := scrape(place))[("trimtab_journal_bytes_total", frozenset())] == written and s)
    expected = Counter((r.path, str(r.status_code), str(r.version), r.route, r.outcome) for r in rows)
    assert len(expected) >= 5
    for (path, status, version, route, outcome), n in expected.items():
        labels = {"path": path, "status": status, "version": version, "route": route, "outcome": outcome}
        assert total(samples, "trimtab_requests_total", **labels) == n
    assert total(samples, "trimtab_requests_total") == len(rows) == 28
    for version in ("1", "2"):
        mine = [row for row in rows if str(row.version) == version]
        assert total(samples, "trimtab_input_tokens_total", version=version) == sum(r.input_tokens or 0 for r in mine)
        assert total(samples, "trimtab_output_tokens_total", version=version) == sum(r.output_tokens or 0 for r in mine)
        spent = total(samples, "trimtab_request_duration_seconds_sum", version=version) * 1000
        assert abs(spent - sum(row.duration_ms for row in mine)) <= len(mine)
        for name in ("request_duration", "overhead", "time_to_first_token"):
            counted = total(samples, f"trimtab_{name}_seconds_count", version=version)
            assert counted == len([r for r in mine if name != "time_to_first_token" or r.path != "/predict"])
            assert counted == total(samples, f"trimtab_{name}_seconds_bucket", version=version, le="+Inf")
    assert total(samples, "trimtab_requests_in_flight") == 1  # the scrape itself
    assert total(samples, "trimtab_http_requests_total", path="/predict") == 16
    assert total(samples, "trimtab_worker_resident_memory_bytes") > 1e6


def test_what_strangers_ask_for_makes_no_series(place: Place) -> None:
    place.gateway()
    before = scrape(place)
    with httpx.Client(base_url=place.url) as http:
        for n in range(50):
            http.get(f'/{n}"\\%0a')
            http.request("DELETE", "/predict")
    after = scrape(place)
    new = [dict(labels) for name, labels in after.keys() - before.keys() if name == "trimtab_http_requests_total"]
    assert {"path": "other", "status": "404"} in new
    assert len(new) == 3  # other 404, /predict 405, the first scrape
    assert total(after, "trimtab_http_requests_total", path="other") == 50


@given(st.lists(st.tuples(st.text(max_size=5), st.integers(0, 5), st.floats(0, 100)), max_size=30))
def test_any_label_is_told_as_it_is_and_buckets_add_up(seen: list[tuple[str, int, float]]) -> None:
    meter = Meter()
    for model, version, seconds in seen:
        meter.closed(("/predict", 200, model, version, "champion", "ok"), seconds, 0.0, seconds, 1, 2, 1)
    samples = parsed(exposition(meter).decode())
    for (model, version), n in Counter((model, version) for model, version, _ in seen).items():
        labels = {"model": model, "version": str(version)}
        assert total(samples, "trimtab_requests_total", **labels) == n
        durations = sorted(s for m, v, s in seen if (m, v) == (model, version))
        for le in (0.1, 1.0, 60.0):
            below = len([s for s in durations if s <= le])
            assert total(samples, "trimtab_request_duration_seconds_bucket", **labels, le=str(le)) == below


def test_paths_and_versions_without_end_stay_within_the_file(tmp_path: Path) -> None:
    meter = Meter(tmp_path)
    n = 6 * MOST_VERSIONS
    for number in range(n):
        for status in range(200, 260):
            path = f"/{number % (2 * MOST_PATHS)}"
            meter.closed((path, status, "m", number, "champion", "ok"), 0.1, 0.1, None, 1, 1, 1)
            meter.arrived()
            meter.left(path, status)
    samples = parsed(exposition(meter).decode())
    assert len(samples) <= CELLS
    versions = {dict(labels).get("version") for _, labels in samples} - {None}
    assert len(versions) == MOST_VERSIONS + 1
    assert total(samples, "trimtab_request_duration_seconds_count") == n * 60
    assert total(samples, "trimtab_request_duration_seconds_count", version="other") == (n - MOST_VERSIONS) * 60
    assert (tmp_path / "0.cells").stat().st_size == CELLS * 8


def test_a_full_disk_fails_no_request_and_loses_no_count(tmp_path: Path) -> None:
    meter = Meter(tmp_path)
    good = os.dup(meter._names_fd)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, meter._names_fd)
    meter.closed(("/predict", 200, "m", 1, "champion", "ok"), 0.1, 0.1, None, 1, 1, 1)
    os.dup2(good, meter._names_fd)
    meter.sync(1, 10, 0)
    other = parsed(exposition(Meter(tmp_path, 1)).decode())
    assert total(other, "trimtab_requests_total") == 1
    assert total(other, "trimtab_journal_bytes_total") == 10
    for fd in (good, full):
        os.close(fd)


def test_each_worker_tells_the_sum_and_one_that_is_killed_takes_nothing_with_it(place: Place) -> None:
    place.route(entity(place.engine()))
    shared = ["--metrics", str(place.folder / "metrics")]
    first = place.gateway(*shared, "--worker", "0")
    urls = [place.url]
    place.gateway(*shared, "--worker", "1")
    urls.append(place.url)
    for n in range(10):
        assert plain_http.post(f"{urls[n % 2]}/predict", json={"input": "x"}).status_code == 200
    place.url = urls[0]
    assert total(scrape(place), "trimtab_requests_total") == 10
    kill(first.process)
    place.url = urls[1]
    left = scrape(place)
    assert total(left, "trimtab_requests_total") == 10
    assert (total(left, "trimtab_worker_up", worker="0"), total(left, "trimtab_worker_up", worker="1")) == (0, 1)
    assert total(left, "trimtab_requests_in_flight") == 1
    place.gateway(*shared, "--worker", "0")
    plain_http.post(f"{place.url}/predict", json={"input": "x"})
    again = scrape(place)
    assert total(again, "trimtab_requests_total") == 11
    assert total(again, "trimtab_request_duration_seconds_count") == 11
    assert total(again, "trimtab_worker_up") == 2
