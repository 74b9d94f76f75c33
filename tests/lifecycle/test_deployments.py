"""Deployments that are billed by the hour go with the candidates they were made for, unless somebody may need them.

Rung: Microsoft's own SDK against Azure Resource Manager, played at the HTTP border.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest

from arm import ACCOUNT, Arm
from place import make
from trimtab import registry
from trimtab import settings as environment
from trimtab.databricks import azure_deployments
from trimtab.lifecycle import cycle as cycles
from trimtab.lifecycle import deployments
from trimtab.records.lifecycle import Cycle, CycleEnd
from trimtab.records.promotion import Decision
from trimtab.records.record import utc_now
from trimtab.records.registry import AliasMove, ModelVersion
from trimtab.records.training import HostedDeployment, HostedRemoval
from trimtab.store.control import Control

pytestmark = pytest.mark.filterwarnings("default")  # MLflow warns about itself

NOW = datetime(2026, 11, 20, tzinfo=UTC)
Outcome = Literal["promote", "hold", "reject"]
End = Literal["promoted", "rejected", "held", "rolled_back", "failed"]


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> Arm:
    played = Arm()
    monkeypatch.setattr(azure_deployments, "_open", lambda _resource: played.client())
    monkeypatch.setattr(azure_deployments, "WAIT_SECONDS", 0)
    return played


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(environment.load(tmp_path))


def made(control: Control, arm: Arm, name: str, outcome: Outcome | None, end: End | None, model: str = "desk") -> None:
    """A cycle called `name` whose first attempt was deployed under that name."""
    key = f"{name}/1"
    control.put("cycle", name, Cycle(id=name, model=model, opened_at=NOW, trigger="t", champion=1, cut=NOW))
    deployed = HostedDeployment(key=key, name=name, resource=ACCOUNT, served=f"azure:{name}")
    control.put("hosted_deployment", key, deployed)
    arm.deployments[f"{ACCOUNT}/deployments/{name}"] = {"properties": {"model": {"name": "ft:x"}}}
    arm.looks[f"{ACCOUNT}/deployments/{name}"] = 2
    if outcome is not None:
        control.put("decision", key, decision(key, outcome))
    if end is not None:
        control.put("cycle_end", name, CycleEnd(cycle=name, at=NOW, outcome=end, summary=""))


def decision(key: str, outcome: Outcome) -> Decision:
    return Decision(key=key, model="desk", candidate=2, champion=1, outcome=outcome, reasons=(), gates=(), at=NOW)


def test_what_was_turned_down_is_deleted_once_and_what_somebody_may_need_stays(control: Control, arm: Arm) -> None:
    made(control, arm, "rejected", "reject", None)
    made(control, arm, "rejected-and-ended", "reject", "rejected")
    made(control, arm, "rolled-back", "promote", "rolled_back")
    made(control, arm, "never-judged", None, "failed")
    made(control, arm, "promoted", "promote", "promoted")
    made(control, arm, "held", "hold", "held")
    made(control, arm, "being-judged", None, None)
    made(control, arm, "approval-awaited", "promote", None)
    made(control, arm, "of-another", "reject", "rejected", model="night-desk")
    gone = ["rejected", "rejected-and-ended", "rolled-back", "never-judged"]
    assert deployments.remove(control, "desk") == gone
    assert arm.deletes() == gone
    assert {path.rpartition("/")[2] for path in arm.deployments} == {
        *("promoted", "held", "being-judged", "approval-awaited", "of-another")
    }
    reasons = {one.name: one.reason for one in control.facts("hosted_removal", HostedRemoval)}
    assert reasons["rolled-back"] == "its candidate was rolled back by the canary"
    heard = len(arm.heard)
    assert deployments.remove(control, "desk") == []
    assert len(arm.heard) == heard, "a removal is made once"


@pytest.mark.parametrize(("status", "says"), [(503, "Azure answered 503"), (403, "Azure refused the deployment c1")])
def test_where_azure_does_not_let_it_go_the_log_says_so_and_the_next_cycle_tries_again(
    control: Control, arm: Arm, caplog: pytest.LogCaptureFixture, status: int, says: str
) -> None:
    made(control, arm, "c1", "reject", "rejected")
    arm.faults = [status]
    assert deployments.remove(control, "desk") == []
    assert says in caplog.text
    assert control.facts("hosted_removal", HostedRemoval) == []
    assert deployments.remove(control, "desk") == ["c1"]


def test_one_that_somebody_deleted_by_hand_is_gone(control: Control, arm: Arm) -> None:
    made(control, arm, "c1", "reject", "rejected")
    arm.deployments.clear()
    assert deployments.remove(control, "desk") == ["c1"]
    assert arm.deletes() == []


def test_a_rejected_candidate_that_was_promoted_by_hand_keeps_its_deployment(
    tmp_path: Path, arm: Arm, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, loaded = make(tmp_path)
    control = Control(settings)
    first = registry.register_base(settings, loaded)
    base = first.spec.base.model_copy(update={"name": "azure:c1", "format": "hosted"})
    second = first.model_copy(update={"version": 2, "spec": first.spec.model_copy(update={"base": base})})
    control.put("version", "desk/2", second)
    made(control, arm, "c1", "reject", "rejected")
    made(control, arm, "c2", "reject", "rejected")
    move = AliasMove(model="desk", alias="champion", before=1, after=2, at=utc_now(), actor="t", reason="by hand")
    control.move([move])
    assert deployments.remove(control, "desk") == ["c2"]


def test_a_cycle_that_rejects_its_candidate_leaves_nothing_behind_that_is_billed(
    tmp_path: Path, arm: Arm, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings, loaded = make(tmp_path)
    control = Control(settings)
    champion = registry.register_base(settings, loaded)

    def judged(work: cycles.Work) -> tuple[ModelVersion, Decision]:
        """As far as the decision; training and gates have tests of their own."""
        made(work.control, arm, work.cycle.id, "reject", None)
        return champion, decision(work.key, "reject")

    monkeypatch.setattr(cycles, "judge_candidate", judged)
    cycle = cycles.open_cycle(control, "desk", "test", NOW)
    caplog.set_level(logging.INFO)
    assert cycles.run_cycle(settings, loaded, control, cycle).outcome == "rejected"
    assert arm.deployments == {}
    assert f"deleted the deployment {cycle.id}: its candidate was rejected" in caplog.text
