"""Writes a project whose loop has turned once, through the same doors as the real one: journal, drain, facts, aliases.

Version 1 answered until two new topics appeared; version 2 was rejected for fairness alone, version 3 passed and took
over. `tell(..., until="canary")` stops while version 3 is a canary.
"""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from trimtab import project
from trimtab import settings as environment
from trimtab.evaluation.compare import difference
from trimtab.lifecycle import compliance
from trimtab.monitor import alerts, quality
from trimtab.project import Loaded
from trimtab.promotion import decide, gates, sequential
from trimtab.records.gateway import EngineState
from trimtab.records.lifecycle import Cycle, CycleEnd, Progress, Step
from trimtab.records.monitor import Cluster, DriftReport, Verdict, Window
from trimtab.records.promotion import Answers, Decision, GateResult
from trimtab.records.record import Record
from trimtab.records.registry import AliasMove, Decoding, ModelVersion, Traffic, VersionSpec, Weights
from trimtab.records.training import DatasetVersion, Mitigation, TrainingRun
from trimtab.responsible import fairness
from trimtab.settings import Settings
from trimtab.store.control import Control
from trimtab.store.drain import drain
from trimtab.store.journal import Closed, FeedbackFrame, Journal

EXAMPLE = Path(__file__).parents[2] / "examples" / "support-triage"
NAME, CYCLE = "support-triage", "20261122-140512"
RECALL = (
    ("recall", "lumo", "battery", "serial"),
    (
        "Recall form wants 12 digits, my battery has 9. Which number I write?",
        "Only Lumo 20000 is recalled, or Lumo 10000 too?",
        "Is it safe to keep the recalled power bank in the flat until the box comes?",
    ),
)
PHISHING = (
    ("text", "link", "parcel", "fee"),
    (
        "Got a text with a link about a customs fee for my parcel. Is that really you?",
        "Somebody called and asked for the code from my app. Was that your team?",
    ),
)


@dataclass
class Story:
    """The project on disk, and a clock that the telling moves on."""

    settings: Settings
    loaded: Loaded
    control: Control
    at: datetime
    rows: int = 0

    def put(self, kind: str, key: str, record: Record) -> None:
        assert self.control.put(kind, key, record)


def begin(folder: Path, at: datetime) -> Story:
    """The example project in an empty folder, with nothing recorded."""
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("tickets*", "messages", ".*"))
    where = environment.load(folder)
    return Story(where, project.load(folder), Control(where), at)


def tell(folder: Path, end: datetime, until: Literal["canary", "promoted"] = "promoted") -> Story:
    """Write the whole state into an empty folder; the last request is answered near `end`."""
    story = begin(folder, end - timedelta(seconds=560))
    register(story)
    _traffic(story, 205, seconds=1.0, right=0.93)
    _watch(story, 1, 100, 200, 0.412, "ok", ())
    _traffic(story, 100, seconds=1.0, right=0.55)
    clusters = (_cluster(story, *RECALL, 21, 0), _cluster(story, *PHISHING, 13, 1))
    _watch(story, 1, 200, 300, 0.001, "breach", clusters)
    _cycle(story)
    _rollout(story, until)
    if until == "promoted":
        version = story.control.get("version", f"{NAME}/3", ModelVersion)
        assert version is not None
        found = compliance.evaluate(story.settings, story.loaded, story.control, version, story.at)
        compliance.record(story.loaded, story.control, found)
    return story


def register(story: Story) -> None:
    """Version 1, and it is champion."""
    _version(story, 1, None, None)
    story.control.move([_move(story, "champion", None, 1, "register", "the first registered version", None)])


def answered(story: Story) -> Closed:
    """One answered request as a gateway writes it."""
    ticket = {"ticket_id": "H1-0001", "message": "Where is my parcel?"}
    return _closed(story, ticket, '{"intent":"delivery"}', 1, False, random.Random(1))  # noqa: S311


def _traffic(story: Story, count: int, *, seconds: float, right: float, share: float = 0.0, version: int = 1) -> None:
    """Requests with labels that came later; `share` of them go to version 3 as a canary."""
    lot = random.Random(story.rows)  # noqa: S311
    lines = (EXAMPLE / ("tickets-period1.jsonl" if story.rows < 200 else "tickets-period2.jsonl")).read_text()
    tickets = [json.loads(line) for line in lines.splitlines()]
    journal = Journal(story.settings.journal)
    for _ in range(count):
        ticket, canary = tickets[story.rows % len(tickets)], lot.random() < share
        label = {field: ticket[field] for field in ("intent", "title", "urgency")}
        ok = lot.random() < (0.94 if canary or version == 3 else right)
        answer = label if ok else label | {"intent": "howto" if label["intent"] != "howto" else "fault"}
        journal.closed(_closed(story, ticket, json.dumps(answer), 3 if canary else version, canary, lot))
        if lot.random() < 0.7:
            millis = int(story.at.timestamp() * 1000)
            journal.feedback(FeedbackFrame(f"f{story.rows}", millis, str(story.rows), None, "label", label, "human"))
        story.rows += 1
        story.at += timedelta(seconds=seconds * lot.uniform(0.2, 1.8))
    journal.close()
    assert drain(story.settings) == count


def _closed(story: Story, ticket: dict, answer: str, version: int, canary: bool, lot: random.Random) -> Closed:
    lost = lot.random() < 0.012
    return Closed(
        request_id=str(story.rows),
        client_request_id=ticket["ticket_id"],
        caller=ticket["ticket_id"],
        requester="local",
        model=NAME,
        version=version,
        route="canary" if canary else "champion",
        path="/predict",
        at_ms=int(story.at.timestamp() * 1000),
        request=b"{}",
        status_code=504 if lost else 200,
        duration_ms=int(lot.lognormvariate(5.2 if version == 1 else 4.9, 0.3)),
        ttfb_ms=None,
        input_tokens=80,
        output_tokens=14,
        outcome="timeout" if lost else "ok",
        input_text=ticket["message"],
        output_text=None if lost else answer,
        response=b"{}",
    )


def _version(story: Story, number: int, parent: int | None, mitigation: str | None) -> None:
    labels = story.loaded.labels
    spec = VersionSpec(
        model=NAME,
        base=Weights(name="smollm2-135m-instruct", sha256="5" * 64),
        adapter_sha256=None if parent is None else f"{number}c0ffee5" * 8,
        prompt=story.loaded.prompt,
        decoding=Decoding(max_tokens=32 + number),
        labels=labels,
    )
    note = "from trimtab.yaml" if parent is None else f"cycle {CYCLE}/{number - 1}: lora, mitigation {mitigation}"
    record = ModelVersion(
        spec=spec,
        version=number,
        run_id=f"run{number}",
        config_hash=story.loaded.hash,
        parent=parent,
        created_at=story.at,
        note=note,
    )
    story.put("version", f"{NAME}/{number}", record)
    state = "stopped" if number == 2 else "ready"
    story.control.set_engine(EngineState(model=NAME, version=number, state=state, at=story.at))


def _move(
    story: Story, alias: str, before: int | None, after: int | None, actor: str, reason: str, decision: str | None
) -> AliasMove:
    return AliasMove(
        model=NAME,
        alias=alias,
        before=before,
        after=after,
        at=story.at,
        actor=actor,
        reason=reason,
        decision=decision,
    )


def _watch(
    story: Story, champion: int, first: int, last: int, p: float, verdict: Verdict, clusters: tuple[Cluster, ...]
) -> None:
    """One look: a drift report, a quality report, and the alert they ask for."""
    start = story.at - timedelta(seconds=100)
    report = DriftReport(
        model=NAME,
        at=story.at,
        reference=Window(
            first=0, last=100, start=story.at - timedelta(seconds=300), end=story.at - timedelta(seconds=200)
        ),
        current=Window(first=first, last=last, start=start, end=story.at),
        test="MMD of vectors and words, Gaussian kernel, 999 permutations",
        statistic=0.031 if clusters else 0.008,
        p_value=p,
        alpha=0.01,
        n_reference=100,
        n_current=last - first,
        verdict=verdict,
        clusters=clusters,
    )
    story.put("drift_report", f"{NAME}/{champion}/{first}", report)
    for alert in alerts.due(story.loaded.project, "input_drift", champion, [report], [], story.at):
        story.put("alert", alert.key, alert)
    for look, n in enumerate((70, 140)):
        rate = 0.93 if champion == 3 or not clusters else 0.71
        _judge(story, champion, last - 140 + n, n, rate, look)


def _judge(story: Story, champion: int, last: int, n: int, rate: float, look: int) -> None:
    labels, time = story.loaded.labels, story.at + timedelta(seconds=look)
    assert labels is not None
    right, wrong = ({"intent": intent, "title": "Ms", "urgency": "high"} for intent in ("refund", "login"))
    rows = [
        quality.Answered(last - n + i, time, champion, labels.dump(right if i < n * rate else wrong), right)
        for i in range(n)
    ]
    report = quality.judge(
        rows, model=NAME, champion=champion, labels={champion: labels}, field="intent", minimum=0.6, looks=look, at=time
    )
    story.control.put("quality_report", alerts.report_key(report, champion), report)


def _cluster(story: Story, terms: tuple[str, ...], examples: tuple[str, ...], n: int, before: int) -> Cluster:
    grown = difference(n, 100, before, 100)
    assert grown is not None
    return Cluster(
        terms=terms,
        examples=examples,
        n=n,
        share=n / 100,
        share_reference=before / 100,
        difference=grown,
        began_at=story.at - timedelta(seconds=96),
    )


def _cycle(story: Story) -> None:
    cut = story.at
    trigger = f"{NAME}/input_drift/1/1"
    story.put("cycle", CYCLE, Cycle(id=CYCLE, model=NAME, opened_at=cut, trigger=trigger, champion=1, cut=cut))
    for attempt, mitigation in ((1, "none"), (2, "counterfactual_augmentation")):
        _curate_and_train(story, attempt, mitigation)
        found = [_quality_gate(attempt + 1), _latency_gate(attempt + 1), _fairness_gate(attempt)]
        for gate, name in zip(found, ("compare", "compare", "fairness"), strict=True):
            story.put("gate", f"{CYCLE}/{attempt}/{gate.gate}", gate)
            story.control.put("step", f"{CYCLE}/{attempt}/{name}", _step(story, attempt, name, 21, gate.verdict))
        key = f"{CYCLE}/{attempt}"
        required = ("quality", "fairness", "latency")
        made = decide.decide(
            key=key,
            model=NAME,
            candidate=attempt + 1,
            champion_compared=1,
            champion_now=1,
            gates=found,
            required=required,
            now=story.at,
        )
        story.put("decision", key, made)
        story.put("step", f"{key}/decide", _step(story, attempt, "decide", 0.4, made.outcome))


def _curate_and_train(story: Story, attempt: int, mitigation: Mitigation) -> None:
    labels, key = story.loaded.labels, f"{CYCLE}/{attempt}"
    assert labels is not None
    dataset = DatasetVersion(
        hash=f"{attempt}" * 64,
        recipe="r" * 64,
        mitigation=mitigation,
        path="",
        n_train=148 * attempt,
        n_holdout=63,
        n_frames=94,
        labels=labels,
        new_labels={"intent": ("recall", "phishing")},
        excluded={"unlabelled": 94, "duplicate": 3},
        nearest_leak=0.71,
        cut=story.at,
    )
    run = TrainingRun(
        key=key,
        dataset_hash=dataset.hash,
        base_sha256="5" * 64,
        params={"rank": 8, "epochs": 3},
        steps=56 * attempt,
        loss_first=2.31,
        loss_last=0.14 / attempt,
        seconds=31 * attempt,
        adapter_sha256=f"{attempt + 1}c0ffee5" * 8,
    )
    story.put("output", f"{key}/curate", dataset)
    story.put("training_run", key, run)
    for name, seconds, summary in (
        ("curate", 1.8, f"{dataset.n_train} train, {dataset.n_holdout} hold-out"),
        ("train", run.seconds, f"{run.steps} steps"),
        ("register", 3.1, f"version {attempt + 1}"),
    ):
        story.put("step", f"{key}/{name}", _step(story, attempt, name, seconds, summary))
    _version(story, attempt + 1, 1, mitigation)


def _step(story: Story, attempt: int, name: str, seconds: float, summary: str) -> Step:
    output = f"{CYCLE}/{attempt}/{name}"
    return Step(cycle=CYCLE, attempt=attempt, name=name, at=story.at, seconds=seconds, summary=summary, output=output)


def _answers(version: int, right: int, n: int, seconds: float) -> Answers:
    lot, good, bad = random.Random(version), {"intent": "refund"}, {"intent": "login"}  # noqa: S311
    answers = tuple(good if i < right else bad for i in range(n))
    times = tuple(seconds * lot.uniform(0.8, 1.3) for _ in range(n))
    return Answers(version=version, suite="s", answers=answers, seconds=times)


def _quality_gate(candidate: int) -> GateResult:
    return gates.quality_gate(
        _answers(candidate, 57, 63, 0.12),
        _answers(1, 33, 63, 0.18),
        [{"intent": "refund"}] * 63,
        ["intent"],
        mode="non_inferior",
        margin=0.02,
        baselines={"bare base": _answers(0, 6, 63, 0.1)},
    )


def _latency_gate(candidate: int) -> GateResult:
    return gates.latency_gate(_answers(candidate, 57, 63, 0.12), _answers(1, 33, 63, 0.18), factor=2.5)


def _fairness_gate(attempt: int) -> GateResult:
    """100 pairs; the first candidate answers "high" less often under the second group's names."""
    changed = 17 if attempt == 1 else 1
    pairs = [({"urgency": "high"}, {"urgency": "low" if i < changed else "high"}) for i in range(60)]
    pairs += [({"urgency": "low"}, {"urgency": "low"})] * 40
    return fairness.counterfactual_gate(
        pairs,
        [("a", "b")] * 100,
        field="urgency",
        favourable=("high",),
        deadband=0.02,
        max_disparity=0.1,
        names=[("Emily Walsh", "Lakisha Washington")] * 100,
        texts=["The strap broke on day two and I fly tomorrow morning. What now?"] * 100,
    )


def _rollout(story: Story, until: str) -> None:
    key, actor = f"{CYCLE}/2", f"cycle {CYCLE}"
    challenge = _move(story, "challenger", None, 3, actor, "passed every gate; loaded beside the champion", key)
    story.control.move([challenge], _share(story, None, 0, "before the first canary step"))
    for percent in (25, 50):
        story.control.put_traffic(_share(story, 3, percent, f"canary step of decision {key}"))
        _traffic(story, 60, seconds=1.0, right=0.6, share=percent / 100)
        done = percent == 25 or until == "promoted"
        _look(story, key, percent, *((17, 43, 1, 9) if percent == 25 else (46, 74, 3, 17)), 15 if done else 9)
    if until == "canary":
        _running(story)
        return
    end = [
        _move(story, "champion", 1, 3, actor, "passed every gate and every canary step", key),
        _move(story, "challenger", 3, None, actor, "promoted", key),
    ]
    story.control.move(end, _share(story, None, 0, "promoted"))
    made = story.control.get("decision", key, Decision)
    assert made is not None
    outcome = CycleEnd(cycle=CYCLE, at=story.at, outcome="promoted", summary="; ".join(made.reasons), version=3)
    story.put("cycle_end", CYCLE, outcome)
    _traffic(story, 135, seconds=1.0, right=0.94, version=3)
    _watch(story, 3, 425, 525, 0.287, "ok", ())


def _share(story: Story, version: int | None, percent: float, reason: str) -> Traffic:
    return Traffic(model=NAME, version=version, percent=percent, at=story.at, reason=reason)


def _look(story: Story, key: str, percent: int, n: int, m: int, failed: int, failed_before: int, in_step: int) -> None:
    look = sequential.look(
        model=NAME,
        candidate=3,
        percent=percent,
        n_canary=n,
        n_champion=m,
        failures_canary=failed,
        failures_champion=failed_before,
        answered_in_step=in_step,
        step_requests=15,
        alpha=0.05,
        now=story.at,
    )
    story.put("rollout_look", f"{key}/{percent}/{n}/{m}/{failed}", look)


def _running(story: Story) -> None:
    """The cycle is in its rollout: what the progress file says meanwhile."""
    progress = Progress(
        cycle=CYCLE,
        attempt=2,
        step="roll out",
        fraction=0.8,
        eta_seconds=24,
        text="50% of callers: 9 of 15 requests of this step are answered",
        at=story.at,
    )
    story.settings.runtime.mkdir(parents=True, exist_ok=True)
    story.settings.progress_file.write_text(progress.model_dump_json())
