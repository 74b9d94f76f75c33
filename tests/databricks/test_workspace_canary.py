"""A canary in a workspace: the rollout moves the endpoint's traffic, as a job of the workspace does it. Rung 3 of the
ladder: databricks-sdk and MLflow against the recording stand-in; the answers are rows of a lake here.

Proves which configurations the endpoint gets, in which order, and what it serves in the end. Not: that a workspace
takes as long as the stand-in.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from databricks_place import Desk
from standin import Standin

from store.journal_writer import closed
from trimtab import project, settings
from trimtab.databricks import runtime, steps
from trimtab.promotion import rollout
from trimtab.records.promotion import Decision
from trimtab.records.record import utc_now
from trimtab.settings import Settings
from trimtab.store.control import Control
from trimtab.store.drain import drain
from trimtab.store.journal import Journal
from trimtab.store.lake import Lake

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(600)]  # MLflow warns about itself

GOOD = '{"intent":"login","urgency":"low"}'


@pytest.fixture
def own(desk: Desk, tmp_path: Path) -> Desk:
    """A copy of the desk whose aliases may move; its runs stay where they are."""
    folder = tmp_path / "desk"
    shutil.copytree(desk.settings.root, folder, ignore=shutil.ignore_patterns("*.lock", "run"))
    where = settings.load(folder)
    return Desk(where, project.load(folder), Control(where))


def answers(where: Settings, failing: bool) -> Callable[[], int]:
    """What the endpoint is asked between two looks: each version forty times; the canary's answers may fail."""
    number = iter(range(10_000))

    def arrive() -> int:
        journal = Journal(where.journal)
        for version in (1, 2) * 40:
            wrong = {"outcome": "error", "status_code": 500} if failing and version == 2 else {}
            row = {"at_ms": int(time.time() * 1000), "version": version, "output_text": GOOD, **wrong}
            journal.closed(closed(f"r{next(number)}", **row))
        journal.close()
        return drain(where)

    return arrive


@pytest.mark.parametrize(("failing", "champion"), [(False, "2"), (True, "1")])
def test_the_endpoint_follows_the_rollout_to_its_end(
    own: Desk, workspace: Standin, failing: bool, champion: str
) -> None:
    steps.apply(steps.prepare_init(own.loaded.project), lambda _: None)
    decision = Decision(
        key="c1/1", model="desk", candidate=2, champion=1, outcome="promote", reasons=(), gates=(), at=utc_now()
    )
    serve = runtime.serving(own.settings, own.loaded, own.control)
    endpoint = rollout.Endpoint(Lake(own.settings), serve, answers(own.settings, failing), look_seconds=0.0)
    promoted = rollout.roll_out(
        own.settings, own.loaded, own.control, decision, "test", lambda *_: None, endpoint=endpoint
    )
    assert promoted is not failing
    assert own.control.engines("desk")[2].state == "ready"
    config = workspace.of("endpoints")["desk"]["config"]
    assert [entity["entity_version"] for entity in config["served_entities"]] == [champion]
    assert config["traffic_config"]["routes"] == [{"served_entity_name": f"desk-{champion}", "traffic_percentage": 100}]
    aliases = workspace.of("aliases")["ml.support.desk"]
    assert aliases == {"champion": int(champion)}, "a challenger that was called back is nobody's alias"
    shares = [
        {route["served_entity_name"]: route["traffic_percentage"] for route in routes["routes"]}
        for one in workspace.writes()
        if one.path.startswith("/api/2.0/serving-endpoints") and (routes := _traffic(one.body))
    ]
    assert shares == [{"desk-1": 90, "desk-2": 10}, {"desk-1": 50, "desk-2": 50}, {f"desk-{champion}": 100}]


def _traffic(body: dict) -> dict | None:
    return body.get("config", body).get("traffic_config")
