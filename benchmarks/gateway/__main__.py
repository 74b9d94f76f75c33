"""What the gateway costs, beside its peers: `python benchmarks/gateway [--peers nginx,litellm,…] [--rounds N]`.

Prints a table of ratios to nginx's proxy_pass and the goals it meets, and writes RESULTS.md beside this file.
`--memory N`, `--workers N` and `--local-model` measure something else instead: see there.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import local_model
import memory
import report
import rounds
import workers
from measure import BUILD, HERE, compile_programs
from servers import OTHERS, OURS, Absent, Server, mock, works

QUICK = "nginx,vllm-router,tensorzero"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python benchmarks/gateway", description=__doc__)
    parser.add_argument("--peers", default=QUICK, help=f"of {', '.join(OTHERS)}; default {QUICK}")
    parser.add_argument("--ours", default=",".join(OURS), help=f"of {', '.join(OURS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="about how long a server is loaded in a round")
    parser.add_argument("--memory", type=int, metavar="REQUESTS", help="memory of the worker over so many requests")
    parser.add_argument("--workers", type=int, metavar="N", help="CPU a request with 1, 2, … N workers on one port")
    parser.add_argument("--local-model", action="store_true", help="tokens per second beside llama.cpp's own server")
    parser.add_argument("--gguf", type=Path, help="model file for --local-model")
    options = parser.parse_args()
    compile_programs()
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="run-") as folder:
        if options.memory:
            memory.run(Path(folder), options.memory)
        elif options.workers:
            workers.run(Path(folder), options.workers, options.rounds)
        elif options.local_model:
            local_model.run(Path(folder), options.gguf, options.rounds)
        else:
            wanted = [*options.ours.split(","), *filter(None, options.peers.split(","))]
            compare(Path(folder), wanted, options.rounds, options.seconds)


def compare(folder: Path, wanted: list[str], count: int, seconds: float) -> None:
    """Start everything, run the rounds, print and keep the report."""
    absent: dict[str, str] = {}
    upstream = mock(folder)
    running = [upstream]
    try:
        for name in wanted:
            try:
                running.append(_start(name, upstream.address, folder))
            except Absent as why:
                absent[name] = str(why)
                print(f"{name} is left out: {why}", flush=True)
        asked = {one.name: rounds.sizes(one, folder, seconds) for one in running}
        seen: report.Rounds = {one.name: [] for one in running}
        for number in range(count):
            print(f"round {number + 1} of {count}", flush=True)
            for one in running[number % len(running) :] + running[: number % len(running)]:
                seen[one.name].append(rounds.sample(one, folder, asked[one.name]))
    finally:
        for one in reversed(running):
            one.stop()
    text = report.text(seen, running, absent)
    print(text)
    (HERE / "RESULTS.md").write_text(f"# What the gateway costs\n\n`make bench-gateway` wrote this page.\n\n{text}\n")


def _start(name: str, upstream: str, folder: Path) -> Server:
    own = folder / name
    own.mkdir()
    server = {**OURS, **OTHERS}[name](upstream, own)
    try:
        works(server)
    except Absent:
        server.stop()
        raise
    return server


if __name__ == "__main__":
    main()
