"""Thresholds by a declared group, from labelled rows to callers: fitted, proved, registered, promoted and served; and
the group of no request is kept anywhere.

Rung: `trimtab up` and `trimtab fairness mitigate`, against a model on a port that tells log-probabilities and scores
one group's messages too low.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from math import exp, log1p
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pytest
from typer.testing import CliRunner

from completions_server import Said, completions
from running import MODEL, Desk, desk, until
from trimtab import lifecycle, registry
from trimtab.cli import app
from trimtab.errors import Fixable
from trimtab.promotion import rollout
from trimtab.records.responsible import Audit, MitigationRun
from trimtab.store.lake import Lake

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(400)]  # MLflow warns about itself

FILE = """\
name: desk
model: {{base: 'biased:m', prompt: prompt.md}}
task: {{kind: classification, labels: labels.yaml}}
providers: {{biased: {{base_url: 'http://127.0.0.1:{port}/v1'}}}}
gates: {{quality: non_inferior, margin: 0.05, quality_field: urgency, latency_p95: null}}
rollout: {{canary: [50%, 100%], step_requests: 10}}
fairness: {{field: urgency, favourable: [high], gating: [fpr, fnr], thresholds: {{constraint: equalized_odds}}}}
"""
GROUPS = ("sentinel-north", "sentinel-south")
UNKNOWN = "sentinel-nobody-knows"
ROWS = 1000
UNFAIR = 2.0
"""Nats by which the second group's messages, which say "wee", are scored too low."""


def text_of(number: int) -> str:
    pain = 20 + number * 37 % 61
    return f"Pain {pain} of 100{', a wee bit' if number % 2 else ''}, case {number}."


def truth_of(number: int) -> str:
    """Wrongly labelled in one row of thirty-one, so that nothing is perfect."""
    high = 20 + number * 37 % 61 > 50
    return "high" if high != (number % 31 == 7) else "low"


def biased(asked: dict[str, Any]) -> Said:
    """An answer with its log-probabilities, where it is asked for them."""
    found = re.search(r"Pain (\d+)", text := asked["messages"][-1]["content"])
    odds = ((int(found[1]) if found else 50) - 50.5) / 5 - (UNFAIR if "wee" in text else 0)
    value = "high" if odds > 0 else "low"
    answer = json.dumps({"intent": "refund", "urgency": value})
    return answer, {"logprobs": {"content": told(answer, value, odds)}} if asked.get("logprobs") else {}


def told(answer: str, value: str, odds: float) -> list[dict[str, object]]:
    start = answer.rindex(value)
    chances = {"high": -log1p(exp(-odds)), "low": -log1p(exp(odds))}
    tops = [{"token": token, "logprob": number} for token, number in chances.items()]
    ends = [{"token": part, "logprob": 0.0, "top_logprobs": []} for part in (answer[:start], answer[start:])]
    ends[1]["token"] = answer[start + len(value) :]
    return [ends[0], {"token": value, "logprob": chances[value], "top_logprobs": tops}, ends[1]]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Desk]:
    with completions(biased) as port, desk(tmp_path / "desk", FILE.format(port=port)) as one:
        yield one


def labelled(served: Desk, number: int) -> str:
    """One question, and what a person says was right; returns the request's id."""
    reply = served.http.post(f"{served.url}/predict", json={"input": text_of(number)}).raise_for_status()
    label = {"intent": "refund", "urgency": truth_of(number)}
    value = {"request_id": reply.json()["request_id"], "value": label}
    served.http.post(f"{served.url}/feedback", json=value).raise_for_status()
    return reply.json()["request_id"]


@contextmanager
def callers(served: Desk) -> Iterator[list[str]]:
    """Callers who keep asking; yields what was not answered well."""
    done, failed = threading.Event(), list[str]()

    def ask() -> None:
        with httpx.Client(base_url=served.url, timeout=30) as http:
            number = 0
            while not done.wait(0.02):
                number = (number + 1) % 40
                headers = {"x-trimtab-caller": f"caller {number}", "x-trimtab-group": GROUPS[number % 2]}
                reply = http.post("/predict", json={"input": text_of(number)}, headers=headers)
                if reply.status_code != 200:
                    failed.append(reply.text)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield failed
    finally:
        done.set()
        thread.join()


def chat(served: Desk, text: str, group: str | None, **more: object) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": text}], **more}
    headers = {} if group is None else {"x-trimtab-group": group}
    return served.http.post(f"{served.url}/v1/chat/completions", json=body, headers=headers)


def urgency(reply: httpx.Response) -> str:
    return json.loads(reply.raise_for_status().json()["choices"][0]["message"]["content"])["urgency"]


def test_thresholds_are_proved_registered_promoted_and_decide_for_a_declared_group_that_nothing_remembers(
    served: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "LOOK_SECONDS", 0.2)
    with ThreadPoolExecutor(12) as pool:
        ids = list(pool.map(lambda number: labelled(served, number), range(ROWS)))
    side = tmp_path / "groups.csv"
    lines = [f"{identity},{GROUPS[number % 2]}" for number, identity in enumerate(ids)]
    side.write_text("\n".join(["id,dialect", *lines]))
    few = tmp_path / "few.csv"
    few.write_text("\n".join(["id,dialect", *lines[1::2], *lines[0:120:2]]))
    where = ["--project", str(served.settings.root)]

    refused = CliRunner().invoke(app, ["fairness", "mitigate", "--method", "thresholds", *where])
    assert refused.exit_code != 0
    assert "tried alone, on the groups of a side file" in str(refused.exception)
    small = CliRunner().invoke(app, ["fairness", "mitigate", "--method", "thresholds", "--groups", str(few), *where])
    assert small.exit_code != 0
    assert isinstance(small.exception, Fixable), small.output
    assert "thresholds by group need 50 of each" in str(small.exception)
    assert re.fullmatch(r"collect about \d+ more of group sentinel-\w+, .*", small.exception.fix)
    with callers(served) as failed:
        asked = ["fairness", "mitigate", "--method", "thresholds", "--groups", str(side), "--roll-out", *where]
        done = CliRunner().invoke(app, asked)
        assert done.exit_code == 0, done.output + str(done.exception)
    assert not failed
    assert "thresholds by dialect, equalized_odds: accepted" in done.output
    (record,) = served.control.facts("mitigation", MitigationRun)
    assert [one.accepted for one in record.attempts] == [True], record
    champion = served.control.alias(MODEL, "champion")
    made = registry.get(served.control, MODEL, champion or 0)
    assert made.parent == 1
    assert made.spec.thresholds is not None
    assert set(made.spec.thresholds.groups) == set(GROUPS)
    until(lambda: served.ask("Pain 1", "probe").headers["x-trimtab-version"] == f"{MODEL}/{made.version}")

    # Between the model's line and the mended one of the second group: declared, it is decided as the first group's.
    unfair = [f"Pain {pain} of 100, a wee bit." for pain in range(54, 59)]
    assert {urgency(chat(served, text, None)) for text in unfair} == {"low"}
    assert {urgency(chat(served, text, UNKNOWN)) for text in unfair} == {"low"}
    own = [urgency(chat(served, text, GROUPS[1])) for text in unfair]
    assert own.count("high") >= 4
    assert own == [urgency(chat(served, text, GROUPS[1])) for text in unfair]
    predicted = served.http.post(
        f"{served.url}/predict", json={"input": unfair[-1]}, headers={"x-trimtab-group": GROUPS[1]}
    )
    assert predicted.json()["output"]["urgency"] == own[-1]
    assert "logprob" not in chat(served, unfair[0], GROUPS[1]).text
    for more in ({"stream": True}, {"logprobs": True}, {"n": 2}, {"temperature": 1}):
        reply = chat(served, unfair[0], GROUPS[1], **more)
        assert (reply.status_code, next(iter(more)) in reply.text) == (400, True), reply.text
        assert GROUPS[1] not in reply.text
    batch, headers = {"inputs": unfair[:2]}, {"x-trimtab-group": GROUPS[1]}
    assert served.http.post(f"{served.url}/invocations", json=batch, headers=headers).status_code == 400
    assert served.http.post(f"{served.url}/invocations", json=batch).status_code == 200
    assert chat(served, unfair[0], GROUPS[1]).headers["x-trimtab-version"] == f"{MODEL}/{made.version}"

    explained = until(lambda: _explained(served, predicted.json()["request_id"]))
    assert explained.mitigations == ("thresholds by a declared group: dialect, equalized_odds of urgency",)
    assert not any(group in explained.model_dump_json() for group in (*GROUPS, UNKNOWN))
    client = mlflow.MlflowClient(served.settings.mlflow_uri)
    experiment = client.get_experiment_by_name(MODEL)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.`rai.accepted` = 'true'")
    assert run.data.metrics["rai/fnr/dialect/gap/before"] != run.data.metrics["rai/fnr/dialect/gap/after"]
    assert served.control.last("audit", Audit, f"models:/{MODEL}/1/groups/") is not None

    assert served.stop() == 0
    lake = Lake(served.settings)
    rows = lake.sample(0, lake.count()).write_json()
    assert unfair[0] in rows
    assert not any(group in rows for group in (*GROUPS, UNKNOWN))
    for path in served.settings.root.rglob("*"):
        if path.is_file():
            held = path.read_bytes()
            assert UNKNOWN.encode() not in held, path
            if served.settings.journal in path.parents or served.settings.lake in path.parents:
                assert not any(group.encode() in held for group in GROUPS), path
    served.start()


def _explained(served: Desk, request_id: str) -> Any:
    try:
        return lifecycle.explain(served.settings, served.control, request_id)
    except Fixable:
        return None
