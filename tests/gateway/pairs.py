"""Two gateways side by side on one engine, with the fast path and without: what they say and record is compared."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
from gateway_place import Place
from scripted import Client, Engine

from trimtab.store.journal import Closed

SECRET = "tt-" + "0b" * 6 + "-" + "5e" * 24
PRICE = {"input": 100, "cached_input": 10, "cache_write": 120, "output": 400}
TEMPLATE = {"messages": [{"role": "system", "content": "Be kind."}], "params": {"temperature": 0, "seed": 1}}


def asking(deed: str, **more: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": deed}], **more}).encode()


CHAMPION = {"model": "m", "version": 1, "template": TEMPLATE, "price": PRICE}


class Pair:
    """Two gateways on one engine, with the fast path and without, each with a key and everything on."""

    def __init__(
        self,
        folder: Path,
        engine: Engine,
        switches: tuple[str, ...] = ("on", "off"),
        champion: dict[str, Any] = CHAMPION,
        path: str = "/v1/chat/completions",
        warm: bytes = asking("plain"),
    ) -> None:
        self.champion, self.path, self.warm = champion, path, warm
        self.engine, self.dialled = engine, list[Client]()
        self.places = [self._place(folder / f"{number}", to) for number, to in enumerate(switches)]

    def _place(self, folder: Path, switch: str) -> Place:
        folder.mkdir()
        place = Place(folder)
        # A provider's, by its name: nobody starts it again, so nobody waits for that.
        champion = self.champion | {"address": self.engine.address, "name": "far"}
        place.route(
            champion, champion | {"version": 2}, 50, endpoint={"attempts": 2, "backoff": 0.0, "breaker_failures": 10**6}
        )
        key = {
            "id": f"key-{SECRET[3:15]}",
            "slot": 0,
            "scopes": ["predict", "metrics"],
            "sha256": [hashlib.sha256(SECRET.encode()).hexdigest()],
            "until_ms": [None],
            "requests": {"count": 10**6, "seconds": 60},
            "tokens": {"count": 10**9, "seconds": 60},
            "budgets": [{"nano_usd": 10**15, "per": per} for per in ("hour", "day", "month")],
        }
        (folder / "keys.json").write_text(json.dumps({"keys": [key]}))
        where = ["--keys", str(folder / "keys.json"), "--ledger", str(folder / "ledger")]
        place.gateway(*where, "--metrics", str(folder / "metrics"), TRIMTAB_FAST_PATH=switch)
        return place

    def clients(self) -> list[Client]:
        """One connection to each, warm: its head is known, and the first of them is lent."""
        clients = [Client(place.url, f"authorization: Bearer {SECRET}\r\n", self.path) for place in self.places]
        self.dialled += clients
        for client in clients:
            assert [client.asks(self.warm)[0] for _ in range(2)] == [200, 200]
        return clients

    def hang_up(self) -> None:
        while self.dialled:
            self.dialled.pop().close()

    def stop(self) -> None:
        self.hang_up()
        for place in self.places:
            place.stop()
        self.engine.stop()


def metrics(place: Place) -> dict[str, float]:
    said = httpx.get(f"{place.url}/metrics", headers={"authorization": f"Bearer {SECRET}"}).text
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in said.splitlines() if line[0] != "#")}


def on_the_fast_path(place: Place) -> float:
    return metrics(place).get("trimtab_fast_path_requests_total", 0)


def told(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, dict[str, str], bytes]:
    """An answer without its id, its times and what they led to."""
    status, headers, body = answer
    varying = ["x-request-id", "date", "x-trimtab-overhead-ms", "server-timing"]
    varying += ["content-length"] if b'"ms"' in body else []  # a time may have more digits than the other
    kept = {name: value for name, value in headers.items() if name not in varying}
    kept |= {name: re.sub(r"\d+", "N", kept[name]) for name in kept if name.startswith("x-ratelimit-re")}
    return status, kept | dict.fromkeys(varying, "") if headers else kept, _timeless(body)


def _timeless(body: bytes) -> bytes:
    """A body without times, and without the id of its request."""
    return re.sub(rb'"request_id":"[0-9a-f]{32}"', b"", re.sub(rb'"ms": ?\d+', b'"ms":0', body))


def row(place: Place, answer: tuple[int, dict[str, str], bytes]) -> dict[str, Any] | None:
    """The row of an answer, without its id and its times."""
    request_id = answer[1].get("x-request-id", "")
    found: Closed | None = place.closed().get(request_id)
    if found is None:
        return None
    fields = msgspec.structs.asdict(found)
    fields["response"] = _timeless(found.response)
    fields["attempts"] = [(one.upstream, one.status, one.reason) for one in found.attempts]
    return fields | {"request_id": "", "at_ms": 0, "duration_ms": 0, "ttfb_ms": found.ttfb_ms is None}


def same(pair: Pair, *bodies: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """Ask both, on warm connections; what they say and record is the same. Returns what the first one said."""
    clients = pair.clients()
    answers = [[client.asks(body) for body in bodies] for client in clients]
    assert [told(one) for one in answers[0]] == [told(one) for one in answers[1]]
    rows = [[row(place, one) for one in said] for place, said in zip(pair.places, answers, strict=True)]
    assert rows[0] == rows[1]
    return answers[0]


def agree(pair: Pair, ask: Callable[[Client], None], there: int) -> None:
    """Both count the same when a client asks them, and the one with the fast path answers at least so many there."""
    before, clients = [metrics(place) for place in pair.places], pair.clients()
    for client in clients:
        client.headers += "x-one: 1\r\n"  # a head that has not asked for anything else yet
        ask(client)
    counted = list[dict[str, float]]()
    for place, earlier in zip(pair.places, before, strict=True):
        now = {name: value - earlier.get(name, 0) for name, value in metrics(place).items()}
        counted.append(
            {name: now[name] for name in now if re.search(r"_requests_total|_tokens_total|attempts|_count", name)}
        )
    assert counted[0].pop("trimtab_fast_path_requests_total") >= there
    assert counted[0] == counted[1]
