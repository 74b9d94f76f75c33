"""Tokens per second of a local model through the gateway, beside llama.cpp's own server alone, on the same file."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from statistics import median

from measure import HERE
from rounds import Spread, ratios
from servers import Server, announced, spawn

CLIENTS = (1, 4, 8)
TOKENS = 48
GOAL = 0.97
ANSWERS = 1
"""Answers that each client waits for in one turn."""
QUIET = {"GOMP_SPINCOUNT": "1000"}
"""As the supervisor starts engines: threads that wait do not spin for long, or two engines starve each other."""
OWN_SERVER = """
import json, sys, xllamacpp.xllamacpp as llama
params = llama.CommonParams()
params.model.path, params.port = sys.argv[1], 0
params.n_parallel, params.n_ctx = 8, 8 * 1024
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(sys.argv[2])
params.verbosity = 1
server = llama.Server(params)
print(json.dumps({"address": server.listening_address.removeprefix("http://")}), flush=True)
sys.stdin.read()
"""


def run(folder: Path, gguf: Path | None, rounds: int) -> None:
    """Print tokens per second and ratios, the two in turn in each round. Both engines get the same cores and slots."""
    if gguf is None:
        gguf = _own_weights()
    threads = str(os.cpu_count() or 1)
    command = [sys.executable, "-c", OWN_SERVER, str(gguf), threads]
    own = _start("llama.cpp", command, folder, "own")
    command = [sys.executable, "-m", "trimtab.providers.llama_cpp", "--model", str(gguf), "--threads", threads]
    engine = _start("engine", [*command, "--parallel", "8"], folder, "engine")
    routes, template = folder / "routes.json", {"messages": [], "params": {"lora": []}}
    champion = {"model": "m", "version": 1, "address": engine.address, "template": template}
    routes.write_text(json.dumps({"model": "m", "revision": "1", "champion": champion}))
    command = [sys.executable, "-m", "trimtab.gateway", "--port", "0", "--routes", str(routes)]
    gateway = _start("trimtab", [*command, "--journal", str(folder / "journal")], folder, "gateway")
    try:
        _rounds(own, gateway, rounds)
    finally:
        for one in (gateway, engine, own):
            one.stop()


def _own_weights() -> Path:
    from trimtab.providers import weights
    from trimtab.settings import load

    return weights.fetch(load(Path.cwd()).blobs, "smollm2-135m-instruct")


def _start(name: str, command: list[str], folder: Path, log: str) -> Server:
    (folder / log).mkdir()
    # The model is what costs here: both get every core.
    process = spawn(command, folder / log, core=None, env=QUIET)
    return Server(name, process, announced(process, folder / log))


def _rounds(own: Server, gateway: Server, rounds: int) -> None:
    seen: dict[tuple[str, int], list[float]] = {}
    for number in range(rounds):
        pair = [own, gateway] if number % 2 else [gateway, own]
        for clients in CLIENTS:
            for one in pair:
                seen.setdefault((one.name, clients), []).append(_tokens_per_second(one, clients, number))
    lines = [
        "| clients | llama.cpp's server, tokens/s | through the gateway | ratio (least–most) |",
        "|---|---|---|---|",
    ]
    missed: list[int] = []
    for clients in CLIENTS:
        alone, through = seen[own.name, clients], seen[gateway.name, clients]
        ratio: Spread = ratios(through, alone)
        lines.append(
            f"| {clients} | {median(alone):.1f} | {median(through):.1f} | "
            f"{ratio.middle:.3f} ({ratio.least:.3f}–{ratio.most:.3f}) |"
        )
        missed += [clients] if ratio.middle < GOAL else []
    lines.append(
        f"\n**{f'missed at {missed} clients' if missed else 'met'}**: at least {GOAL} of llama.cpp's own server."
    )
    lines.append(f"\n{rounds} rounds, in turn; {ANSWERS} answers of {TOKENS} tokens for each client in each turn.")
    lines.append(
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}."
    )
    text = "\n".join(lines)
    print(text)
    page = f"# A local model through the gateway\n\n`make bench-local-model` wrote this page.\n\n{text}\n"
    (HERE / "LOCAL_MODEL.md").write_text(page)


def _tokens_per_second(server: Server, clients: int, number: int) -> float:
    tokens: list[int] = []
    host, _, port = server.address.rpartition(":")

    def client(name: int) -> None:
        connection = HTTPConnection(host, int(port), timeout=120)
        for answer in range(ANSWERS):
            text = f"Count from {name * 100 + answer * 7 + number} upwards, in words."
            body = {"messages": [{"role": "user", "content": text}], "max_tokens": TOKENS, "temperature": 0}
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
            said = connection.getresponse()
            read = said.read()
            if said.status != 200:
                raise RuntimeError(f"{server.name} answered {said.status}: {read[:200]!r}")
            tokens.append(json.loads(read)["usage"]["completion_tokens"])

    threads = [threading.Thread(target=client, args=(name,)) for name in range(clients)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(tokens) / (time.perf_counter() - begun)
