"""Fine-tune at a provider: upload, job, wait, deployment. The boundary: OpenAI's fine-tuning API, through its own SDK.

Each thing that costs money is looked for before it is made: among the facts, then at the provider, by the name of the
training file, which carries the key. So a run that was killed at any moment goes on when it is called again, and
nothing is uploaded or started twice. Sources: OpenAI, "Supervised fine-tuning"; Microsoft Learn, "Customize a model
with fine-tuning" (the v1 endpoint, trainingType, deployment through Azure Resource Manager).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trimtab.errors import Fixable, StepFailed
from trimtab.project import retirement
from trimtab.providers import openai as hosted
from trimtab.records.endpoint import ProviderSection
from trimtab.records.project import Project
from trimtab.records.record import Record, utc_now
from trimtab.records.registry import LabelSet
from trimtab.records.training import (
    Case,
    DatasetVersion,
    HostedDeployment,
    HostedFile,
    HostedJob,
    HostedTuning,
    TrainingRun,
)
from trimtab.settings import Settings
from trimtab.store.control import Control

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.fine_tuning import FineTuningJob

Say = Callable[[float, float | None, str], None]
T = TypeVar("T")

LEAST_ROWS = 10
"""Rows a provider wants at least (OpenAI)."""
MOST_BYTES = 512 * 1024 * 1024
"""A training file is smaller than this (OpenAI and Azure)."""
ASSUMED_EPOCHS = 3
"""Passes for an estimate, where the provider is left to choose."""
CHARACTERS_PER_TOKEN = 4
"""OpenAI's rule of thumb for English, for an estimate."""
POLL_SECONDS = (1.0, 30.0)
"""Pause between two looks at a job: the first, doubled each time up to the last."""
PATIENCE_SECONDS = 3600.0
"""How long a provider may not answer before the step breaks off; the job goes on there, and is found again."""
_STEP = re.compile(r"[Ss]tep (\d+)(?:/(\d+))?:.*?train(?:ing)? loss[=: ]+([0-9.]+)")


class Plan(Record):
    """What a hosted fine-tune would send, cost and leave behind. `usd` None: the file gives no price."""

    provider: str
    model: str
    rows: int
    bytes: int
    sha256: str
    tokens: int
    epochs: int
    usd: float | None
    request: dict[str, Any]
    deployment: dict[str, Any] | None


@dataclass(frozen=True)
class Work:
    """What every part of one hosted fine-tune needs. `name`: the base as the file names it, PROVIDER:MODEL."""

    settings: Settings
    control: Control
    project: Project
    key: str
    provider: ProviderSection
    say: Say

    @property
    def name(self) -> str:
        return self.project.model.base

    @property
    def digest(self) -> str:
        return _digest(self.project, self.key)


def plan(
    project: Project, dataset: DatasetVersion, system: str, *, key: str, start: str | None = None
) -> tuple[Plan, bytes]:
    """What would happen, and the training file. Asks nobody. Raises Fixable when the file refuses it."""
    section = project.retrain.hosted
    provider = project.provider(project.model.base)
    scheme, _, own = project.model.base.partition(":")
    if provider is None:
        raise Fixable(
            f"retrain.method is hosted, and {project.model.base} is no model of a provider",
            "set retrain.method: lora, or model.base to PROVIDER:MODEL",
        )
    refusal = retirement.fine_tuning_refusal(project, utc_now().date())
    if refusal is not None:
        raise Fixable(*refusal)
    model = start or section.model or own
    content = chat_lines(_cases(dataset), system, dataset.labels)
    epochs = section.epochs or ASSUMED_EPOCHS
    tokens = len(content.decode()) // CHARACTERS_PER_TOKEN * epochs
    usd = None if section.price is None else tokens * section.price / 1e6
    if usd is not None and section.max_usd is not None and usd > section.max_usd:
        raise Fixable(
            f"the fine-tune is estimated at {usd:.2f} USD; retrain.hosted.max_usd is {section.max_usd:g}",
            "raise max_usd, or lower epochs",
        )
    body = None
    if section.deployment is not None:
        from trimtab.databricks import azure_deployments

        body = azure_deployments.body(section.deployment, f"the model that the job makes of {model}")
        body = {"name": _deployment_name(project, key), **body}
    return (
        Plan(
            provider=scheme,
            model=model,
            rows=content.count(b"\n"),
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            tokens=tokens,
            epochs=epochs,
            usd=usd,
            request=_request(project, model),
            deployment=body,
        ),
        content,
    )


def fine_tune(
    settings: Settings,
    control: Control,
    project: Project,
    dataset: DatasetVersion,
    *,
    key: str,
    system: str,
    say: Say,
    start: str | None = None,
) -> TrainingRun:
    """Have the provider of `model.base` fine-tune its model on the dataset's train rows, and deploy it on Azure.

    `start`: an earlier fine-tuned model to go on from. `say` gets the fraction done (0 to 1), the seconds to the end if
    known, and a sentence. Raises Fixable when the file, the key or the job itself is at fault, StepFailed when the
    provider cannot be reached; then the next call with this key goes on where this one was.
    """
    wanted, content = plan(project, dataset, system, key=key, start=start)
    if importlib.util.find_spec("openai") is None:
        raise Fixable("fine-tuning at a provider needs openai, not installed here", "pip install 'trimtab[azure]'")
    provider = project.provider(project.model.base)
    assert provider is not None  # noqa: S101 (planned)
    work = Work(settings, control, project, key, provider, say)
    with _client(work) as client:
        file = _file(work, client, content, wanted)
        job = _job(work, client, wanted, file)
        done, told = _wait(work, client, job)
    assert done.fine_tuned_model is not None  # noqa: S101 (_wait returns a job that succeeded)
    served = done.fine_tuned_model
    deployment = project.retrain.hosted.deployment
    if deployment is not None:
        from trimtab.databricks import azure_deployments

        served = _deployment_name(project, key)
        asked = HostedDeployment(
            key=key, name=served, resource=deployment.resource, served=f"{wanted.provider}:{served}"
        )
        control.put("hosted_deployment", key, asked)
        azure_deployments.deploy(deployment, served, done.fine_tuned_model, lambda text: say(0.95, None, text))
    return _run(work, dataset, wanted, file, done, told, f"{wanted.provider}:{served}")


def chat_lines(cases: Iterable[Case], system: str, labels: LabelSet) -> bytes:
    """The training file: one chat a line (JSON Lines, UTF-8), the answer as the version is to give it.

    Raises Fixable when the provider would refuse it: too few rows, too many bytes, an empty text, a label outside the
    set.
    """
    lines: list[str] = []
    for case in cases:
        answer = labels.dump(case.label) if case.label.keys() == labels.fields.keys() else ""
        if labels.parse(answer) is None or not case.input.strip() or not system.strip():
            raise Fixable(
                f"request {case.request_id} is no training row: its text, label or the prompt is empty or unknown",
                "correct its label, or the prompt file",
            )
        said = (("system", system), ("user", case.input), ("assistant", answer))
        chat = {"messages": [{"role": role, "content": content} for role, content in said]}
        lines.append(json.dumps(chat, ensure_ascii=True))
    content = "".join(f"{line}\n" for line in lines).encode()
    if len(lines) < LEAST_ROWS:
        raise Fixable(f"{len(lines)} rows to train on; a provider wants {LEAST_ROWS}", "post more labels")
    if len(content) >= MOST_BYTES:
        raise Fixable(
            f"the training file has {len(content)} bytes; a provider takes {MOST_BYTES}", "train on fewer rows"
        )
    return content


def _cases(dataset: DatasetVersion) -> list[Case]:
    lines = (Path(dataset.path) / "train.jsonl").read_text().splitlines()
    return [Case.model_validate_json(line) for line in lines]


def _request(project: Project, model: str) -> dict[str, Any]:
    """The body of the job, but for the id of its training file."""
    section = project.retrain.hosted
    chosen = {
        "n_epochs": section.epochs,
        "batch_size": section.batch_size,
        "learning_rate_multiplier": section.learning_rate_multiplier,
    }
    parameters = {name: value for name, value in chosen.items() if value is not None}
    body: dict[str, Any] = {
        "model": model,
        "suffix": project.name[:18],  # Azure takes 18 characters, OpenAI 64
        "seed": section.seed,
        "method": {"type": "supervised", "supervised": {"hyperparameters": parameters}},
    }
    return body | ({"trainingType": section.training_type} if section.training_type else {})


def _client(work: Work) -> OpenAI:
    """A client of the v1 endpoint whose key or token is as new as each request."""
    from openai import OpenAI

    provider = work.provider
    url = provider.base_url.rstrip("/") + ("/openai/v1" if provider.api_version is not None else "")
    own_header = hosted.is_azure(work.name, provider) and provider.key_env
    first = hosted.key(work.name, provider, work.settings.root) or "none"
    return OpenAI(
        base_url=url,
        api_key=lambda: hosted.key(work.name, provider, work.settings.root) or "none",
        default_headers={"api-key": first} if own_header else None,
        max_retries=2,
    )


def _file(work: Work, client: OpenAI, content: bytes, wanted: Plan) -> HostedFile:
    """The training file at the provider: known, found or uploaded."""
    known = work.control.get("hosted_file", work.key, HostedFile)
    if known is not None:
        return known
    name = f"trimtab-{work.digest}-{wanted.sha256[:12]}.jsonl"
    work.say(0.0, None, f"uploading {wanted.rows} rows, {wanted.bytes / 1e6:.1f} MB, to {wanted.provider}")

    def find() -> str | None:
        listed = client.files.list(purpose="fine-tune")
        return next((one.id for one in listed if one.filename == name), None)

    def make() -> str:
        once = client.with_options(max_retries=0)
        return once.files.create(file=(name, content, "application/jsonl"), purpose="fine-tune").id

    identity = _once(work, find, make)
    _until_imported(work, client, identity)
    file = HostedFile(id=identity, name=name, sha256=wanted.sha256, bytes=wanted.bytes)
    work.control.put("hosted_file", work.key, file)
    return file


def _until_imported(work: Work, client: OpenAI, identity: str) -> None:
    """Azure imports a file before a job may name it; OpenAI has it at once."""
    for pause in _pauses():
        with _translated(work):
            file = client.files.retrieve(identity)
        if file.status == "error":
            reason = getattr(file, "status_details", None) or "no reason given"
            raise Fixable(f"{work.name}: the provider refused the training file: {reason}", "see the file it names")
        if str(file.status) not in ("pending", "running", "notRunning"):
            return
        work.say(0.0, None, "the provider reads the training file")
        time.sleep(pause)


def _job(work: Work, client: OpenAI, wanted: Plan, file: HostedFile) -> HostedJob:
    """The job on that file: known, found or started."""
    known = work.control.get("hosted_job", work.key, HostedJob)
    if known is not None:
        return known
    work.say(0.02, None, f"starting a fine-tuning job on {wanted.model}")

    def find() -> str | None:
        return next((one.id for one in client.fine_tuning.jobs.list() if one.training_file == file.id), None)

    def make() -> str:
        once = client.with_options(max_retries=0)
        request = dict(wanted.request)
        beyond = {"trainingType": request.pop("trainingType")} if "trainingType" in request else None
        return once.fine_tuning.jobs.create(training_file=file.id, extra_body=beyond, **request).id

    job = HostedJob(id=_once(work, find, make), provider=wanted.provider, model=wanted.model, training_file=file.id)
    work.control.put("hosted_job", work.key, job)
    return job


def _once(work: Work, find: Callable[[], str | None], make: Callable[[], str]) -> str:
    """What is there already, or made now. An answer that was lost is no reason to make it again: it is looked for."""
    import openai

    with _translated(work):
        found = find()
        if found is not None:
            return found
        try:
            return make()
        except (openai.APIConnectionError, openai.InternalServerError):
            time.sleep(POLL_SECONDS[0])
            found = find()
            if found is None:
                raise
            return found


@dataclass
class _Told:
    """What a job's events said: their ids, steps and losses."""

    seen: set[str]
    steps: int = 0
    of: int | None = None
    losses: tuple[float, ...] = ()


def _wait(work: Work, client: OpenAI, job: HostedJob) -> tuple[FineTuningJob, _Told]:
    """The job when it has succeeded. Its events go into a log file, the newest into the progress."""
    import openai

    told, last_answer = _Told(set()), time.monotonic()
    log = work.settings.logs / "training" / f"{work.key}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("")
    for pause in _pauses():
        try:
            now = client.fine_tuning.jobs.retrieve(job.id)
            news = _news(client, job.id, told)
            last_answer = time.monotonic()
        except (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError) as error:
            if time.monotonic() - last_answer > PATIENCE_SECONDS:
                raise StepFailed(f"{work.name} does not answer: {_said(work, error)}; job {job.id} goes on") from None
            work.say(0.05, None, f"job {job.id}: the provider does not answer right now: {_said(work, error)}")
            time.sleep(pause)
            continue
        except openai.APIError as error:
            raise _refused(work, error) from None
        with log.open("a") as file:
            file.writelines(f"{line}\n" for line in news)
        if now.status == "succeeded":
            return now, told
        if now.status in ("failed", "cancelled"):
            why = f": {now.error.message}" if now.error and now.error.message else ""
            raise Fixable(f"fine-tuning job {job.id} {now.status}{why}", f"see {log}, then start a new cycle")
        eta = None if now.estimated_finish is None else max(0.0, now.estimated_finish - time.time())
        done = 0.1 + 0.8 * told.steps / told.of if told.of else {"running": 0.1, "paused": 0.1}.get(now.status, 0.05)
        work.say(done, eta, f"job {job.id} {now.status.replace('_', ' ')}" + (f": {news[-1]}" if news else ""))
        time.sleep(pause)
    raise AssertionError("pauses do not end")


def _news(client: OpenAI, job: str, told: _Told) -> list[str]:
    """The messages of the events that came since, oldest first; the API lists the newest first."""
    fresh = []
    for event in client.fine_tuning.jobs.list_events(job, limit=100):
        if event.id in told.seen:
            break
        fresh.append(event)
    for event in reversed(fresh):
        told.seen.add(event.id)
        step = _STEP.search(event.message)
        if step:
            told.steps, told.of = int(step[1]), int(step[2]) if step[2] else told.of
            told.losses = (*told.losses[:1], float(step[3].rstrip(".")))
    return [event.message for event in reversed(fresh)]


def _run(
    work: Work, dataset: DatasetVersion, wanted: Plan, file: HostedFile, job: FineTuningJob, told: _Told, served: str
) -> TrainingRun:
    assert job.fine_tuned_model is not None  # noqa: S101 (it succeeded)
    parameters = job.method.supervised.hyperparameters if job.method and job.method.supervised else None
    told_params = parameters.model_dump(exclude_none=True) if parameters else {}
    files = {"training": file.id} | ({"result": job.result_files[0]} if job.result_files else {})
    return TrainingRun(
        key=work.key,
        dataset_hash=dataset.hash,
        method="hosted",
        base_sha256="",
        params={"model": wanted.model, "rows": wanted.rows, "seed": wanted.request["seed"]}
        | {name: value for name, value in told_params.items() if isinstance(value, int | float | str)},
        steps=told.steps,
        loss_first=told.losses[0] if told.losses else None,
        loss_last=told.losses[-1] if told.losses else None,
        seconds=float((job.finished_at or job.created_at) - job.created_at),
        hosted=HostedTuning(
            job=job.id,
            base=wanted.model,
            model=job.fine_tuned_model,
            served=served,
            files=files,
            sha256=file.sha256,
            trained_tokens=job.trained_tokens,
        ),
    )


def _pauses() -> Iterator[float]:
    pause, longest = POLL_SECONDS
    while True:
        yield pause
        pause = min(2 * pause, longest)


@contextmanager
def _translated(work: Work) -> Iterator[None]:
    """The SDK's errors as ours, without the key."""
    import openai

    try:
        yield
    except (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError) as error:
        raise StepFailed(f"{work.name} does not answer: {_said(work, error)}") from None
    except openai.APIError as error:
        raise _refused(work, error) from None


def _refused(work: Work, error: Exception) -> Fixable:
    fix = "see what it says: model, region and rights decide what may be fine-tuned"
    return Fixable(f"{work.name} refused: {_said(work, error)}", fix)


def _said(work: Work, error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    key = hosted.key(work.name, work.provider, work.settings.root)
    return text.replace(key, "[key]") if key else text


def _digest(project: Project, key: str) -> str:
    return hashlib.sha256(f"{project.name}\n{key}".encode()).hexdigest()[:12]


def _deployment_name(project: Project, key: str) -> str:
    return f"{project.name[:40]}-{_digest(project, key)[:8]}"
