"""Callers stay where they are put, and a request sees one version even while the champion changes."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx
import msgspec
from gateway_place import Place, chat, entity, until
from hypothesis import given
from hypothesis import strategies as st

from trimtab.gateway.routes import Entity, RoutesFile, Snapshot, Template, bucket, choose
from trimtab.records.gateway import Routes, ServedEntity

CHAMPION, CANARY = Entity("m", 1, "h:1", Template()), Entity("m", 2, "h:2", Template())


def routed(caller: str, percent: float, revision: str = "r") -> str:
    chosen = choose(Snapshot("m", revision, CHAMPION, CANARY, percent), caller)
    assert chosen is not None
    return chosen[1]


@given(st.text(), st.floats(0, 100), st.floats(0, 100), st.text())
def test_growing_the_canary_only_adds_callers(caller: str, one: float, other: float, revision: str) -> None:
    less, more = sorted((one, other))
    if routed(caller, less) == "canary":
        assert routed(caller, more, revision) == "canary"
    assert routed(caller, 0) == "champion"
    assert routed(caller, 100) == "canary"


@given(st.integers(), st.floats(1, 99))
def test_the_canary_gets_its_share(seed: int, percent: float) -> None:
    n = 2000
    got = sum(bucket("m", f"{seed}-{i}") < percent for i in range(n))
    spread = (n * percent / 100 * (1 - percent / 100)) ** 0.5
    assert abs(got - n * percent / 100) < 6 * spread  # six standard deviations of a fair draw


def test_two_models_try_their_canaries_on_different_callers() -> None:
    callers = [f"c{i}" for i in range(2000)]
    both = sum(bucket("a", c) < 50 and bucket("b", c) < 50 for c in callers)
    assert 400 < both < 600


def test_the_file_is_the_record_that_the_supervisor_writes(tmp_path: Path) -> None:
    template = {
        "messages": [],
        "params": {"seed": 1},
        "masks": [],
        "average": None,
        "rotations": [],
        "thresholds": None,
    }
    served = ServedEntity(model="m", version=3, address="h:1", template=template)
    record = Routes(model="m", revision="r", champion=served, canary=served, canary_percent=5)
    file = tmp_path / "routes.json"
    file.write_text(record.model_dump_json())
    routes = RoutesFile(file)
    assert routes.refresh()
    assert not routes.refresh()
    assert Routes.model_validate_json(msgspec.json.encode(routes.snapshot)) == record


def test_canary_callers_are_the_ones_the_hash_says(place: Place) -> None:
    one, two = place.engine("--reply", "v1"), place.engine("--reply", "v2")
    place.route(entity(one, 1), entity(two, 2), percent=50)
    place.gateway()
    with httpx.Client(base_url=place.url) as http:
        for caller in [f"user-{i}" for i in range(20)]:
            route = "canary" if bucket("m", caller) < 50 else "champion"
            for said in (
                http.post("/predict", json={"input": "x", "user": caller}),
                http.post("/predict", json={"input": "x"}, headers={"x-trimtab-caller": caller}),
            ):
                assert said.headers["x-trimtab-route"] == route
                assert said.json()["output"] == ("v2" if route == "canary" else "v1")
                assert place.closed()[said.headers["x-request-id"]].caller == caller


def test_a_flip_under_load_fails_no_request_and_mixes_no_answer(place: Place) -> None:
    engines = {v: place.engine("--reply", f"this is v{v}", "--chunk-ms", "1") for v in (1, 2)}
    place.route(entity(engines[1], 1))
    place.gateway()
    said: list[tuple[int, str, str, str]] = []
    flipping = threading.Event()
    flipping.set()

    def ask(streamed: bool) -> None:
        with httpx.Client(base_url=place.url, timeout=30) as http:
            while flipping.is_set():
                answer = http.post("/v1/chat/completions", json=chat("x", stream=streamed))
                text = answer.text if streamed else answer.json()["choices"][0]["message"]["content"]
                headers = answer.headers
                said.append((answer.status_code, headers["x-request-id"], headers["x-trimtab-version"], text))

    threads = [threading.Thread(target=ask, args=(i % 2 == 0,)) for i in range(4)]
    for thread in threads:
        thread.start()
    try:
        for flip in range(10):
            version = 2 - flip % 2
            place.route(entity(engines[version], version))
            # A few answers by the new version: at least one request of each thread spans every flip.
            until(lambda v=version: len(said) > 8 and all(one[2] == f"m/{v}" for one in said[-8:]))
    finally:
        flipping.clear()
        for thread in threads:
            thread.join()
    rows = place.closed()
    assert {status for status, *_ in said} == {200}
    assert len(rows) == len(said)
    assert place.opened().keys() == rows.keys()
    for _, request_id, header, text in said:
        row = rows[request_id]
        assert header == f"m/{row.version}"
        assert row.output_text == f"this is v{row.version}"
        assert f"v{row.version}" in text
        assert f"v{3 - row.version}" not in text
