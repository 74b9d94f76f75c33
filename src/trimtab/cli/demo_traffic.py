"""The demo's callers: people who write to the help desk, and the colleagues who label some of it later."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CLIENTS = 8
LABELLED_OF_TEN = 8
"""Of ten tickets, how many get a label: the rest stay unlabelled, as in life."""
LABEL_DELAY = 8
"""A label arrives when this many tickets have been answered since."""


def tickets(folder: Path, period: int) -> list[dict[str, str]]:
    """The example's tickets of one period, in the order they came in."""
    lines = (folder / f"tickets-period{period}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def text_of(ticket: dict[str, str]) -> str:
    """What the model reads."""
    return f"{ticket['message']}\n\nFrom: {ticket['name']}"


def gets_label(ticket: dict[str, str]) -> bool:
    """Whether a colleague labels this ticket: by its number, so that every run labels the same ones."""
    return int(ticket["ticket_id"].rsplit("-", 1)[1]) % 10 < LABELLED_OF_TEN


@dataclass
class Traffic:
    """Callers at work. `pace` seconds between two requests of one caller; None: they rest."""

    address: str
    pace: float | None = None
    sent: Counter[str] = field(default_factory=Counter)
    """Answers by version, and "failed" for those that were none."""
    milliseconds: deque[float] = field(default_factory=lambda: deque(maxlen=500))
    _queue: Iterator[dict[str, str]] = field(default_factory=lambda: iter(()))
    _waiting: deque[dict[str, str]] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    exhausted: threading.Event = field(default_factory=threading.Event)

    @property
    def answered(self) -> int:
        return sum(count for name, count in self.sent.items() if name != "failed")

    def start(self) -> None:
        """Let the callers in."""
        for number in range(CLIENTS):
            thread = threading.Thread(target=self._call, args=(number,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Let the callers finish what they asked, send the labels that are due, and go."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout=130)

    def serve(self, queue: Iterator[dict[str, str]]) -> None:
        """From now on the callers take their tickets from here."""
        with self._lock:
            self._queue = queue
            self.exhausted.clear()

    def _next(self) -> dict[str, str] | None:
        with self._lock:
            ticket = next(self._queue, None)
        if ticket is None:
            self.exhausted.set()
        return ticket

    def _call(self, number: int) -> None:
        connection = http.client.HTTPConnection(self.address, timeout=120)
        while not self._stopping.is_set():
            ticket = self._next() if self.pace is not None and (number == 0 or self.pace == 0) else None
            if ticket is None:
                connection.close()  # the gateway hangs up on callers who rest for long
                time.sleep(0.2)
                continue
            try:
                self._ask(connection, ticket)
                self._label(connection)
            except (OSError, http.client.HTTPException):
                self.sent["failed"] += 1
                connection.close()
            if self.pace:
                connection.close()
                self._stopping.wait(self.pace)
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, ticket: dict[str, str]) -> None:
        started = time.perf_counter()
        body = {"input": text_of(ticket), "client_request_id": ticket["ticket_id"], "user": ticket["ticket_id"]}
        version = _post(connection, "/predict", body)
        with self._lock:
            self.sent[version or "failed"] += 1
            self.milliseconds.append((time.perf_counter() - started) * 1000)
            if gets_label(ticket):
                self._waiting.append(ticket)

    def _label(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            ticket = self._waiting.popleft() if len(self._waiting) > LABEL_DELAY else None
        if ticket is not None:
            value = {field: ticket[field] for field in ("intent", "title", "urgency")}
            _post(connection, "/feedback", {"client_request_id": ticket["ticket_id"], "value": value})


def _post(connection: http.client.HTTPConnection, path: str, body: dict[str, Any]) -> str | None:
    """The version that answered, or None when the answer is an error."""
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    response.read()
    return response.headers.get("x-trimtab-version", "-") if response.status < 300 else None
