"""What people add to a cycle and what they read of it: approvals, system and data cards."""

from __future__ import annotations

import time
from datetime import datetime

from trimtab import registry
from trimtab.errors import Fixable
from trimtab.project import Loaded
from trimtab.promotion.gather import Say
from trimtab.providers.weights import SOURCES
from trimtab.records.erasure import Tombstone
from trimtab.records.guidelines import ComplianceReport, Drill, Guidelines
from trimtab.records.promotion import Decision, RolloutLook
from trimtab.records.record import Record, utc_now
from trimtab.records.registry import ModelVersion, ProjectFile
from trimtab.records.training import DatasetVersion, TrainingRun
from trimtab.registry import project_files
from trimtab.responsible import card as cards
from trimtab.responsible import data_card as data_cards
from trimtab.settings import Settings
from trimtab.store.control import Control

POLL_SECONDS = 1.0


class Approval(Record):
    """A person's word that a decided candidate may go to its callers."""

    decision: str
    actor: str
    at: datetime


def approval(control: Control, model: str, cycle: str | None, actor: str) -> Approval:
    """Approve the newest decision to promote that is not rolled out, of `cycle` if given. Raises Fixable if none."""
    prefix = f"{cycle}/" if cycle else ""
    champion = control.alias(model, "champion")
    waiting = [
        decision
        for decision in control.facts("decision", Decision, prefix)
        if decision.model == model and decision.outcome == "promote" and decision.champion == champion
    ]
    if not waiting:
        raise Fixable("no decision waits for approval", "see `trimtab status`")
    given = Approval(decision=waiting[-1].key, actor=actor, at=utc_now())
    control.put("approval", given.decision, given)
    return given


def wait_for_approval(control: Control, decision: Decision, say: Say) -> None:
    """Return when a person has approved the decision."""
    while control.get("approval", decision.key, Approval) is None:
        say(0.0, None, f"version {decision.candidate} waits for a person: `trimtab approve`")
        time.sleep(POLL_SECONDS)


def card(settings: Settings, loaded: Loaded, number: int | None) -> str:
    """The system card of a version (default: the champion), from the records; also kept as a file and in MLflow."""
    control, model = Control(settings), loaded.project.name
    version = registry.get(control, model, number) if number else registry.champion(control, model)
    text = card_on_record(control, version)
    _keep(settings, version, f"{model}-{version.version}.md", text, "system_card.md")
    if version.data_hash:
        data_card(settings, loaded, version.version)
    return text


def card_on_record(control: Control, version: ModelVersion) -> str:
    """The system card of a version, from the records alone: the same records give the same bytes.

    What trimtab.yaml and the guidelines said is what they said when a record last spoke of the version: the newest
    report on it, else its decision, else its registration. What they say today is not looked at.
    """
    model = version.spec.model
    report = control.last("compliance", ComplianceReport, f"{model}/{version.version}/")
    decision = _decision(control, version)
    read = (report and report.config_hash) or (decision and decision.config_hash) or version.config_hash
    file = project_files.find(control, model, read)
    book = project_files.guidelines(control, file.guidelines_sha256) if file and file.guidelines_sha256 else None
    return system_card(control, version, file, book)


def system_card(control: Control, version: ModelVersion, file: ProjectFile | None, book: Guidelines | None) -> str:
    """The system card of a version under a project file and its guidelines; the rest is from the records."""
    model = version.spec.model
    dataset = control.get("dataset", version.data_hash, DatasetVersion) if version.data_hash else None
    decision = _decision(control, version)
    looks = control.facts("rollout_look", RolloutLook, f"{decision.key}/") if decision else []
    base = SOURCES.get(version.spec.base.name)
    runs = control.facts("training_run", TrainingRun)
    return cards.render(
        version,
        license=base.licence if base else "unknown",
        dataset=dataset,
        training=next((run for run in runs if run.made(version.spec)), None),
        decision=decision,
        moves=registry.history(control, model),
        looks=looks,
        file=file,
        guidelines=book,
        report=control.last("compliance", ComplianceReport, f"{model}/{version.version}/"),
        drills=control.facts("drill", Drill),
    )


def _decision(control: Control, version: ModelVersion) -> Decision | None:
    mine = (version.spec.model, version.version)
    found = [
        decision for decision in control.facts("decision", Decision) if (decision.model, decision.candidate) == mine
    ]
    return found[-1] if found else None


def data_card(settings: Settings, loaded: Loaded, number: int | None) -> str:
    """The data card of what a version (default: the champion) was trained on. Raises Fixable when it was on nothing."""
    control, model = Control(settings), loaded.project.name
    version = registry.get(control, model, number) if number else registry.champion(control, model)
    text = data_card_on_record(control, version)
    if text is None:
        raise Fixable(f"version {version.version} was not fine-tuned by a cycle", "name one that was, with --version")
    _keep(settings, version, f"{model}-{version.version}-data.md", text, "data_card.md")
    return text


def data_card_on_record(control: Control, version: ModelVersion) -> str | None:
    """The data card of what a version was trained on, from the records alone; None when it was on nothing."""
    model = version.spec.model
    dataset = control.get("dataset", version.data_hash, DatasetVersion) if version.data_hash else None
    if dataset is None:
        return None
    others = control.facts("version", ModelVersion, f"{model}/")
    stones = [stone for stone in control.facts("tombstone", Tombstone) if dataset.hash in stone.dataset_rows]
    versions = [other.version for other in others if other.data_hash == dataset.hash]
    return data_cards.render(dataset, model=model, versions=versions, tombstones=stones)


def _keep(settings: Settings, version: ModelVersion, name: str, text: str, artifact: str) -> None:
    settings.cards.mkdir(parents=True, exist_ok=True)
    (settings.cards / name).write_text(text)
    registry.log_text(settings, version, text, artifact)
