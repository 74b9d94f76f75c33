"""Callers of a desk that note what they were told, and the books of the desk to hold it against."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count

import httpx

from running import MODEL, Desk
from trimtab.store.drain import drain
from trimtab.store.lake import Lake

BROKEN = "connection broken"


@dataclass(frozen=True)
class Told:
    """What one request came to: 200, or the error's code, or `BROKEN`. `at` is seconds since the callers began."""

    name: str
    at: float
    said: str
    version: int | None = None
    intent: str | None = None


@dataclass
class Callers:
    """Threads that ask, each at its own even pace whatever happens; every fourth request of each is a stream."""

    desk: Desk
    threads: int = 4
    per_second: float = 40.0
    told: list[Told] = field(default_factory=list)

    def __enter__(self) -> Callers:
        self._done, self._numbers, self._begun = threading.Event(), count(), time.monotonic()
        self._name = secrets.token_hex(4)
        self._running = [threading.Thread(target=self._ask_on) for _ in range(self.threads)]
        for thread in self._running:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._running:
            thread.join()

    def said(self, what: str) -> int:
        """How many requests came to this so far."""
        return sum(one.said == what for one in [*self.told])

    def codes(self) -> Counter[str]:
        return Counter(one.said for one in self.told)

    def _ask_on(self) -> None:
        pause, due = self.threads / self.per_second, time.monotonic()
        with httpx.Client(base_url=self.desk.url, timeout=30) as http:
            while not self._done.wait(max(0.0, due - time.monotonic())):
                due += pause
                number, at = next(self._numbers), time.monotonic() - self._begun
                name = f"{self._name}-{number}"
                try:
                    self.told.append(_ask(http, name, at, streamed=number % 4 == 0))
                except httpx.HTTPError:
                    self.told.append(Told(name, at, BROKEN))


def _ask(http: httpx.Client, name: str, at: float, streamed: bool) -> Told:
    body, path = {"input": "where is it?"}, "/predict"
    if streamed:
        body, path = {"messages": [{"role": "user", "content": "where is it?"}], "stream": True}, "/v1/chat/completions"
    said = http.post(path, json=body, headers={"x-client-request-id": name, "x-trimtab-caller": name})
    if said.status_code != 200:
        return Told(name, at, said.json()["error"]["code"])
    version = int(said.headers["x-trimtab-version"].removeprefix(f"{MODEL}/"))
    if not streamed:
        return Told(name, at, "200", version, said.json()["output"]["intent"])
    *events, done = said.text.strip().split("\n\n")
    assert done == "data: [DONE]", done
    choices = [choice for event in events for choice in json.loads(event.removeprefix("data:"))["choices"]]
    text = "".join(choice["delta"].get("content", "") for choice in choices)
    return Told(name, at, "200", version, json.loads(text)["intent"])


@dataclass(frozen=True)
class Books:
    """What the inference table says of requests that callers made. `lost`: answered, and no good row."""

    rows: int
    duplicates: int
    lost: list[str]
    untrue: list[str]
    """Refused for want of a record, or ascribed to another version, and the row says otherwise."""


def books(desk: Desk, told: list[Told]) -> Books:
    """Drain, and compare with what the callers were told. Nothing may still be asked meanwhile."""
    drain(desk.settings)
    lake = Lake(desk.settings)
    columns = ["databricks_request_id", "client_request_id", "status_code", "model_version"]
    table = lake.sample(0, lake.count(), columns)
    names = {one.name for one in told}
    rows = [row for row in table.iter_rows() if row[1] in names]
    kept = {row[1]: row for row in rows}
    good = {name for name, row in kept.items() if row[2] == 200}
    answered = [one for one in told if one.said == "200"]
    untrue = [one.name for one in answered if one.name in kept and kept[one.name][3] != str(one.version)]
    untrue += [one.name for one in told if one.said == "journal_unavailable" and one.name in good]
    doubles = max(len(rows) - len({row[0] for row in rows}), len(rows) - len(kept))
    return Books(len(rows), doubles, [one.name for one in answered if one.name not in good], untrue)
