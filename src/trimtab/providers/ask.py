"""Ask an engine many questions, for evaluation, golden prompts and batch scoring. The gateway has its own hot path."""

from __future__ import annotations

import http.client
import json
import random
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from trimtab import averaging, masking
from trimtab.errors import EngineError
from trimtab.providers import retry_after
from trimtab.providers.log_probabilities import Tokens, tokens_of
from trimtab.records.gateway import Upstream

TRIES = 5
"""How often a provider is asked for one answer; an engine of ours is asked once."""
SIDE_BY_SIDE = 8
"""Twins and orders of one text that are asked at once, as many as the gateway asks."""


@dataclass(frozen=True)
class Reply:
    """One answer: its text and the wall time it took, in seconds. `tokens`: each token of the answer, as UTF-8, with
    the log-probabilities (nats) of the likeliest ones at its place and its own; empty where the engine told none."""

    text: str
    seconds: float
    tokens: Tokens = ()

    @property
    def tops(self) -> dict[str, float]:
        """The likeliest first tokens."""
        likely = self.tokens[0][1] if self.tokens else {}
        return {token.decode(errors="replace"): value for token, value in likely.items()}


def ask(
    upstream: Upstream,
    template: dict[str, Any],
    texts: Sequence[str],
    *,
    parallel: int = 4,
    timeout: float = 120.0,
    tries: int = TRIES,
    tops: int = 0,
    together: int = 1,
    on_progress: Callable[[int], None] = lambda _done: None,
) -> list[Reply]:
    """The engine's answers in the order of `texts`, at most `parallel` at once. Raises EngineError on any failure.

    A provider that is busy is asked again, as late as its Retry-After says, up to `tries` times. `timeout`, in seconds,
    is for each try. `tops`: how many of the likeliest tokens to tell at each place (0 to 20; 0: no `tokens`). Twins of
    a version that averages, and the orders of one that rotates, are asked side by side, as the gateway asks them;
    `tokens` are those of the answer that won. `together`: so many texts at a time are asked one after the other, as
    twins are: the second finds the words of the first still in the engine's cache. Without a prompt of the version's
    own the cache is off.
    """
    params = dict(template["params"])
    if "lora" in params:  # llama.cpp's own option: a provider would refuse it
        params["cache_prompt"] = bool(template["messages"])
    if tops:
        params |= {"logprobs": True, "top_logprobs": tops}
    lock, done = threading.Lock(), 0
    twins = averaging.twins(template["average"]) if "average" in template else lambda said: [said]
    orders = template.get("rotations") or [{"messages": template["messages"], "params": {}}]

    def one(text: str) -> Reply:
        nonlocal done
        started = time.perf_counter()
        said = masking.through(template.get("masks", []), [{"role": "user", "content": text}])
        asked = [(order, twin) for twin in twins(said) for order in orders]
        bodies = [{**params, **order["params"], "messages": [*order["messages"], *twin]} for order, twin in asked]
        if len(bodies) == 1:
            answers = [_post(upstream, bodies[0], timeout, tries)]
        else:
            with ThreadPoolExecutor(max_workers=SIDE_BY_SIDE) as several:
                answers = list(several.map(lambda body: _post(upstream, body, timeout, tries), bodies))
        answer = answers[averaging.agreed([one["choices"][0]["message"]["content"] or "" for one in answers])]
        with lock:
            done += 1
            on_progress(done)
        choice, seconds = answer["choices"][0], time.perf_counter() - started
        return Reply(choice["message"]["content"] or "", seconds, tokens_of(choice) if tops else ())

    groups = [texts[start : start + together] for start in range(0, len(texts), together)]
    with ThreadPoolExecutor(max_workers=parallel) as pool:
        return [reply for replies in pool.map(lambda group: [one(text) for text in group], groups) for reply in replies]


def read_prompt(upstream: Upstream, template: dict[str, Any], slots: int, timeout: float = 120.0) -> None:
    """Have each of a llama.cpp engine's `slots` know the version's own prompt: the first reads it, the others get its
    state. With an adapter they read it all the same: llama.cpp drops a state whose adapter it has not seen itself.
    Raises EngineError when the engine does not answer; a state that cannot be written (a full disk) is done without.
    """
    if not template["messages"]:
        return
    hello = [*template["messages"], {"role": "user", "content": "Hello"}]
    body = {"messages": hello, "max_tokens": 1, "temperature": 0, "lora": template["params"]["lora"], "id_slot": 0}
    _post(upstream, body, timeout, 1)
    state, engine = {"filename": "prompt"}, upstream.model_copy(update={"path": ""})
    with suppress(EngineError):
        _post(engine, state, timeout, 1, "/slots/0?action=save")
        for slot in range(1, slots):
            _post(engine, state, timeout, 1, f"/slots/{slot}?action=restore")


def score(upstream: Upstream, body: dict[str, Any], timeout: float = 120.0) -> bytes:
    """The answer of an MLflow model's engine to one request of the scoring protocol. Raises EngineError."""
    try:
        status, _, data = _send(upstream, "/invocations", body, timeout)
    except (OSError, http.client.HTTPException) as error:
        raise EngineError(f"the engine at {upstream.address} did not answer: {error!r}") from error
    if status != 200:
        raise EngineError(f"the engine at {upstream.address} answered {status}: {data[:300].decode(errors='replace')}")
    return data


def busy(address: str, key: str) -> bool:
    """Whether an engine is at work right now; False when it does not say or is gone. One that is too busy to say is."""
    try:
        connection = http.client.HTTPConnection(address, timeout=5)
        connection.request("GET", "/slots", headers={"authorization": f"Bearer {key}"})
        response = connection.getresponse()
        slots = json.loads(response.read()) if response.status == 200 else []
        return any(slot.get("is_processing") for slot in slots)
    except TimeoutError:
        return True
    except (OSError, ValueError, http.client.HTTPException):
        return False


def _post(
    upstream: Upstream, body: dict[str, Any], timeout: float, tries: int, operation: str = "/chat/completions"
) -> dict[str, Any]:
    where = upstream.name or f"the engine at {upstream.address}"
    for attempt in range(tries):
        try:
            status, header, data = _send(upstream, operation, body, timeout)
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"{where} did not answer: {error!r}") from error
        if status == 200:
            return json.loads(data)
        if not upstream.name or status not in retry_after.RETRYABLE or attempt == tries - 1:
            said = data[:300].decode(errors="replace")
            raise EngineError(f"{where} answered {status}: {_without(upstream.api_key, said)}")
        wait = retry_after.seconds_of(header)
        time.sleep(2**attempt * random.uniform(0.5, 1) if wait is None else min(wait, timeout))  # noqa: S311
    raise AssertionError("the last try returns or raises")


def _send(upstream: Upstream, operation: str, body: dict[str, Any], timeout: float) -> tuple[int, str | None, bytes]:
    if upstream.tls:
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(upstream.address, timeout=timeout, context=context)
    else:
        connection = http.client.HTTPConnection(upstream.address, timeout=timeout)
    try:
        headers = {"content-type": "application/json"}
        if upstream.api_key:
            bearer = "Bearer " if upstream.key_header == "authorization" else ""
            headers[upstream.key_header] = bearer + upstream.api_key
        path = f"{upstream.path}{operation}{upstream.query}"
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, response.headers.get("retry-after"), response.read()
    finally:
        connection.close()


def _without(key: str, text: str) -> str:
    """What a provider said, without the key it was asked with."""
    return text.replace(key, "[key]") if key else text
