"""A fine-tune at a provider, on an independent emulator of its API; Azure's control plane is played at the HTTP border.

Rungs: OpenAI's own SDK against aimock (files, jobs, events); Microsoft's own SDK against recorded answers of ARM.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from arm import ACCOUNT, TOKEN, Arm
from emulator import KEY, Emulator, emulator
from trimtab import project
from trimtab import settings as environment
from trimtab.databricks import azure_deployments
from trimtab.errors import Fixable, StepFailed
from trimtab.project import Loaded
from trimtab.records.project import DeploymentSection
from trimtab.records.registry import LabelSet
from trimtab.records.training import Case, DatasetVersion, TrainingRun
from trimtab.settings import Settings
from trimtab.store.control import Control
from trimtab.training import hosted

pytestmark = pytest.mark.filterwarnings("default")  # the emulator's socket closes after the SDK's

LABELS = LabelSet(fields={"intent": ("refund", "login"), "urgency": ("low", "high")})
FILE = """\
name: desk
model: {{base: 'cloud:triage', prompt: prompt.md}}
task: {{kind: classification, labels: labels.yaml}}
providers: {{cloud: {{kind: azure, base_url: '{url}/openai/v1', key_env: EMULATED_KEY}}}}
retrain:
  method: hosted
  hosted: {{model: gpt-4.1-mini-2025-04-14, epochs: 2, price: 5, deployment: {{resource: {account}}}}}
"""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with emulator(tmp_path_factory.mktemp("cloud")) as running:
        yield running


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> Arm:
    played = Arm()
    monkeypatch.setattr(azure_deployments, "_open", lambda _section: played.client())
    monkeypatch.setattr(azure_deployments, "WAIT_SECONDS", 0)
    return played


@pytest.fixture
def place(tmp_path: Path, cloud: Emulator, monkeypatch: pytest.MonkeyPatch) -> tuple[Settings, Loaded]:
    monkeypatch.setenv("EMULATED_KEY", KEY)
    monkeypatch.setattr(hosted, "POLL_SECONDS", (0.0, 0.0))
    (tmp_path / "trimtab.yaml").write_text(FILE.format(url=cloud.url, account=ACCOUNT))
    (tmp_path / "labels.yaml").write_text("intent: [refund, login]\nurgency: [low, high]\n")
    (tmp_path / "prompt.md").write_text("Sort the message.\n")
    return environment.load(tmp_path), project.load(tmp_path)


def case(number: int, text: str = "") -> Case:
    label = {"intent": "refund", "urgency": "low"}
    return Case(request_id=str(number), at=datetime(2026, 11, 1, tzinfo=UTC), input=text or f"m {number}", label=label)


def dataset(settings: Settings, rows: int = 20) -> DatasetVersion:
    settings.datasets.mkdir(parents=True, exist_ok=True)
    lines = [case(number).model_dump_json() for number in range(rows)]
    (settings.datasets / "train.jsonl").write_text("\n".join(lines))
    return DatasetVersion(
        hash="d" * 64, recipe="r", mitigation="none", path=str(settings.datasets), n_train=rows, n_holdout=8,
        n_frames=0, labels=LABELS, nearest_leak=0.1, cut=datetime(2026, 11, 2, tzinfo=UTC),
    )  # fmt: skip


def tune(place: tuple[Settings, Loaded], control: Control, key: str, said: list[str] | None = None) -> TrainingRun:
    settings, loaded = place
    say = lambda _fraction, _eta, text: None if said is None else said.append(text)  # noqa: E731
    return hosted.fine_tune(
        settings, control, loaded.project, dataset(settings), key=key, system="Sort the message.", say=say
    )


def posts(cloud: Emulator, since: int) -> list[str]:
    return [one["path"] for one in cloud.heard()[since:] if one["method"] == "POST"]


def test_rows_become_a_job_its_model_a_deployment_and_all_of_it_stands_in_the_run(
    place: tuple[Settings, Loaded], cloud: Emulator, arm: Arm
) -> None:
    settings, _ = place
    since, said = len(cloud.heard()), list[str]()
    run = tune(place, Control(settings), "c1/1", said)
    heard = cloud.heard()[since:]
    (asked,) = [one["body"] for one in heard if one["path"].endswith("/jobs") and one["method"] == "POST"]
    assert asked["model"] == "gpt-4.1-mini-2025-04-14"
    assert asked["method"] == {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}}
    assert all("api-key" in one["headers"] for one in heard)
    made = run.hosted
    assert made is not None
    assert made.files["training"] == asked["training_file"]
    assert made.model.startswith("ft:gpt-4.1-mini-2025-04-14:aimock:desk:")
    lines = "".join(
        json.dumps(
            {
                "messages": [
                    {"role": "system", "content": "Sort the message."},
                    {"role": "user", "content": f"m {number}"},
                    {"role": "assistant", "content": '{"intent":"refund","urgency":"low"}'},
                ]
            }
        )
        + "\n"
        for number in range(20)
    )
    assert made.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    name = made.served.removeprefix("cloud:")
    assert arm.puts() == [
        (
            f"{ACCOUNT}/deployments/{name}",
            {
                "sku": {"name": "Standard", "capacity": 1},
                "properties": {"model": {"format": "OpenAI", "name": made.model, "version": "1"}},
            },
        )
    ]
    assert any("queued" in text for text in said)
    assert any("running: Training started" in text for text in said)
    log = (settings.logs / "training" / "c1/1.log").read_text().splitlines()
    assert log[:2] == ["Job created, validating training file", "Training file validated, job queued"]
    kept = [path for path in settings.root.rglob("*") if path.is_file()]
    assert [path for path in kept if {KEY, TOKEN} & set(_words(path))] == []


def _words(path: Path) -> list[str]:
    text = path.read_bytes().decode(errors="replace")
    return [secret for secret in (KEY, TOKEN) if secret in text]


class Killed(BaseException):
    """The process is no more."""


class Mortal(Control):
    """A database whose process is killed right before, or right after, it writes a kind of fact."""

    def __init__(self, settings: Settings, kind: str, before: bool) -> None:
        super().__init__(settings)
        self.kind, self.before = kind, before

    def put(self, kind: str, key: str, record: Any) -> bool:
        if kind == self.kind and self.before:
            raise Killed
        made = super().put(kind, key, record)
        if kind == self.kind:
            raise Killed
        return made


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("kind", ["hosted_file", "hosted_job"])
def test_a_run_killed_beside_any_write_uploads_starts_and_deploys_once(
    place: tuple[Settings, Loaded], cloud: Emulator, arm: Arm, kind: str, before: bool
) -> None:
    settings, _ = place
    key, since = f"{kind}/{before}", len(cloud.heard())
    with pytest.raises(Killed):
        tune(place, Mortal(settings, kind, before), key)
    first = tune(place, Control(settings), key)
    again = tune(place, Control(settings), key)  # killed after all of it, before the step was written
    assert first == again
    assert posts(cloud, since) == ["/openai/v1/files", "/openai/v1/fine_tuning/jobs"]
    assert len(arm.puts()) == 1


def test_a_provider_that_is_away_breaks_the_step_off_and_what_it_lost_is_found_again(
    place: tuple[Settings, Loaded], cloud: Emulator, arm: Arm, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _ = place
    control, since = Control(settings), len(cloud.heard())
    with pytest.raises(Killed):
        tune(place, Mortal(settings, "hosted_job", False), "away/1")
    monkeypatch.setattr(hosted, "PATIENCE_SECONDS", -1.0)
    cloud.misbehave(disconnectRate=1)
    try:
        with pytest.raises(StepFailed, match=r"does not answer.*job ftjob-\S+ goes on"):
            tune(place, control, "away/1")
    finally:
        cloud.misbehave()
    arm.faults = [503]
    with pytest.raises(StepFailed, match="Azure answered 503"):
        tune(place, control, "away/1")
    assert tune(place, control, "away/1").hosted
    assert posts(cloud, since) == ["/openai/v1/files", "/openai/v1/fine_tuning/jobs"]


@pytest.mark.parametrize(("status", "message"), [(401, "does not know us"), (403, "refused the deployment")])
def test_what_azure_refuses_is_named_and_mendable(
    place: tuple[Settings, Loaded], arm: Arm, status: int, message: str
) -> None:
    arm.faults = [status]
    with pytest.raises(Fixable, match=message) as refused:
        azure_deployments.deploy(DeploymentSection(resource=ACCOUNT), "desk-1", "ft:x", lambda _text: None)
    assert TOKEN not in str(refused.value)


def test_a_name_that_serves_another_model_is_not_taken(arm: Arm) -> None:
    section = DeploymentSection(resource=ACCOUNT)
    azure_deployments.deploy(section, "desk-1", "ft:a", lambda _text: None)
    with pytest.raises(Fixable, match="serves ft:a, not ft:b"):
        azure_deployments.deploy(section, "desk-1", "ft:b", lambda _text: None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_usd": 0.001}, r"estimated at 0\.\d\d USD; retrain.hosted.max_usd is 0.001"),
        ({"training_type": "GlobalStandard"}, "refused"),  # the emulator does not know Azure's own field
    ],
)
def test_a_refusal_is_named_before_anything_was_started(
    place: tuple[Settings, Loaded], cloud: Emulator, arm: Arm, changes: dict[str, Any], message: str
) -> None:
    settings, loaded = place
    retrain = loaded.project.retrain
    section = retrain.model_copy(update={"hosted": retrain.hosted.model_copy(update=changes)})
    refused = loaded.project.model_copy(update={"retrain": section})
    with pytest.raises(Fixable, match=message):
        hosted.fine_tune(
            settings,
            Control(settings),
            refused,
            dataset(settings),
            key=message,
            system="Sort.",
            say=lambda *_: None,
        )
    assert arm.heard == []


@settings_of_hypothesis(max_examples=25)
@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=10, max_size=30))
def test_every_text_comes_back_from_its_line(texts: list[str]) -> None:
    content = hosted.chat_lines([case(n, text) for n, text in enumerate(texts)], "Sort.", LABELS)
    lines = content.decode("utf-8").split("\n")
    assert lines.pop() == ""
    chats = [json.loads(line)["messages"] for line in lines]
    assert [chat[1]["content"] for chat in chats] == texts
    assert all([turn["role"] for turn in chat] == ["system", "user", "assistant"] for chat in chats)
    assert all(LABELS.parse(chat[2]["content"]) is not None for chat in chats)


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        ([case(n) for n in range(9)], "9 rows to train on; a provider wants 10"),
        ([case(n, " ") for n in range(10)], "request 0 is no training row"),
        ([case(n).model_copy(update={"label": {"intent": "spam", "urgency": "low"}}) for n in range(10)], "request 0"),
    ],
)
def test_what_a_provider_would_refuse_is_refused_here(cases: list[Case], message: str) -> None:
    with pytest.raises(Fixable, match=message):
        hosted.chat_lines(cases, "Sort.", LABELS)
