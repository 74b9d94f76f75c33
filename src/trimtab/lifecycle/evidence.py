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
from trimtab.records.guidelines import ComplianceReport, Drill
from trimtab.records.project import MonitorSection
from trimtab.records.promotion import Decision, RolloutLook
from trimtab.records.record import Record, utc_now
from trimtab.records.registry import ModelVersion
from trimtab.records.training import DatasetVersion, TrainingRun
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
    text = system_card(control, loaded, version)
    _keep(settings, version, f"{model}-{version.version}.md", text, "system_card.md")
    if version.data_hash:
        data_card(settings, loaded, version.version)
    return text


def system_card(control: Control, loaded: Loaded, version: ModelVersion) -> str:
    """The system card of a version, from the records alone: the same records give the same bytes."""
    model = version.spec.model
    dataset = control.get("dataset", version.data_hash, DatasetVersion) if version.data_hash else None
    decisions = [d for d in control.facts("decision", Decision) if (d.model, d.candidate) == (model, version.version)]
    decision = decisions[-1] if decisions else None
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
        guidelines=loaded.guidelines,
        report=control.last("compliance", ComplianceReport, f"{model}/{version.version}/"),
        drills=control.facts("drill", Drill),
        watched=_watched(loaded.project.monitor),
    )


def data_card(settings: Settings, loaded: Loaded, number: int | None) -> str:
    """The data card of what a version (default: the champion) was trained on. Raises Fixable when it was on nothing."""
    control, model = Control(settings), loaded.project.name
    version = registry.get(control, model, number) if number else registry.champion(control, model)
    dataset = control.get("dataset", version.data_hash, DatasetVersion) if version.data_hash else None
    if dataset is None:
        raise Fixable(f"version {version.version} was not fine-tuned by a cycle", "name one that was, with --version")
    others = control.facts("version", ModelVersion, f"{model}/")
    stones = [stone for stone in control.facts("tombstone", Tombstone) if dataset.hash in stone.dataset_rows]
    versions = [other.version for other in others if other.data_hash == dataset.hash]
    text = data_cards.render(dataset, model=model, versions=versions, tombstones=stones)
    _keep(settings, version, f"{model}-{version.version}-data.md", text, "data_card.md")
    return text


def _keep(settings: Settings, version: ModelVersion, name: str, text: str, artifact: str) -> None:
    settings.cards.mkdir(parents=True, exist_ok=True)
    (settings.cards / name).write_text(text)
    registry.log_text(settings, version, text, artifact)


def _watched(monitor: MonitorSection) -> list[str]:
    drift, quality = monitor.input_drift, monitor.quality
    said = [f"Input drift over windows of {drift.window} requests, alpha {drift.alpha:g}."] if drift else []
    return said + ([f"Accuracy of at least {quality.min:g} over {quality.window} labels."] if quality else [])
