"""What scoring rows costs: `python benchmarks/scoring [--rounds N]`, beside `mlflow models serve`, on the same model.

The model is a scikit-learn classifier on four columns. Ours is the whole way: a gateway that asks for a key, counts its
rate, writes the journal and the metrics, and the engine behind it; theirs is one worker without any of that. Both are
on one core, the load on another, in turn in each round; CPU is user and system time of all their processes. Writes
RESULTS.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import NamedTuple

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "gateway"))

from measure import BUILD, LOAD_CORE, compile_programs, cpu_seconds, pinned, pss_mib, tree  # noqa: E402
from rounds import CONNECTIONS, Spread, ratios  # noqa: E402
from servers import Server, announced, free_port, gateway, listening, spawn  # noqa: E402

GOAL = 100.0
"""How many times our CPU theirs is to be, for one row: of many, most of the work is to read them."""
COLUMNS = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
ROW = [5.9, 3.0, 5.1, 1.8]
SECRET = "engine"  # noqa: S105 (of an engine that lives for a minute)


class Cost(NamedTuple):
    """Microseconds of CPU for one request: all of them, and the part that is spent behind the front."""

    whole: float
    behind: float


@dataclass
class Stack:
    """What answers: one server, and the other processes it needs."""

    front: Server
    behind: list[Server]

    def cpu(self) -> float:
        """CPU seconds of all processes so far."""
        return cpu_seconds(self.front.process.pid) + self.cpu_behind()

    def cpu_behind(self) -> float:
        """Of those behind the one that is asked."""
        return sum(cpu_seconds(one.process.pid) for one in self.behind)

    def pss(self) -> float:
        """MiB of all of them."""
        return sum(pss_mib(pid) for one in (self.front, *self.behind) for pid in tree(one.process.pid))

    def stop(self) -> None:
        """End all of them."""
        for one in (self.front, *self.behind):
            one.stop()


BODIES = {
    "/invocations, 1 row": ("/invocations", {"dataframe_split": {"columns": COLUMNS, "data": [ROW]}}),
    "/invocations, 1 record": ("/invocations", {"dataframe_records": [dict(zip(COLUMNS, ROW, strict=True))]}),
    "/invocations, 100 rows": ("/invocations", {"dataframe_split": {"columns": COLUMNS, "data": [ROW] * 100}}),
    "/predict": ("/predict", {"input": dict(zip(COLUMNS, ROW, strict=True))}),
}
PLAIN = "/invocations, 1 row"
GOALS = [body for body in BODIES if "100" not in body]


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python benchmarks/scoring", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=3000, help="of ours in a round; a tenth of it of theirs")
    options = parser.parse_args()
    compile_programs()
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="scoring-") as scratch:
        folder = Path(scratch)
        _save_model(folder / "model")
        stacks = {"trimtab": _ours(folder), "mlflow models serve": _mlflow(folder)}
        seen: dict[tuple[str, str], list[Cost]] = {}
        try:
            for number in range(options.rounds + 1):
                print(f"round {number} of {options.rounds}" if number else "warming up", flush=True)
                for name in list(stacks) if number % 2 else list(stacks)[::-1]:
                    count = options.requests if name == "trimtab" else options.requests // 10
                    for body in BODIES if name == "trimtab" else [b for b in BODIES if b != "/predict"]:
                        spent = _load(stacks[name], body, folder, count if number else 100)
                        if number:
                            seen.setdefault((name, body), []).append(spent)
            memory = {name: stack.pss() for name, stack in stacks.items()}
        finally:
            for stack in stacks.values():
                stack.stop()
    text = _report(seen, memory, options.rounds)
    print(text)
    (HERE / "RESULTS.md").write_text(
        f"# What scoring rows costs\n\n`python benchmarks/scoring` wrote this.\n\n{text}\n"
    )


def _save_model(folder: Path) -> None:
    """A classifier of irises, in a process of its own: MLflow is no part of what is measured here."""
    code = f"""
import mlflow, sys
from mlflow.models import infer_signature
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
data = load_iris(as_frame=True)
rows = data.data.set_axis({COLUMNS!r}, axis=1)
model = LogisticRegression(max_iter=500).fit(rows, data.target)
signature = infer_signature(rows, model.predict(rows))
more = {{"input_example": rows.head(2), "pip_requirements": ["mlflow"]}}
mlflow.sklearn.save_model(model, sys.argv[1], signature=signature, **more)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(folder)], check=True, capture_output=True)


def _ours(folder: Path) -> Stack:
    own = folder / "engine"
    own.mkdir()
    env = {"TRIMTAB_ENGINE_KEY": SECRET, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "trimtab.registry.pyfunc_engine", "--model", str(folder / "model")]
    process = spawn(command, own, env=env)
    engine = Server("engine", process, announced(process, own, seconds=600))
    own = folder / "gateway"
    own.mkdir()
    champion = {"template": {"messages": [], "params": {}}, "path": "", "protocol": "mlflow", "api_key": SECRET}
    limits = {"requests": {"count": 10**9, "seconds": 60}}
    return Stack(gateway("trimtab", engine.address, own, champion, limits), [engine])


def _mlflow(folder: Path) -> Stack:
    own, port = folder / "mlflow", free_port()
    own.mkdir()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(folder / "model")]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    env = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    process = spawn(command, own, env=env)
    listening(process, f"127.0.0.1:{port}", own, seconds=600)
    return Stack(Server("mlflow models serve", process, f"127.0.0.1:{port}"), [])


def _load(stack: Stack, body: str, folder: Path, requests: int) -> Cost:
    """What one request costs. Raises RuntimeError when answers are wrong: they are not compared."""
    path, value = BODIES[body]
    file, data = folder / "request", json.dumps(value).encode()
    lines = [f"POST {path} HTTP/1.1", f"host: {stack.front.address}", "content-type: application/json"]
    lines += [f"content-length: {len(data)}", *(f"{name}: {held}" for name, held in stack.front.headers.items())]
    file.write_bytes("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
    before = stack.cpu()
    behind = stack.cpu_behind()
    command = [str(BUILD / "load"), stack.front.address, str(CONNECTIONS), str(requests), str(file)]
    with pinned(LOAD_CORE):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    if errors := json.loads(done.stdout)["errors"]:
        raise RuntimeError(f"{stack.front.name} failed {errors} of {requests} requests of {body}")
    return Cost((stack.cpu() - before) / requests * 1e6, (stack.cpu_behind() - behind) / requests * 1e6)


def _report(seen: dict[tuple[str, str], list[Cost]], memory: dict[str, float], rounds: int) -> str:
    lines = [
        "| request | ours, CPU µs | `mlflow models serve`, CPU µs | times ours (least–most) |",
        "|---|---|---|---|",
    ]
    met = []
    for body in BODIES:
        ours, theirs = seen["trimtab", body], seen["mlflow models serve", PLAIN if body == "/predict" else body]
        times: Spread = ratios([one.whole for one in theirs], [one.whole for one in ours])
        whole, behind = median(one.whole for one in ours), median(one.behind for one in ours)
        spread = f"{times.middle:.0f} ({times.least:.0f}–{times.most:.0f})"
        lines.append(f"| {body} | {whole:.0f} ({behind:.0f}) | {median(one.whole for one in theirs):.0f} | {spread} |")
        if body in GOALS:
            met.append(
                f"- **{'met' if times.middle >= GOAL else 'missed'}**: {body}: {times.middle:.0f} (at least {GOAL:.0f})"
            )
    told = ", ".join(f"{name} {mib:.0f}" for name, mib in memory.items())
    load = os.getloadavg()[0]
    lines += ["", *met, ""]
    lines.append(
        f"{rounds} rounds, the two in turn; {CONNECTIONS} connections, kept alive; medians over the rounds, ratios "
        "taken within a round. Ours is gateway (key, rate limit, journal, metrics) and engine together; in brackets "
        "the engine's part. `/predict`, which MLflow does not have, is compared with its one row. Memory (PSS, MiB): "
        f"{told}."
    )
    lines.append(
        f"\n{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {os.cpu_count()} cores, Linux {platform.release()}, load average "
        f"{load:.1f}; Python {platform.python_version()}, mlflow {version('mlflow')}, "
        f"scikit-learn {version('scikit-learn')}."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
