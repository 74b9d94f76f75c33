"""Fine-tune an adapter in a process of its own, watch it, and keep the result in the blob store.

This side never imports torch. The trainer checkpoints into settings.home/"training"/<key>/; calling again with the same
key goes on from there, or returns at once when all is done.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from trimtab import processes
from trimtab.errors import EngineError, Fixable, StepFailed
from trimtab.records.project import LoraSection
from trimtab.records.record import Record
from trimtab.records.registry import LabelSet, Mask, Prompt, Weights
from trimtab.records.training import DatasetVersion, TrainingRun
from trimtab.settings import Settings
from trimtab.store import artifacts

TRAINER = "trimtab.training.trainers.lora"
EXTRA = ("torch", "transformers", "peft")


class Job(Record):
    """What the trainer is asked to do; paths are absolute. Written as job.json into `folder`, where it works."""

    folder: Path
    base: Path
    train: Path
    system: str
    labels: LabelSet
    section: LoraSection
    adapter: Path | None = Field(default=None, description="GGUF adapter to go on from; None: a fresh one")
    masks: tuple[Mask, ...] = Field(default=(), description="what the trained version will read its messages through")


class Report(Record):
    """One line the trainer prints: after each step, and last of all with `done`. Losses in nats per answer token."""

    step: int
    steps: int
    loss: float
    loss_first: float
    eta_seconds: float
    seconds: float = Field(description="time spent in steps, over all attempts")
    examples: int = Field(description="rows short enough to be trained on")
    done: bool = False


def train(
    settings: Settings,
    dataset: DatasetVersion,
    *,
    key: str,
    base: Weights,
    prompt: Prompt,
    section: LoraSection,
    on_progress: Callable[[float, float | None, str], None],
    adapter: str | None = None,
    masks: tuple[Mask, ...] = (),
) -> TrainingRun:
    """Fine-tune a LoRA adapter on the dataset's train rows; its GGUF form is in the blob store afterwards.

    It goes on from the blob `adapter` (SHA-256), an adapter of the same rank and layers, where one is given.

    The chat is the base's own template over the system text of `prompt` and the row's input; few-shot examples are
    left out, for the tuned version does without them. `on_progress` gets the fraction done (0 to 1), the seconds to
    the end if known, and a sentence. Raises Fixable when the `train` extra or the base is missing, StepFailed when the
    trainer ends badly; then the next call with this key resumes at the last checkpoint.
    """
    _require_extra()
    if base.format != "gguf":
        raise Fixable(
            f"{base.name} has no local weights to fine-tune",
            "set retrain.method: hosted, or model.base to smollm2-135m-instruct or gguf:PATH",
        )
    job = Job(
        folder=settings.home / "training" / key,
        base=artifacts.blob(settings, base.sha256),
        train=Path(dataset.path) / "train.jsonl",
        system=prompt.system,
        labels=dataset.labels,
        section=section,
        adapter=artifacts.blob(settings, adapter) if adapter else None,
        masks=masks,
    )
    last = _finished(job) or _watch(job, settings.logs / "training" / f"{key}.log", on_progress)
    trained = artifacts.put_blob(settings, job.folder / "adapter.gguf")
    (job.folder / "checkpoint.pt").unlink(missing_ok=True)
    return TrainingRun(
        key=key,
        dataset_hash=dataset.hash,
        base_sha256=base.sha256,
        params={
            **section.model_dump(),
            "layers": section.layers or "all",
            "alpha": 2 * section.rank,
            "examples": last.examples,
        },
        steps=last.steps,
        loss_first=last.loss_first,
        loss_last=last.loss,
        seconds=last.seconds,
        adapter_sha256=trained,
        start_adapter_sha256=adapter,
    )


def _require_extra() -> None:
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise Fixable(f"training needs {', '.join(missing)}, not installed here", "pip install 'trimtab[train]'")


def _finished(job: Job) -> Report | None:
    """The last report of this very job if it is done. What another job left under this key is of no use and goes."""
    file, text = job.folder / "job.json", job.model_dump_json()
    if job.folder.exists() and not (file.exists() and file.read_text("utf-8") == text):
        shutil.rmtree(job.folder)
    job.folder.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    done = job.folder / "done.json"
    return Report.model_validate_json(done.read_text()) if done.exists() else None


def _watch(job: Job, log: Path, on_progress: Callable[[float, float | None, str], None]) -> Report:
    """Run the trainer to its end and pass on what it reports. Its last report, or StepFailed."""
    on_progress(0.0, None, "loading the base model")
    cores = str(len(os.sched_getaffinity(0)))
    # Passive: threads that wait for each other sleep. Spinning, they would fight the engine for the cores.
    env = {"OMP_NUM_THREADS": cores, "GOMP_SPINCOUNT": "5000", "TOKENIZERS_PARALLELISM": "false"}
    try:
        child = processes.start(TRAINER, str(job.folder / "job.json"), log=log, env=env, timeout=600.0)
    except EngineError as error:
        raise StepFailed(str(error)) from None
    report: Report | None = None
    try:
        assert child.process.stdout is not None  # noqa: S101 (processes.start gave it a pipe)
        for line in child.process.stdout:
            report = Report.model_validate(json.loads(line))
            text = f"step {report.step} of {report.steps}, loss {report.loss:.3f}"
            on_progress(report.step / report.steps, report.eta_seconds, text)
        code = child.process.wait()
    finally:
        child.stop()
    if code != 0 or report is None or not report.done:
        raise StepFailed(f"the trainer ended with code {code}: {processes.tail(log) or 'no output'} (log: {log})")
    written = job.folder / "done.json.tmp"
    written.write_text(report.model_dump_json())
    written.replace(job.folder / "done.json")
    return report
