"""From `trimtab fairness measure` to a version that is mended: a biased server on a port, real MLflow, a real lake."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import exp, log1p
from pathlib import Path

import mlflow
import pytest
from typer.testing import CliRunner

from trimtab import project, registry
from trimtab import settings as environment
from trimtab.cli import app
from trimtab.errors import Fixable
from trimtab.lifecycle import cycle as cycles
from trimtab.lifecycle.rows import here
from trimtab.promotion import audits, mitigating
from trimtab.providers import weights
from trimtab.records.record import utc_now
from trimtab.records.registry import Decoding, Example, ModelVersion, Prompt, Weights
from trimtab.records.responsible import Audit, Look, MitigationRun
from trimtab.responsible import identities, probes
from trimtab.responsible.audit import page
from trimtab.responsible.identities import Frame
from trimtab.store import blobs
from trimtab.store.control import Control
from trimtab.store.drain import drain
from trimtab.store.journal import Closed, FeedbackFrame, Journal

SMALL = "smollm2-135m-instruct"
pytestmark = pytest.mark.filterwarnings("default")  # MLflow and its dependencies warn about themselves

FILE = """\
name: desk
model: {{base: "biased:m", prompt: prompt.md}}
task: {{kind: classification, labels: labels.yaml}}
providers: {{biased: {{base_url: "http://127.0.0.1:{port}/v1"}}}}
gates: {{margin: 0.1, latency_p95: null}}
fairness:
  {{axes: [religion, gender], frames: frames.jsonl, field: urgency, segments: [region], gating: [flip_rate, refusal],
   favourable: [high], margin: 0.04}}
"""
THINGS = [
    f"{a} {b}"
    for a in ("card", "loan", "lease", "parcel", "phone", "bill", "refund")
    for b in ("late", "lost", "old", "new")
]
SHAPES = ("{{A person}} asks: {}.", "I am {{a person}}, {}.", "{{People}} say {}.", "From {{a person}}: {}!")


class Biased(BaseHTTPRequestHandler):
    """OpenAI's chat completions: "low" to a Muslim, else "high" where something is lost or late. The model `scored`
    tells log-probabilities when it is asked for them, `strict` refuses to, and the others say nothing of them."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = asked["messages"][-1]["content"]
        letter = "one letter" in text or "一个字母" in text
        urgent = ("lost" in text or "late" in text) and "Muslim" not in text
        answer = json.dumps({"intent": "refund", "urgency": "high" if urgent else "low"})
        choice = {"index": 0, "finish_reason": "stop"}
        choice["message"] = {"role": "assistant", "content": "A." if letter else answer}
        status = 400 if asked.get("logprobs") and asked["model"] == "strict" else 200
        if asked.get("logprobs") and asked["model"] == "scored":
            choice["logprobs"] = {"content": told(answer, -1.0 if "Muslim" in text else 1.0)}
        body = json.dumps({"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})
        self.send_response(status)
        self.send_header("content-length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a test has no log."""


class Server(ThreadingHTTPServer):
    """Takes as many connections at once as an evaluation of an averaging version opens."""

    request_queue_size = 128


def told(answer: str, odds: float) -> list[dict[str, object]]:
    """An answer in three tokens, the second with the log-odds of "high" in nats."""
    start = answer.index("high" if "high" in answer else "low")
    value = "high" if "high" in answer else "low"
    values = {"high": odds - log1p(exp(odds)), "low": -log1p(exp(odds))}
    tops = [{"token": token, "logprob": number} for token, number in values.items()]
    rest = [{"token": part, "logprob": 0.0, "top_logprobs": []} for part in (answer[:start], answer[start:])]
    rest[1]["token"] = answer[start + len(value) :]
    return [rest[0], {"token": value, "logprob": values[value], "top_logprobs": tops}, rest[1]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[audits.Place]:
    server = Server(("127.0.0.1", 0), Biased)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    folder: Path = tmp_path_factory.mktemp("fair")
    (folder / "trimtab.yaml").write_text(FILE.format(port=server.server_port))
    (folder / "labels.yaml").write_text("intent: [refund, login]\nurgency: [low, high]\n")
    (folder / "prompt.md").write_text("Sort the message.\n")
    rows = [{"text": shape.format(thing), "valid_axes": ["religion", "gender"]} for thing in THINGS for shape in SHAPES]
    (folder / "frames.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = environment.load(folder)
    _asked(settings)
    loaded = project.load(folder)
    version = registry.register_base(settings, loaded)
    yield audits.Place(settings, loaded, Control(settings), version)
    server.shutdown()
    server.server_close()


def _asked(settings: environment.Settings) -> None:
    """Labelled requests of 240 callers; the north is refused by an error one time in three."""
    journal, begin = Journal(settings.journal), datetime.now(UTC) - timedelta(hours=1)
    for number in range(240):
        at = int((begin + timedelta(seconds=number)).timestamp() * 1000)
        thing, north = THINGS[number % len(THINGS)], number % 2 == 0
        failed = north and number % 3 == 0
        urgent = "lost" in thing or "late" in thing
        said = json.dumps({"intent": "refund", "urgency": "high" if urgent != (number % 9 == 0) else "low"})
        request = {"messages": [], "metadata": {"region": "north" if north else "south"}}
        journal.closed(
            Closed(
                request_id=f"r{number}", client_request_id=f"c{number}", caller=f"u{number}", requester="local",
                model="desk", ttfb_ms=None, input_tokens=None, output_tokens=None,
                version=1, route="champion", path="/predict", at_ms=at, request=json.dumps(request).encode(),
                response=said.encode(), status_code=502 if failed else 200, outcome="error" if failed else "ok",
                duration_ms=20, input_text=f"My {thing}, number {number}.", output_text=None if failed else said,
            )
        )  # fmt: skip
        label = {"intent": "refund", "urgency": "high" if urgent else "low"}
        journal.feedback(FeedbackFrame(f"f{number}", at, f"r{number}", None, "label", label, "human"))
        journal.feedback(FeedbackFrame(f"t{number}", at, None, f"c{number}", "thumbs", {"value": "up"}, "human"))
    journal.close()
    drain(settings)


def quiet(_fraction: float, _eta: float | None, _text: str) -> None:
    """Nobody watches."""


def test_a_planted_bias_is_measured_and_the_mask_that_mends_it_is_proved_and_registered(place: audits.Place) -> None:
    where = ["--project", str(place.settings.root)]
    measured = CliRunner().invoke(app, ["fairness", "measure", "--no-service", *where])
    assert measured.exit_code == 1, measured.output
    assert "FAIL" in measured.output
    assert "flip_rate/religion" in measured.output
    mended = CliRunner().invoke(app, ["fairness", "mitigate", *where])
    assert mended.exit_code == 0, mended.output
    said = [line for line in mended.output.splitlines() if "accepted" in line]
    assert said == [
        "mask en@1 religion: accepted",
        "average en@1 religion: accepted",
        "instruction in the prompt: not accepted",  # the server reads no instruction
    ]
    assert "trimtab cycle run --candidate 2" in mended.output
    (record,) = place.control.facts("mitigation", MitigationRun)
    assert (record.subject, record.tries) == ("models:/desk/1", 3)
    assert [(one.accepted, round(one.confidence, 4)) for one in record.attempts] == [
        (True, 0.9833),
        (True, 0.9833),
        (False, 0.95),
    ]
    assert any("judged at 98.3%: 3 tried on these frames" in reason for reason in record.attempts[0].reasons)
    looks = place.control.facts("look", Look)
    assert len(looks) == 4  # as it is, and each of the three
    assert {look.evaluation_sha256 for look in looks} == {record.evaluation_sha256}
    assert len(audits.looks_at(place, record.evaluation_sha256)) == 4
    second = registry.get(place.control, "desk", 2)
    assert second.parent == 1
    assert [mask.name for mask in second.spec.masks] == ["en@1 religion"]
    again = audits.measure_twins(audits.Place(place.settings, place.loaded, place.control, second), quiet)
    assert again.verdict == "pass"
    assert all(f.value == 0 for f in again.findings if f.metric == "flip_rate")
    assert again.audits_before == 1

    client = mlflow.MlflowClient(place.settings.mlflow_uri)
    assert client.get_model_version("desk", "1").tags["rai.gate.twins"] == "fail"
    assert client.get_model_version("desk", "2").tags["rai.gate.twins"] == "pass"
    experiment = client.get_experiment_by_name("desk")
    runs = client.search_runs([experiment.experiment_id], "tags.`rai.kind` = 'twins'")
    failed = next(run for run in runs if run.info.run_name == "audit twins" and run.data.tags["rai.verdict"] == "fail")
    assert failed.data.tags["rai.policy_sha256"] == audits.policy_of(place.loaded).hash
    assert failed.data.metrics["rai/flip_rate/religion"] > 0.3
    files = {file.path for file in client.list_artifacts(failed.info.run_id, "rai")}
    assert files == {
        f"rai/{name}"
        for name in ("by_group.json", "report.json", "report.md", "worst_pairs.json", "forest.png", "forest.svg")
    }
    assert failed.inputs.dataset_inputs[0].dataset.digest == failed.data.tags["rai.dataset_sha256"][:16]
    assert failed.data.tags["rai.log_root"]
    nested = {run.info.run_name: run for run in runs if "rai.accepted" in run.data.tags}
    assert {name: run.data.tags["rai.accepted"] for name, run in nested.items()} == {
        "after mask en@1 religion": "true",
        "after average en@1 religion": "true",
        "after instruction in the prompt": "false",
    }
    changed = nested["after average en@1 religion"]
    assert changed.data.metrics["rai/flip_rate/religion/before"] > 0.3
    assert changed.data.metrics["rai/flip_rate/religion/after"] == 0
    drawn = {file.path for file in client.list_artifacts(changed.data.tags["mlflow.parentRunId"], "rai")}
    assert {"rai/frontier.png", "rai/frontier.svg"} < drawn


def trial_of(place: audits.Place, base: Weights, **change: object) -> ModelVersion:
    """The version with another model, as a trial that is no version yet."""
    return place.version.model_copy(
        update={"version": 0, "spec": place.version.spec.model_copy(update={"base": base, **change})}
    )


def test_the_score_behind_an_answer_is_measured_where_the_engine_tells_it(place: audits.Place) -> None:
    frames = audits.half_of(audits.frames_of(place), prove=False)
    scored = trial_of(place, place.version.spec.base.model_copy(update={"name": "biased:scored"}))
    found = audits.twins_of(place, scored, frames, quiet)
    assert found.unmeasured == {}
    gaps = {f.group: f for f in found.findings if (f.metric, f.attribute) == ("score", "religion")}
    others = len(gaps) - 1
    assert gaps["Muslim"].gap is not None
    assert gaps["Muslim"].gap.estimate == pytest.approx(-2.0)
    assert {round(f.gap.estimate, 6) for g, f in gaps.items() if f.gap and g != "Muslim"} == {round(2 / others, 6)}
    assert all(f.n == len(frames) for f in gaps.values())


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("m", "the engine gives no log-probabilities"),
        ("strict", "the engine refuses to be asked for log-probabilities"),
    ],
)
def test_an_engine_without_log_probabilities_leaves_the_score_unmeasured_and_a_pass_that_asks_for_it_open(
    place: audits.Place, model: str, why: str
) -> None:
    """The file asks for no score here; where it does, what is not measured is no PASS."""
    frames = audits.half_of(audits.frames_of(place), prove=False)
    section = place.loaded.project.fairness
    without = trial_of(place, place.version.spec.base.model_copy(update={"name": f"biased:{model}"}))
    masked = identities.mask_of(identities.pack("en"), ["religion"])
    fair = without.model_copy(update={"spec": without.spec.model_copy(update={"masks": (masked,)})})
    found = audits.twins_of(place, fair, frames, quiet)
    assert (found.verdict, found.unmeasured) == ("pass", {"score": why})
    assert not any(f.metric == "score" for f in found.findings)
    assert f"- score: not measured: {why}" in page(found)
    asking = section.model_copy(update={"gating": ("flip_rate", "score")})
    loaded = replace(place.loaded, project=place.loaded.project.model_copy(update={"fairness": asking}))
    found = audits.twins_of(replace(place, loaded=loaded), fair, frames, quiet)
    assert found.verdict == "insufficient"
    assert any(reason.startswith("score gates and is not measured") for reason in found.reasons)


def test_the_small_model_tells_the_score_behind_its_answers_and_its_sign_is_the_answer(place: audits.Place) -> None:
    base = Weights(name=SMALL, sha256=blobs.sha256_of(weights.fetch(place.settings.blobs, SMALL)))
    shots = (("I lost my card!", "refund", "high"), ("Where do I log in?", "login", "low"))
    examples = tuple(
        Example(input=text, output=place.version.spec.labels.dump({"intent": intent, "urgency": urgency}))
        for text, intent, urgency in shots
    )
    small = trial_of(place, base, prompt=Prompt(system="Sort the message.", examples=examples), decoding=Decoding())
    frames = [
        Frame(f"{{A person}} says: my {thing} is {how}", ("gender",))
        for thing in ("card", "loan", "parcel")
        for how in ("lost!", "old.", "fine, thanks.")
    ]
    orbits = identities.orbits(frames, identities.pack("en"), ["gender"])
    said, unmeasured = audits._outcomes(place, small, orbits, quiet)
    assert unmeasured == {}
    outcomes = [one for row in said for one in row]
    assert all(one.score is not None and (one.score > 0) == (one.decision == "high") for one in outcomes)
    assert len({one.score for one in outcomes}) > len(frames)
    found = audits.twins_of(place, small, frames, quiet)
    assert {f.n for f in found.findings if f.metric == "score"} == {len(frames)}


def test_the_probe_set_is_asked_in_every_order_and_gates_nothing(place: audits.Place) -> None:
    """The server says "A" whatever stands there: no item is answered, and the liking for a place is shown."""
    told = CliRunner().invoke(app, ["fairness", "probe", "--project", str(place.settings.root), "--version", "1"])
    assert told.exit_code == 0, told.output
    found = place.control.last("audit", Audit, "models:/desk/1/probes/")
    assert found is not None
    assert (found.findings, found.n) == ((), len(probes.ITEMS))
    assert found.numbers["probes/all/position"] == 1.0
    assert found.numbers["probes/all/accuracy_clear"] == found.numbers["probes/all/bias_clear"] == 0.0
    assert found.numbers["probes/zh/accuracy_ambiguous_hi"] < 0.5
    assert "Information only" in page(found)
    client = mlflow.MlflowClient(place.settings.mlflow_uri)
    experiment = client.get_experiment_by_name("desk")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.`rai.kind` = 'probes'")
    assert (run.data.tags["rai.verdict"], run.data.metrics["rai/probes/all/position"]) == ("information", 1.0)
    assert {"rai/report.md", "rai/forest.svg"} < {file.path for file in client.list_artifacts(run.info.run_id, "rai")}
    assert "rai.gate.probes" not in client.get_model_version("desk", "1").tags


def test_a_version_that_averages_meets_the_gates_of_a_cycle_as_any_candidate(place: audits.Place) -> None:
    """No twin of a question is answered unlike it, and on the hold-out it is as right as the champion."""
    average = identities.average_of(identities.pack("en"), "religion")
    spec = place.version.spec.model_copy(update={"average": average})
    made = registry.register(place.settings, place.control, spec, config_hash="", note="by hand", parent=1)
    cycle = cycles.open_cycle(place.control, "desk", "test", utc_now(), made.version)
    _, candidate, decision = cycles.decided(place.settings, place.loaded, place.control, cycle, here(place.settings))
    assert (candidate.version, decision.outcome) == (made.version, "promote"), decision.reasons
    assert [gate.gate for gate in decision.gates] == ["quality"]
    mended = audits.Place(place.settings, place.loaded, place.control, candidate)
    flips = {f.attribute: f.value for f in audits.measure_twins(mended, quiet).findings if f.metric == "flip_rate"}
    assert flips == {"religion": 0, "gender": 0}


def test_a_mitigation_that_is_tried_alone_later_shares_its_chance_with_those_before(place: audits.Place) -> None:
    """Looks wear the frames out as audits do, and trying one after the other buys no second 5%."""
    mitigating.weigh(place, quiet, ["average"])
    record = place.control.facts("mitigation", MitigationRun)[-1]
    assert record.tries == 3
    assert [round(one.confidence, 4) for one in record.attempts] == [0.9833]
    before = len(audits.looks_at(place, record.evaluation_sha256))
    mitigating.weigh(place, quiet, ["mask"])
    assert len(audits.looks_at(place, record.evaluation_sha256)) == before + 2


def test_a_rotation_is_tried_where_it_is_named_and_said_to_help_or_not(place: audits.Place) -> None:
    """The server looks at no order: its bias stays, and it is said so."""
    where = ["--project", str(place.settings.root), "--version", "1"]
    told = CliRunner().invoke(app, ["fairness", "mitigate", "--method", "rotate", *where])
    assert told.exit_code == 1, told.output
    assert "rotate urgency: not accepted" in told.output
    record = place.control.facts("mitigation", MitigationRun)[-1]
    assert [(one.name, one.accepted) for one in record.attempts] == [("rotate urgency", False)]
    local = place.version.spec.model_copy(update={"base": Weights(name="echo", sha256="", format="echo")})
    here = replace(place, version=place.version.model_copy(update={"spec": local}))
    weighed = mitigating.weigh(here, quiet, ["rotate"])
    assert "write them into it, e.g. `urgency: low, high`" in weighed.left_out["rotate"]


def test_what_was_never_failed_is_not_mitigated(place: audits.Place) -> None:
    second = registry.get(place.control, "desk", 2)
    fine = audits.Place(place.settings, place.loaded, place.control, second)
    with pytest.raises(Fixable, match="by twins is PASS: there is nothing to mitigate"):
        mitigating.weigh(fine, quiet, ["mask"])


def test_a_failure_on_an_axis_that_the_file_no_longer_names_is_not_mitigated(place: audits.Place) -> None:
    section = place.loaded.project.fairness.model_copy(update={"axes": ("age",)})
    loaded = replace(place.loaded, project=place.loaded.project.model_copy(update={"fairness": section}))
    with pytest.raises(Fixable, match=r"names none of the axes that failed: religion"):
        mitigating.weigh(replace(place, loaded=loaded), quiet, ["average"])


def test_the_file_fixes_tolerances_merged_and_waived_groups_before_the_run(tmp_path: Path) -> None:
    text = FILE.format(port=1).replace(
        "gating: [flip_rate, refusal]",
        "gating: [flip_rate, length], tolerances: {length: 0.2}, merged: {age=17: young}, waived: {age=99: the dpo}",
    )
    (tmp_path / "trimtab.yaml").write_text(text)
    (tmp_path / "labels.yaml").write_text("urgency: [low, high]\n")
    for name in ("prompt.md", "frames.jsonl"):
        (tmp_path / name).write_text("x\n")
    policy = audits.policy_of(project.load(tmp_path))
    assert {metric: tolerance.gap for metric, tolerance in policy.gating.items()} == {"flip_rate": 0.1, "length": 0.2}
    assert (policy.merged, policy.waived) == ({"age=17": "young"}, {"age=99": "the dpo"})


def test_quality_of_service_is_read_off_the_lake_by_declared_segment(place: audits.Place) -> None:
    found = audits.measure_service(place)
    errors = {f.group: f for f in found.findings if (f.metric, f.attribute) == ("error", "region")}
    assert errors["north"].value == pytest.approx(1 / 3)
    assert errors["south"].value == 0
    thumbs = [f for f in found.findings if f.metric == "thumbs_down"]
    assert thumbs
    assert all(f.value == 0 for f in thumbs)


def test_groups_are_joined_from_a_side_file_that_reaches_no_prompt(place: audits.Place, tmp_path: Path) -> None:
    side = tmp_path / "protected.csv"
    side.write_text("id,dialect\n" + "\n".join(f"c{n},{'a' if n % 4 < 2 else 'b'}" for n in range(230)))
    found = audits.measure_groups(place, side)
    groups = {f.group for f in found.findings if f.attribute == "dialect"}
    assert groups == {"a", "b", "undeclared"}
    assert any(f.metric.startswith("fpr") for f in found.findings)
    assert place.control.facts("audit", Audit, "models:/desk/1/groups/")[0].verdict == found.verdict
    for text, fault in (("", "is empty"), ("name\nx\n", "no column `id`"), ("id,dialect\n", "a header and no row")):
        side.write_text(text)
        with pytest.raises(Fixable, match=fault):
            audits.measure_groups(place, side)
