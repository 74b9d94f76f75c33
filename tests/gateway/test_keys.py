"""Keys at a real gateway: who is let in, how much each may ask, and that the money is counted to the last nano-USD."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import re
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import psutil
import pytest
from gateway_place import Place, chat, entity, until

import plain_http
from trimtab.gateway import keys as gateway_keys
from trimtab.gateway.keys import Budget, Key, KeysFile
from trimtab.gateway.ledger import Ledger
from trimtab.records.keys import LiveKey, LiveKeys
from trimtab.responsible import identities
from trimtab.store import journal

PRICE = {"input": 1000, "cached_input": 1000, "cache_write": 1000, "output": 4000}
SLOTS = itertools.count()


def issue(*scopes: str, until_ms: int | None = None, **limits: Any) -> tuple[str, LiveKey]:
    """A new secret and its key."""
    public = secrets.token_hex(6)
    secret = f"tt-{public}-{secrets.token_hex(24)}"
    digest = hashlib.sha256(secret.encode()).hexdigest()
    fields = {"id": f"key-{public}", "slot": next(SLOTS), "scopes": scopes or ("predict",)} | limits
    return secret, LiveKey.model_validate(fields | {"sha256": (digest,), "until_ms": (until_ms,)})


def publish(place: Place, *keys: LiveKey) -> None:
    """Replace the keys file, as the supervisor does."""
    new = place.folder / "keys.new"
    new.write_text(LiveKeys(keys=keys).model_dump_json())
    new.replace(place.folder / "keys.json")


def guarded(place: Place, *args: str) -> str:
    """A gateway that asks for keys; its URL."""
    place.gateway("--keys", str(place.folder / "keys.json"), "--ledger", str(place.folder / "ledger.bin"), *args)
    return place.url


def ask(url: str, secret: str, text: str = "x", **more: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {secret}"}
    return plain_http.post(f"{url}/v1/chat/completions", json=chat(text, **more), headers=headers, timeout=30)


@contextmanager
def kept(url: str, secret: str) -> Iterator[Callable[[], httpx.Response]]:
    """Asks the same again and again, on one connection."""
    with httpx.Client(headers={"authorization": f"Bearer {secret}"}, timeout=30) as http:
        yield lambda: http.post(f"{url}/v1/chat/completions", json=chat("x"))


def spent(place: Place, key: LiveKey) -> int:
    """What the ledger says was spent in the period of the key's only budget."""
    (budget,) = key.budgets
    book = Ledger(place.folder / "ledger.bin")
    mine = Key(key.id, key.slot, frozenset(), [], [])
    found = book.spent(mine, Budget(budget.nano_usd, budget.per), time.time_ns())
    book.close()
    return found


# Who is let in


def test_without_a_key_only_health_is_told(place: Place) -> None:
    _, key = issue()
    publish(place, key)
    place.route(entity(place.engine()))
    url = guarded(place)
    for path in ("/healthz", "/readyz", "/"):
        assert plain_http.get(url + path).status_code == 200
    for method, path in (("POST", "/v1/chat/completions"), ("POST", "/predict"), ("POST", "/feedback")):
        refused = plain_http.request(method, url + path, json=chat("x"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        assert refused.headers["www-authenticate"] == "Bearer"
    for path in ("/v1/models", "/nowhere"):
        assert plain_http.get(url + path).status_code == 401
    refused = plain_http.post(f"{url}/invocations", json={"inputs": ["x"]})
    assert (refused.status_code, refused.json()["error_code"]) == (401, "UNAUTHENTICATED")
    assert not place.rows()


def test_a_key_is_taken_where_the_clients_put_it_and_only_its_id_is_recorded(place: Place) -> None:
    secret, key = issue("predict", "models")
    publish(place, key)
    place.route(entity(place.engine()))
    url = guarded(place)
    with openai.OpenAI(base_url=f"{url}/v1", api_key=secret, max_retries=0) as client:
        assert client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}]).choices
        assert client.models.list().data
    for name in ("api-key", "x-api-key"):
        assert plain_http.post(f"{url}/predict", json={"input": "x"}, headers={name: secret}).status_code == 200
    assert {row.requester for row in place.closed().values()} == {key.id}
    place.stop()
    files = [file for file in place.folder.rglob("*") if file.is_file()]
    assert len(files) > 4
    assert not [file for file in files if secret.encode() in file.read_bytes()]


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda secret: secret[:-1] + ("0" if secret[-1] != "0" else "1"),
        lambda secret: secret[:3] + "0" * 12 + secret[15:],
        lambda secret: secret + "0",
        lambda secret: secret.upper(),
        lambda secret: secret[3:],
        lambda secret: "tt-",
        lambda secret: f"{secret} {secret}",
    ],
)
def test_what_is_not_quite_a_key_is_none(spoilt: Any, guest: tuple[str, str]) -> None:
    url, secret = guest
    assert ask(url, secret).status_code == 200
    refused = ask(url, spoilt(secret))
    assert refused.status_code == 401
    assert "invalid_token" in refused.headers["www-authenticate"]
    assert secret not in refused.text


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A gateway and the secret of a key without limits."""
    place = Place(tmp_path_factory.mktemp("guest"))
    secret, key = issue()
    publish(place, key)
    place.route(entity(place.engine()))
    yield guarded(place), secret
    place.stop()


def test_a_scope_is_a_border(place: Place) -> None:
    issued = {scope: issue(scope) for scope in ("predict", "feedback", "models", "metrics", "admin")}
    publish(place, *(key for _, key in issued.values()))
    place.route(entity(place.engine()))
    url = guarded(place)
    paths = {"predict": "/predict", "feedback": "/feedback", "models": "/v1/models", "metrics": "/metrics"}
    for mine, (secret, key) in issued.items():
        for scope, path in paths.items():
            said = plain_http.post(url + path, content=b"{", headers={"api-key": secret})
            if mine in (scope, "admin"):
                assert said.status_code not in (401, 403)
            else:
                assert (said.status_code, said.json()["error"]["code"]) == (403, "insufficient_scope")
                assert scope in said.json()["error"]["message"]
                assert key.id in said.json()["error"]["message"]
    refused = plain_http.post(f"{url}/invocations", content=b"{", headers={"api-key": issued["models"][0]})
    assert refused.json()["error_code"] == "PERMISSION_DENIED"


def test_a_key_that_is_revoked_or_expires_is_out_at_once(place: Place) -> None:
    staying, leaving, expiring = issue(), issue(), issue(until_ms=int(time.time() * 1000) + 1500)
    publish(place, *(key for _, key in (staying, leaving, expiring)))
    place.route(entity(place.engine()))
    url = guarded(place)
    assert [ask(url, secret).status_code for secret, _ in (staying, leaving)] == [200, 200]
    with kept(url, leaving[0]) as left, kept(url, expiring[0]) as expired:  # connections whose head is remembered
        expired()
        assert [left().status_code, left().status_code] == [200, 200]
        publish(place, staying[1], expiring[1])
        until(lambda: ask(url, leaving[0]).status_code == 401)
        until(lambda: ask(url, expiring[0]).status_code == 401)
        assert [left().status_code, expired().status_code] == [401, 401]
    assert time.time() * 1000 >= expiring[1].until_ms[0]
    assert ask(url, staying[0]).status_code == 200


def test_a_broken_keys_file_lets_nobody_new_in_and_nobody_out(place: Place) -> None:
    secret, key = issue()
    place.route(entity(place.engine()))
    url = guarded(place)
    assert ask(url, secret).status_code == 401
    publish(place, key)
    until(lambda: ask(url, secret).status_code == 200)
    (place.folder / "keys.json").write_text("{")
    until(lambda: "keys file" in (place.folder / "gateway.log").read_text())
    assert ask(url, secret).status_code == 200


def test_every_hash_is_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch, place: Place) -> None:
    """A rotated key has two hashes, an unknown one none: a wrong secret is compared as often as a right one."""
    secret, key = issue()
    other = hashlib.sha256(b"older").hexdigest()
    publish(place, key.model_copy(update={"sha256": (*key.sha256, other), "until_ms": (None, None)}))
    file = KeysFile(place.folder / "keys.json")
    file.refresh()
    compared: list[bytes] = []

    def counted(one: bytes, two: bytes) -> bool:
        compared.append(one)
        return hmac_compare(one, two)

    hmac_compare = hmac.compare_digest
    monkeypatch.setattr(gateway_keys.hmac, "compare_digest", counted)
    found = []
    for presented in (secret, secret[:-4] + "0000", "tt-000000000000-" + secret[16:], "x"):
        compared.clear()
        found.append((file.find(presented.encode()) is not None, len(compared), {len(one) for one in compared}))
    assert found == [(True, 2, {32}), (False, 2, {32}), (False, 1, {32}), (False, 1, {32})]


# How much


def test_a_rate_of_requests_holds_and_says_when_to_come_back(place: Place) -> None:
    (secret, key), (free, another) = issue(requests={"count": 3, "seconds": 3600}), issue()
    publish(place, key, another)
    place.route(entity(place.engine()))
    url = guarded(place)
    said = [ask(url, secret) for _ in range(4)]
    assert [one.status_code for one in said] == [200, 200, 200, 429]
    assert [one.headers["x-ratelimit-remaining-requests"] for one in said] == ["2", "1", "0", "0"]
    assert {one.headers["x-ratelimit-limit-requests"] for one in said} == {"3"}
    error = said[3].json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("requests", "rate_limit_exceeded", None)
    assert 1000 < int(said[3].headers["retry-after"]) <= 1200
    assert re.fullmatch(r"(\d+m)?[\d.]+m?s", said[3].headers["x-ratelimit-reset-requests"])
    assert ask(url, free).status_code == 200
    assert "x-ratelimit-limit-requests" not in ask(url, free).headers
    mlflow = plain_http.post(f"{url}/invocations", json={"inputs": ["x"]}, headers={"api-key": secret})
    assert (mlflow.status_code, mlflow.json()["error_code"]) == (429, "REQUEST_LIMIT_EXCEEDED")
    assert len(place.closed()) == 5


def test_openais_client_waits_as_told_and_comes_through(place: Place) -> None:
    secret, key = issue(requests={"count": 2, "seconds": 1})
    publish(place, key)
    place.route(entity(place.engine()))
    with openai.OpenAI(base_url=f"{guarded(place)}/v1", api_key=secret, max_retries=4) as client:
        for _ in range(5):
            assert client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}]).choices


def test_tokens_are_reserved_with_the_longest_answer_and_settled_with_the_true_one(place: Place) -> None:
    secret, key = issue(tokens={"count": 1000, "seconds": 3600})
    publish(place, key)
    place.route(entity(place.engine(), max_tokens=48))
    url = guarded(place)
    refused = ask(url, secret, max_tokens=1000)
    assert (refused.status_code, refused.headers["x-should-retry"]) == (429, "false")
    assert "1000 tokens" in refused.json()["error"]["message"]
    first = ask(url, secret, "one two three", max_tokens=900)
    assert first.json()["usage"]["total_tokens"] == 8
    second = ask(url, secret, "one two three", max_tokens=900)
    assert second.status_code == 200
    remaining = [int(one.headers["x-ratelimit-remaining-tokens"]) for one in (first, second)]
    assert remaining[0] < 100
    assert 1000 - 900 - 100 < remaining[1] == remaining[0] - 8


def test_a_version_that_averages_reserves_for_every_question_and_is_settled_with_all_of_them(place: Place) -> None:
    average = identities.average_of(identities.pack("en"), "religion")
    plain = entity(place.engine(), max_tokens=100)
    voting = plain | {"template": plain["template"] | {"average": average.model_dump(mode="json")}}
    secret, key = issue(tokens={"count": 800, "seconds": 3600})
    rich, other = issue(tokens={"count": 5000, "seconds": 3600}, budgets=[{"nano_usd": 10**9, "per": "month"}])
    publish(place, key, other)
    place.route(voting | {"price": PRICE})
    url = guarded(place)
    refused = ask(url, secret, "A Muslim asks")
    assert refused.status_code == 429, "seven answers of 100 tokens, and seven prompts, are more than 800"
    told = ask(url, rich, "A Muslim asks")
    used = told.json()["usage"]
    assert used["prompt_tokens"] >= len(average.groups) * 5  # Be brief. A Muslim asks
    assert spent(place, other) == used["prompt_tokens"] * 1000 + used["completion_tokens"] * 4000
    place.route(plain | {"price": PRICE})
    until(lambda: ask(url, secret, "A Muslim asks").status_code == 200)


def test_streamed_and_plain_cost_the_same_and_the_ledger_is_the_sum_of_the_rows(place: Place) -> None:
    secret, key = issue(budgets=[{"nano_usd": 10**9, "per": "month"}])
    publish(place, key)
    place.route(entity(place.engine(), max_tokens=48) | {"price": PRICE})
    url = guarded(place)
    for more in ({}, {"stream": True}):
        assert ask(url, secret, "one two three", **more).status_code == 200
    rows = [*place.closed().values()]
    assert [row.cost_nano_usd for row in rows] == [5 * 1000 + 3 * 4000] * 2
    assert spent(place, key) == sum(row.cost_nano_usd for row in rows)


def test_a_cancelled_stream_costs_what_was_sent(place: Place) -> None:
    secret, key = issue(budgets=[{"nano_usd": 10**9, "per": "month"}])
    publish(place, key)
    place.route(entity(place.engine("--chunk-ms", "20"), max_tokens=400) | {"price": PRICE})
    url, headers = guarded(place), {"api-key": secret}
    body = chat(" ".join("word" for _ in range(300)), stream=True)
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers, timeout=30) as said:
        next(said.iter_lines())
    (row,) = until(lambda: place.closed().values())
    assert row.outcome == "cancelled"
    assert 1 <= row.output_tokens < 300
    assert row.cost_nano_usd > row.output_tokens * 4000  # and the prompt, which nobody has counted
    assert spent(place, key) == row.cost_nano_usd


def test_an_engine_that_never_spoke_costs_nothing(place: Place) -> None:
    secret, key = issue(budgets=[{"nano_usd": 10**9, "per": "month"}])
    publish(place, key)
    engine = place.engine()
    place.route(entity(engine, max_tokens=48) | {"price": PRICE})
    url = guarded(place, "--deadline", "1")  # nobody starts it again: there is nothing to wait for
    engine.process.kill()
    assert ask(url, secret).status_code == 502
    assert [row.cost_nano_usd for row in place.closed().values()] == [0]
    assert spent(place, key) == 0


def test_a_budget_needs_a_price(place: Place) -> None:
    secret, key = issue(budgets=[{"nano_usd": 10**9, "per": "day"}])
    publish(place, key)
    place.route(entity(place.engine()))
    refused = ask(guarded(place), secret)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_price")


def test_two_gateways_and_many_clients_never_spend_more_than_the_budget(place: Place) -> None:
    """Each answer costs 12 to 14 thousand; together they may cost 400 thousand, and all of it can be used."""
    secret, key = issue(budgets=[{"nano_usd": 400_000, "per": "month"}])
    publish(place, key)
    place.route(entity(place.engine("--delay-ms", "5"), max_tokens=3) | {"price": PRICE})
    urls = [guarded(place), guarded(place)]
    refusals = [httpx.Response(200)]

    def client(number: int) -> None:
        while True:
            said = ask(urls[number % 2], secret, "one two three", stream=number % 3 == 0)
            if said.status_code != 200:
                refusals.append(said)
                return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(client, range(8)))
    rows = [*place.closed().values()]
    total = sum(row.cost_nano_usd for row in rows)
    assert total == spent(place, key)
    most = 1000 * 400 + 3 * 4000  # what one request reserves at most
    assert 400_000 - most < total <= 400_000
    error = refusals[-1].json()["error"]
    assert (refusals[-1].status_code, error["type"], error["code"]) == (429, "insufficient_quota", "budget_exceeded")
    assert refusals[-1].headers["x-should-retry"] == "false"
    with openai.OpenAI(base_url=f"{urls[0]}/v1", api_key=secret) as client, pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], max_tokens=3)


def test_kill_9_gives_no_budget_back_and_the_next_gateway_goes_on_counting(place: Place) -> None:
    secret, key = issue(budgets=[{"nano_usd": 10_000_000, "per": "month"}])
    publish(place, key)
    place.route(entity(place.engine("--delay-ms", "60000"), max_tokens=3) | {"price": PRICE})
    url = guarded(place)
    threads = [threading.Thread(target=_ignored, args=(url, secret)) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(place.opened()) == 4)
    gateway = place.children[-1].process
    kill(gateway)
    for thread in threads:
        thread.join()
    held = spent(place, key)
    assert held >= 4 * 3 * 4000
    place.route(entity(place.engine(), max_tokens=3) | {"price": PRICE})
    url = guarded(place)
    journal.recover(place.journal)
    assert ask(url, secret, "one").status_code == 200
    assert spent(place, key) == held + 3 * 1000 + 4000
    closed = place.closed().values()
    assert [row.cost_nano_usd for row in closed if row.outcome == "aborted"] == [None] * 4


def _ignored(url: str, secret: str) -> None:
    with pytest.raises(httpx.HTTPError):
        ask(url, secret, "never answered")


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def test_all_of_it_takes_no_database_and_little_memory(place: Place) -> None:
    secret, key = issue(requests={"count": 1000, "seconds": 1}, budgets=[{"nano_usd": 10**12, "per": "day"}])
    publish(place, key)
    place.route(entity(place.engine(), max_tokens=3) | {"price": PRICE})
    url = guarded(place)
    assert ask(url, secret).status_code == 200
    gateway = psutil.Process(place.children[-1].process.pid)
    opened = {file.path.rpartition("/")[2] for file in gateway.open_files()}
    assert not [name for name in opened if name.endswith((".db", ".sqlite"))]
    assert gateway.memory_info().rss < 40 * 2**20
    assert (place.folder / "ledger.bin").stat().st_mode & 0o777 == 0o600
