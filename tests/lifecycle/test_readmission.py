"""A rollout waits for people and callers: a clause that is lost meanwhile still keeps a candidate from its callers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import triage
from triage import MODEL

from trimtab import project, registry
from trimtab.lifecycle import compliance
from trimtab.lifecycle import cycle as cycles
from trimtab.lifecycle.rows import here
from trimtab.promotion.rollout import Endpoint
from trimtab.records.erasure import ErasureRequest
from trimtab.records.gateway import EngineState
from trimtab.records.guidelines import ComplianceReport
from trimtab.records.lifecycle import Cycle, CycleEnd
from trimtab.records.promotion import Decision
from trimtab.records.record import utc_now
from trimtab.records.registry import Prompt
from trimtab.store.control import Control

pytestmark = pytest.mark.filterwarnings("default")  # MLflow and its dependencies warn about themselves

BOOK = """\
system: desk
owner: team@example.org
intended_use: {purpose: Sorts messages.}
clauses:
- {id: ERA-01, text: Requests for erasure are served., check: erasure.backlog}
"""


class Rollout:
    """A candidate that was decided to be promoted, in one step, loaded beside the champion."""

    def __init__(self, folder: Path) -> None:
        self.settings, _ = triage.write(folder, "echo", "{latency_p95: null}")
        file = folder / "trimtab.yaml"
        text = file.read_text().replace("canary: [50%, 100%]", "canary: [100%]")
        file.write_text(text + "guidelines: guidelines.yaml\n")
        (folder / "guidelines.yaml").write_text(BOOK)
        self.loaded, self.control = project.load(folder), Control(self.settings)
        spec = registry.register_base(self.settings, self.loaded).spec
        spec = spec.model_copy(update={"prompt": Prompt(system="Sort it!")})
        self.version = registry.register(self.settings, self.control, spec, config_hash=self.loaded.hash, note="")
        now = utc_now()
        self.control.set_engine(EngineState(model=MODEL, version=2, state="ready", at=now))
        report = compliance.at_promotion(self.settings, self.loaded, self.control, self.version, [], "c/1", now)
        assert report is not None
        assert report.open == ()
        self.decision = Decision(
            key="c/1", model=MODEL, candidate=2, champion=1, outcome="promote", reasons=("Good.",), gates=(), at=now
        )
        self.control.put("decision", "c/1", self.decision)

    def lose(self) -> None:
        """Somebody's wish to be forgotten lies for two months."""
        asked = ErasureRequest(subject="5e", at=utc_now() - timedelta(days=60), by="test")
        self.control.put("erase_request", "5e", asked)

    def finish(self, serve: Callable[[], object] = lambda: None) -> CycleEnd:
        """The end of the cycle that decided so. `serve`: what is called when callers are to meet the candidate."""
        now, local = utc_now(), here(self.settings)
        cycle = Cycle(id="c", model=MODEL, opened_at=now, trigger="test", champion=1, cut=now)
        rows = replace(local, endpoint=Endpoint(local.lake, serve=serve))
        work = cycles.Work(self.settings, self.loaded, self.control, cycle, 1, "none", rows)
        return cycles.finish(work, self.version, self.decision)

    def reports(self) -> int:
        return len(self.control.facts("compliance", ComplianceReport))


@pytest.fixture
def rollout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rollout:
    monkeypatch.setenv("TRIMTAB_BLOBS", str(tmp_path / "blobs"))
    numbers = iter(range(1, 9))  # MLflow is not what is tested here
    monkeypatch.setattr(registry, "_log_version", lambda *_: (number := next(numbers), f"run {number}"))
    for name in ("log_text", "show_aliases"):
        monkeypatch.setattr(registry, name, lambda *_: None)
    return Rollout(tmp_path / "desk")


def test_a_decision_that_is_a_quarter_of_an_hour_old_is_not_asked_again(rollout: Rollout) -> None:
    rollout.lose()
    assert rollout.finish().outcome == "promoted"
    assert rollout.reports() == 1


@pytest.mark.parametrize("when", ["before callers met it", "before it became champion"])
def test_a_clause_that_was_lost_meanwhile_ends_the_rollout(
    when: str, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compliance, "FRESH", timedelta(0))
    met: list[int | None] = []

    def serve() -> None:
        met.append(rollout.control.alias(MODEL, "challenger"))
        if when == "before it became champion":
            rollout.lose()

    if when == "before callers met it":
        rollout.lose()
    end = rollout.finish(serve)
    assert end.outcome == "held"
    assert "ERA-01 is FAIL" in end.summary
    assert (2 in met) == (when == "before it became champion")
    assert rollout.control.alias(MODEL, "champion") == 1
    assert rollout.control.alias(MODEL, "challenger") is None
    assert rollout.control.facts("compliance", ComplianceReport)[-1].open  # the refusal is on record
    assert rollout.finish().outcome == "held"  # and it does not begin again
