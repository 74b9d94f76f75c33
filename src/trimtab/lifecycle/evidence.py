"""What people add to a cycle and what they read of it: approvals and model cards."""

from __future__ import annotations

import time
from datetime import datetime

from trimtab import registry
from trimtab.errors import Fixable
from trimtab.project import Loaded
from trimtab.promotion.gather import Say
from trimtab.providers.weights import SOURCES
from trimtab.records.promotion import Decision, RolloutLook
from trimtab.records.record import Record, utc_now
from trimtab.records.training import DatasetVersion, TrainingRun
from trimtab.responsible import card as model_card
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
    """The model card of a version (default: the champion), from the records; also kept as a file and in MLflow."""
    control, model = Control(settings), loaded.project.name
    version = registry.get(control, model, number) if number else registry.champion(control, model)
    dataset = control.get("dataset", version.data_hash, DatasetVersion) if version.data_hash else None
    decisions = [d for d in control.facts("decision", Decision) if (d.model, d.candidate) == (model, version.version)]
    decision = decisions[-1] if decisions else None
    looks = control.facts("rollout_look", RolloutLook, f"{decision.key}/") if decision else []
    base = SOURCES.get(version.spec.base.name)
    runs = control.facts("training_run", TrainingRun)
    text = model_card.render(
        version,
        license=base.licence if base else "unknown",
        dataset=dataset,
        training=next((run for run in runs if run.made(version.spec)), None),
        decision=decision,
        moves=registry.history(control, model),
        looks=looks,
    )
    settings.cards.mkdir(parents=True, exist_ok=True)
    (settings.cards / f"{model}-{version.version}.md").write_text(text)
    registry.log_text(settings, version, text, "model_card.md")
    return text
