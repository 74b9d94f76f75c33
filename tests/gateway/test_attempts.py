"""What fails upstream is tried again, elsewhere, or not at all; nobody waits longer than he said, and the row tells."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import Any

import httpx
import pytest
from faulty import Deed, Faulty, hosted
from gateway_place import Place, chat, until

import plain_http

BUSY: Deed = (503, {}, "no capacity")
PRICE = {"input": 2, "cached_input": 1, "cache_write": 2, "output": 4}
Serve = Callable[..., Faulty]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[Faulty] = []

    def start(*script: Deed, **more: Any) -> Faulty:
        servers.append(Faulty(*script, **more))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def ask(place: Place, **headers: str) -> httpx.Response:
    return plain_http.post(f"{place.url}/predict", json={"input": "x"}, headers=headers, timeout=60)


def attempts(place: Place, said: httpx.Response) -> list[tuple[str, int | None]]:
    return [(one.upstream, one.status) for one in place.closed()[said.headers["x-request-id"]].attempts]


@pytest.mark.parametrize("dated", [False, True])
def test_a_busy_provider_is_asked_again_as_late_as_it_says(place: Place, serve: Serve, dated: bool) -> None:
    place.gateway()  # first: how long that takes must not count
    later = formatdate(time.time() + 3, usegmt=True) if dated else "1"
    provider = serve((429, {"Retry-After": later}, "slow down"))
    place.route(hosted(provider))
    until(lambda: plain_http.get(f"{place.url}/readyz").status_code == 200)
    said = ask(place)
    assert said.status_code == 200
    first, second = provider.heard
    assert second.at - first.at > 0.9
    assert attempts(place, said) == [("far:1", 429), ("far:1", 200)]


def test_a_provider_that_asks_for_more_patience_than_there_is_gets_none(place: Place, serve: Serve) -> None:
    provider = serve((429, {"Retry-After": "1800"}, "slow down"))
    place.route(hosted(provider))
    place.gateway()
    said, next_one = ask(place), ask(place)
    assert (said.status_code, said.headers["retry-after"]) == (503, "1800")
    assert next_one.json()["error"]["code"] == "upstream_resting"  # it was asked to be left alone
    assert 1700 < int(next_one.headers["retry-after"]) <= 1800
    assert len(provider.heard) == 1


@pytest.mark.parametrize("broken", [BUSY, "reset", (401, {}, "who are you?"), (404, {}, "no such deployment")])
def test_a_fallback_answers_and_the_row_names_both(place: Place, serve: Serve, broken: Deed) -> None:
    first, second = serve(then=broken), serve()
    place.route(hosted(first), fallback=[hosted(second, 2)], endpoint={"attempts": 1})
    place.gateway()
    said = ask(place)
    assert (said.status_code, said.headers["x-trimtab-route"], said.json()["version"]) == (200, "fallback", 2)
    row = place.closed()[said.headers["x-request-id"]]
    assert (row.version, row.route, row.outcome) == (2, "fallback", "ok")
    assert attempts(place, said) == [("far:1", broken[0] if isinstance(broken, tuple) else None), ("far:2", 200)]


def test_a_request_that_is_itself_at_fault_is_not_carried_round(place: Place, serve: Serve) -> None:
    first, second = serve(then=(400, {}, "too long a prompt")), serve()
    place.route(hosted(first), fallback=[hosted(second, 2)])
    place.gateway()
    assert ask(place).status_code == 400
    assert (len(first.heard), len(second.heard)) == (1, 0)


def test_a_canary_has_no_fallback_for_its_failures_are_evidence(place: Place, serve: Serve) -> None:
    champion, canary = serve(), serve(then=BUSY)
    place.route(hosted(champion), hosted(canary, 2), 100, fallback=[hosted(champion, 3)], endpoint={"attempts": 1})
    place.gateway()
    said = ask(place)
    assert (said.status_code, place.closed()[said.headers["x-request-id"]].version) == (503, 2)


def test_one_error_holds_every_attempt_and_no_key(place: Place, serve: Serve) -> None:
    """The provider repeats the key it was given, as some do; nobody else gets to see it."""
    first = serve(then=(500, {}, "cannot serve sk-very-secret"))
    second = serve(then=(503, {}, "sk-very-secret is over its quota"))
    place.route(hosted(first), fallback=[hosted(second, 2)], endpoint={"attempts": 2, "backoff": 0.01})
    place.gateway()
    said = ask(place)
    told = said.json()["error"]["attempts"]
    assert [(one["upstream"], one["status"]) for one in told] == attempts(place, said)
    assert attempts(place, said) == [("far:1", 500), ("far:1", 500), ("far:2", 503), ("far:2", 503)]
    assert all("[key]" in one["reason"] and one["ms"] >= 0 for one in told)
    assert first.heard[0].headers["authorization"] == "Bearer sk-very-secret"
    for file in [*place.journal.iterdir(), place.folder / "gateway.log"]:
        assert b"sk-very-secret" not in file.read_bytes()
    assert "sk-very-secret" not in said.text + str(said.headers)


def test_the_breaker_opens_after_failures_in_a_row_and_closes_after_one_success(place: Place, serve: Serve) -> None:
    provider = serve(BUSY, BUSY, BUSY)
    limits = {"attempts": 1, "breaker_failures": 2, "breaker_seconds": 1.0, "max_wait": 0.0}
    place.route(hosted(provider), endpoint=limits)
    place.gateway()
    codes = [ask(place).json()["error"]["code"] for _ in range(4)]
    assert codes == ["engine_busy", "engine_busy", "upstream_resting", "upstream_resting"]
    assert len(provider.heard) == 2
    until(lambda: ask(place).json()["error"]["code"] == "engine_busy")  # one may try when the rest is over, and fails
    assert ask(place).json()["error"]["code"] == "upstream_resting"
    assert len(provider.heard) == 3
    until(lambda: ask(place).status_code == 200)
    assert [ask(place).status_code for _ in range(3)] == [200] * 3


def test_a_short_rest_is_waited_for_when_there_is_nobody_else_to_ask(place: Place, serve: Serve) -> None:
    provider = serve(BUSY)
    place.route(hosted(provider), endpoint={"breaker_failures": 1, "breaker_seconds": 0.3, "backoff": 0.01})
    place.gateway()
    assert ask(place).status_code == 200
    assert provider.heard[1].at - provider.heard[0].at > 0.25


def test_who_finds_the_queue_full_is_told_so_and_when_to_come_back(place: Place, serve: Serve) -> None:
    provider = serve(then="hang")
    place.route(hosted(provider), endpoint={"concurrency": 1, "queue": 1})
    place.gateway()
    with ThreadPoolExecutor(2) as pool:
        inside = pool.submit(ask, place)
        until(lambda: provider.heard)
        waiting = pool.submit(ask, place)
        until(lambda: len(place.opened()) == 2)
        refused = ask(place)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_requests")
        assert int(refused.headers["retry-after"]) >= 1
        assert len(provider.heard) == 1
        provider.free.set()
        assert [inside.result().status_code, waiting.result().status_code] == [200, 200]
    assert place.closed()[refused.headers["x-request-id"]].status_code == 429
    assert ask(place).status_code == 200


def test_the_deadline_holds_over_all_attempts_and_is_passed_on(place: Place, serve: Serve) -> None:
    first, second = serve(then="hang"), serve(then="hang")
    place.route(hosted(first, first_byte_seconds=0.2), fallback=[hosted(second, 2)], endpoint={"attempts": 1})
    place.gateway()
    said = ask(place, **{"x-trimtab-deadline-ms": "900"})
    assert (said.status_code, said.json()["error"]["code"]) == (504, "engine_timeout")
    assert [one["upstream"] for one in said.json()["error"]["attempts"]] == ["far:1", "far:2"]
    left = [int(server.heard[0].headers["x-trimtab-deadline-ms"]) for server in (first, second)]
    assert 900 >= left[0] > left[1] > 0
    assert ask(place, **{"x-trimtab-deadline-ms": "soon"}).json()["error"]["code"] == "invalid_deadline"


@pytest.mark.parametrize(("deed", "asked"), [("cut", 1), ("early", 2)])
def test_nothing_is_tried_again_once_the_client_was_told_anything(
    place: Place, serve: Serve, deed: str, asked: int
) -> None:
    first, second = serve(then=deed), serve(then=deed)
    place.route(hosted(first), fallback=[hosted(second, 2)], endpoint={"attempts": 1})
    place.gateway()
    with httpx.stream("POST", f"{place.url}/v1/chat/completions", json=chat("x", stream=True), timeout=30) as said:
        if deed == "cut":
            lines = said.iter_lines()
            assert "half" in next(lines)
            until(lambda: "engine_unavailable" in next(lines))
        else:
            assert said.status_code == 502
    assert len(first.heard) + len(second.heard) == asked
    (row,) = until(lambda: place.closed().values())
    assert (row.outcome, row.status_code, len(row.attempts)) == ("error", 502, asked)


def test_a_kept_connection_that_the_provider_closed_costs_no_attempt(place: Place, serve: Serve) -> None:
    provider = serve("ok", "reset", "ok")
    place.route(hosted(provider), endpoint={"attempts": 1})
    place.gateway()
    for _ in range(2):
        said = ask(place)
        assert (said.status_code, attempts(place, said)) == (200, [])
    assert len(provider.heard) == 3


def test_what_a_provider_is_sent(place: Place, serve: Serve) -> None:
    """Base path, query, key header and model are the provider's; the caller's own key stays here."""
    provider = serve()
    azure = {"path": "/openai/deployments/d", "query": "?api-version=2024-10-21", "key_header": "api-key"}
    place.route(hosted(provider, **azure))
    place.gateway()
    body = {**chat("hello"), "max_tokens": 5, "model": "m"}
    plain_http.post(f"{place.url}/v1/chat/completions", json=body, headers={"authorization": "Bearer mine"})
    (heard,) = provider.heard
    assert heard.path == "/openai/deployments/d/chat/completions?api-version=2024-10-21"
    assert heard.headers["api-key"] == "sk-very-secret"
    assert "authorization" not in heard.headers
    asked = {"model": "gpt-x", "max_completion_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}
    assert heard.body == asked


def test_shadow_traffic_is_recorded_by_itself_within_its_budget_and_nobody_waits_for_it(
    place: Place, serve: Serve
) -> None:
    champion, shadow = serve(), serve("hang", "hang")
    limits = {"percent": 100, "requests_per_day": 2, "tokens_per_day": 1000, "usd_per_day": 1}
    place.route(hosted(champion), shadow=hosted(shadow, 9), endpoint={"shadow": limits})
    gateway = place.gateway()
    said = [ask(place) for _ in range(4)]
    assert {answer.json()["version"] for answer in said} == {1}  # answered while both copies hang
    until(lambda: len(shadow.heard) >= 2)
    shadow.free.set()
    copies = until(lambda: len(found := [r for r in place.closed().values() if r.route == "shadow"]) >= 2 and found)
    assert {copy.shadow_of for copy in copies} <= {answer.headers["x-request-id"] for answer in said}
    for copy in copies:
        assert (copy.version, copy.outcome, copy.output_text, copy.input_text) == (9, "ok", "fine", None)
        assert (copy.input_tokens, copy.output_tokens, copy.client_request_id) == (3, 1, None)
    gateway.stop()
    again = place.gateway()  # the day's budget is spent, whoever asks
    ask(place)
    again.stop()
    spent = next(place.journal.glob("shadow-*.spent")).read_bytes()
    assert [sum(column) for column in zip(*struct.iter_unpack("<IIQ", spent), strict=True)] == [2, 8, 0]
    assert len(shadow.heard) == 2


def test_no_copy_starts_beyond_what_copies_may_cost_in_a_day(place: Place, serve: Serve) -> None:
    shadow = serve()
    limits = {"percent": 100, "usd_per_day": 13e-9}  # a copy costs 3 x 2 + 1 x 4 nano-USD
    place.route(hosted(serve()), shadow=hosted(shadow, 9, price=PRICE), endpoint={"shadow": limits})
    place.gateway()
    for copies in (1, 2, 2):
        ask(place)
        until(lambda copies=copies: sum(row.route == "shadow" for row in place.closed().values()) == copies)
        time.sleep(0.05)  # the sum is written behind the row
    assert [row.cost_nano_usd for row in place.closed().values() if row.route == "shadow"] == [10, 10]
    assert len(shadow.heard) == 2


@pytest.mark.parametrize("lost", ["odd", (500, {}, "it broke", {"prompt_tokens": 3, "completion_tokens": 1})])
def test_tokens_of_an_attempt_that_failed_are_charged_at_the_price_of_who_used_them(
    place: Place, serve: Serve, lost: Deed
) -> None:
    dear = {name: 1000 * price for name, price in PRICE.items()}
    broken = serve(then=lost)
    place.route(
        hosted(broken, price=dear),
        fallback=[hosted(serve(), 2, price=PRICE)],
        endpoint={"attempts": 2, "backoff": 0.01},
    )
    place.gateway()
    said = ask(place)
    assert said.status_code == 200, said.text
    row = place.closed()[said.headers["x-request-id"]]
    assert (row.version, row.outcome, row.input_tokens, row.output_tokens) == (2, "ok", 3, 1)
    assert row.cost_nano_usd == 2 * 10_000 + 10


def test_rows_of_a_batch_that_were_answered_before_one_failed_are_charged(place: Place, serve: Serve) -> None:
    provider = serve("ok", BUSY)
    place.route(hosted(provider, price=PRICE), endpoint={"attempts": 2, "backoff": 0.01, "concurrency": 1})
    place.gateway()
    said = plain_http.post(f"{place.url}/invocations", json={"inputs": ["a", "b"]}, timeout=60)
    assert said.json() == {"predictions": ["fine", "fine"]}
    row = place.closed()[said.headers["x-request-id"]]
    assert (row.input_tokens, row.cost_nano_usd) == (6, 30)  # two answers, and one that nobody saw


def test_attempts_reach_the_inference_table(place: Place, serve: Serve) -> None:
    from trimtab import settings
    from trimtab.store.drain import drain
    from trimtab.store.lake import Lake

    where = settings.load(place.folder)
    where.home.mkdir()
    (where.home / "journal").symlink_to(place.journal)
    place.route(hosted(serve(BUSY)), endpoint={"backoff": 0.01})
    place.gateway()
    ask(place)
    ask(place)
    drain(where)
    tried, at_once = (row["request_tags"] for row in Lake(where).sample(0, 2).to_dicts())
    assert [one["status"] for one in json.loads(tried["attempts"])] == [503, 200]
    assert "attempts" not in at_once
