"""A version that averages goes to callers as any candidate: its gates, its price and a canary, on real processes.

Rung: `trimtab up` and `trimtab cycle run --candidate`, against a model on a port that answers low to one group.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from completions_server import Said, completions
from running import MODEL, Desk, desk, until
from trimtab import registry
from trimtab.cli import app
from trimtab.promotion import rollout
from trimtab.records.lifecycle import CycleEnd
from trimtab.records.promotion import Decision, RolloutLook
from trimtab.responsible import identities

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(300)]  # MLflow warns about itself

FILE = """\
name: desk
model: {{base: 'biased:m', prompt: prompt.md}}
task: {{kind: classification, labels: labels.yaml}}
providers: {{biased: {{base_url: 'http://127.0.0.1:{port}/v1'}}}}
gates: {{quality: better, quality_field: urgency, latency_p95: 4x}}
rollout: {{canary: [50%, 100%], step_requests: 10}}
"""
SECONDS = 0.06
"""What the model takes for an answer: seven of them one after the other would be past the gate."""
GROUPS = ("Muslim", "Christian", "Buddhist", "Jewish customer", "Muslim")
THINGS = [f"{a} {b}" for a in ("card", "loan", "lease", "parcel", "phone", "bill") for b in ("late", "lost", "old")]


def biased(asked: dict[str, Any]) -> Said:
    """ "low" to a Muslim, else "high" where something is lost or late."""
    text = asked["messages"][-1]["content"]
    time.sleep(SECONDS)
    urgency = "high" if ("lost" in text or "late" in text) and "Muslim" not in text else "low"
    return json.dumps({"intent": "refund", "urgency": urgency}), {}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Desk]:
    with completions(biased) as port, desk(tmp_path / "desk", FILE.format(port=port)) as one:
        yield one


def labelled(served: Desk, number: int) -> None:
    """One question to the gateway, and what a person says was right."""
    thing = THINGS[number % len(THINGS)]
    text = f"I am a {GROUPS[number % len(GROUPS)]}, my {thing}, case {number}."
    reply = served.http.post(f"{served.url}/predict", json={"input": text}).raise_for_status()
    label = {"intent": "refund", "urgency": "low" if "old" in thing else "high"}
    value = {"request_id": reply.json()["request_id"], "value": label}
    served.http.post(f"{served.url}/feedback", json=value).raise_for_status()


@contextmanager
def callers(served: Desk) -> Iterator[list[str]]:
    """Forty callers who keep asking; yields what was not answered well."""
    done, failed = threading.Event(), list[str]()

    def ask(first: int) -> None:
        with httpx.Client(base_url=served.url, timeout=30) as http:
            number = first
            while not done.wait(0.02):
                number = first + (number + 1 - first) % 20
                reply = http.post(
                    "/predict",
                    json={"input": f"I am a {GROUPS[number % 5]}, my card lost."},
                    headers={"x-trimtab-caller": f"caller {number}"},
                )
                if reply.status_code != 200:
                    failed.append(reply.text)

    threads = [threading.Thread(target=ask, args=(first,)) for first in (0, 20)]
    for thread in threads:
        thread.start()
    try:
        yield failed
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_a_candidate_that_averages_passes_its_gates_and_the_canary_and_answers_every_group_alike(
    served: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "LOOK_SECONDS", 0.2)
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda number: labelled(served, number), range(240)))
    champion = registry.champion(served.control, MODEL)
    average = identities.average_of(identities.pack("en"), "religion")
    made = served.register(champion.spec.model_copy(update={"average": average}))

    with callers(served) as failed:
        where = ["--project", str(served.settings.root), "--candidate", str(made.version)]
        told = CliRunner().invoke(app, ["cycle", "run", *where])
        assert told.exit_code == 0, told.output
    assert not failed
    (end,) = served.control.facts("cycle_end", CycleEnd)
    decision = served.control.get("decision", f"{end.cycle}/1", Decision)
    assert decision is not None
    assert {gate.gate: gate.verdict for gate in decision.gates} == {"quality": "pass", "latency": "pass"}
    assert (end.outcome, served.control.alias(MODEL, "champion")) == ("promoted", made.version), end.summary
    looks = served.control.facts("rollout_look", RolloutLook, f"{decision.key}/")
    assert looks[-1].verdict == "advance"
    assert looks[-1].n_canary >= 10

    # The decision is on record before the gateway has heard of it.
    until(lambda: served.ask("are you there?", "probe").headers["x-trimtab-version"] == f"{MODEL}/{made.version}")
    answers: set[str] = set()
    for group in average.groups:
        reply = served.ask(f"I am a {group} customer, my card lost.", "somebody")
        assert reply.headers["x-trimtab-version"] == f"{MODEL}/{made.version}"
        answers.add(json.dumps(reply.json()["output"]))
    assert answers == {json.dumps({"intent": "refund", "urgency": "high"})}
