"""Ask an engine many questions, for evaluation, golden prompts and batch scoring. The gateway has its own hot path."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from trimtab.errors import EngineError


@dataclass(frozen=True)
class Reply:
    """One answer: its text and the wall time it took, in seconds."""

    text: str
    seconds: float


def ask(
    address: str,
    key: str,
    template: dict[str, Any],
    texts: Sequence[str],
    *,
    parallel: int = 4,
    timeout: float = 120.0,
    on_progress: Callable[[int], None] = lambda _done: None,
) -> list[Reply]:
    """The engine's answers in the order of `texts`, at most `parallel` at once. Raises EngineError on any failure.

    Without few-shot examples the prompt cache is off, so that an answer does not depend on what ran beside it.
    """
    params = {**template["params"], "cache_prompt": any(m["role"] == "assistant" for m in template["messages"])}
    lock, done = threading.Lock(), 0

    def one(text: str) -> Reply:
        nonlocal done
        started = time.perf_counter()
        body = {**params, "messages": [*template["messages"], {"role": "user", "content": text}]}
        answer = _post(address, key, body, timeout)
        with lock:
            done += 1
            on_progress(done)
        return Reply(answer["choices"][0]["message"]["content"] or "", time.perf_counter() - started)

    with ThreadPoolExecutor(max_workers=parallel) as pool:
        return list(pool.map(one, texts))


def busy(address: str, key: str) -> bool:
    """Whether an engine is decoding right now; False when it does not say or does not answer."""
    try:
        connection = http.client.HTTPConnection(address, timeout=5)
        connection.request("GET", "/slots", headers={"authorization": f"Bearer {key}"})
        response = connection.getresponse()
        slots = json.loads(response.read()) if response.status == 200 else []
        return any(slot.get("is_processing") for slot in slots)
    except (OSError, ValueError, http.client.HTTPException):
        return False


def _post(address: str, key: str, body: dict[str, Any], timeout: float) -> dict[str, Any]:
    connection = http.client.HTTPConnection(address, timeout=timeout)
    try:
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        data = response.read()
        if response.status != 200:
            raise EngineError(f"the engine answered {response.status}: {data[:300].decode(errors='replace')}")
        return json.loads(data)
    except (OSError, http.client.HTTPException) as error:
        raise EngineError(f"the engine at {address} did not answer: {error!r}") from error
    finally:
        connection.close()
