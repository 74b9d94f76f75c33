"""A rollout under real traffic: growing shares of callers, then promoted, called back or held; never half of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import httpx
import mlflow
import polars as pl
import pytest
from mlflow.exceptions import MlflowException

from place import FILE
from running import MODEL, Desk, desk, until
from trimtab import registry
from trimtab.errors import Conflict
from trimtab.gateway.routes import bucket
from trimtab.lifecycle import cycle as cycles
from trimtab.lifecycle.rows import here
from trimtab.promotion import apply, rollout
from trimtab.records.lifecycle import Cycle, CycleEnd
from trimtab.records.promotion import Decision, RolloutLook
from trimtab.records.record import utc_now
from trimtab.records.registry import ModelVersion, Prompt, Traffic, Weights
from trimtab.store.drain import drain
from trimtab.store.lake import Lake

# MLflow and its dependencies warn about themselves.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One desk for the tests of this file: each leaves a champion that answers and no challenger."""
    file = FILE.replace("canary: [50%, 100%], step_requests: 3", "canary: [20%, 50%, 100%], step_requests: 15")
    with desk(tmp_path_factory.mktemp("served"), file) as one:
        yield one


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "LOOK_SECONDS", 0.2)


def candidate(served: Desk, system: str, **changes: object) -> tuple[ModelVersion, Decision]:
    """A version like the champion but for its prompt and `changes`, and the decision to promote it."""
    champion = registry.champion(served.control, MODEL)
    spec = champion.spec.model_copy(update={"prompt": Prompt(system=system), **changes})
    version = served.register(spec)
    decision = Decision(
        key=f"made-up/{version.version}",
        model=MODEL,
        candidate=version.version,
        champion=champion.version,
        outcome="promote",
        reasons=("The test says so.",),
        gates=(),
        at=utc_now(),
    )
    return version, decision


def unconstrained(served: Desk) -> dict[str, object]:
    """What makes the echo engine repeat the question, which is no valid answer."""
    decoding = registry.champion(served.control, MODEL).spec.decoding
    return {"decoding": decoding.model_copy(update={"constrained": False})}


@contextmanager
def traffic(served: Desk) -> Iterator[None]:
    """Sixty callers who keep asking; each question must be answered."""
    done, failed = threading.Event(), list[str]()

    def ask() -> None:
        with httpx.Client(base_url=served.url, timeout=30) as http:
            number = 0
            while not done.wait(0.01):
                number += 1
                reply = http.post(
                    "/predict", json={"input": "where is it?"}, headers={"x-trimtab-caller": f"caller {number % 60}"}
                )
                if reply.status_code != 200:
                    failed.append(reply.text)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert not failed


def rows(served: Desk) -> pl.DataFrame:
    drain(served.settings)
    lake = Lake(served.settings)
    found = lake.sample(0, lake.count(), ["row", "request_time", "model_version", "route", "request_tags"])
    callers = [dict(tags)["caller"] for tags in found["request_tags"].to_list()]
    return found.with_columns(caller=pl.Series(callers))


def shown(served: Desk, alias: str) -> int | None:
    """The version that MLflow shows under an alias."""
    with suppress(MlflowException):
        return int(mlflow.MlflowClient(served.settings.mlflow_uri).get_model_version_by_alias(MODEL, alias).version)
    return None


def is_over(served: Desk) -> bool:
    """Whether no candidate is beside the champion."""
    share = served.control.traffic(MODEL)
    return served.control.alias(MODEL, "challenger") is None and share is not None and share.version is None


def roll_out(served: Desk, decision: Decision) -> bool:
    return rollout.roll_out(served.settings, served.loaded, served.control, decision, "test", lambda *_: None)


def finish(served: Desk, version: ModelVersion, decision: Decision) -> CycleEnd:
    """The end of a cycle that decided so."""
    now, champion = decision.at, decision.champion or 0
    cycle = Cycle(id=decision.key, model=MODEL, opened_at=now, trigger="test", champion=champion, cut=now)
    work = cycles.Work(served.settings, served.loaded, served.control, cycle, 1, "none", here(served.settings))
    return cycles.finish(work, version, decision)


def test_a_good_candidate_gets_its_share_of_callers_step_by_step_and_then_all_of_them(served: Desk) -> None:
    version, decision = candidate(served, "Sort the message, please.")
    with traffic(served):
        assert roll_out(served, decision)
        until(lambda: served.ask("who?", "probe").headers["x-trimtab-version"] == f"{MODEL}/{version.version}")
    assert served.control.alias(MODEL, "champion") == shown(served, "champion") == version.version
    assert is_over(served)
    assert shown(served, "challenger") is None
    shares = served.control.facts("traffic", Traffic, f"{MODEL}/")[-4:]
    assert [(share.version, share.percent) for share in shares] == [
        (None, 0),
        (version.version, 20),
        (version.version, 50),
        (None, 0),
    ]
    canary = rows(served).filter(pl.col("route") == "canary", pl.col("model_version") == str(version.version))
    early = pl.col("request_time") < shares[2].at - timedelta(milliseconds=1)  # times of requests are cut to that
    before, after = canary.filter(early), canary.filter(~early)
    assert before.height >= 15
    assert after.height >= 15
    assert all(bucket(MODEL, caller) < 20 for caller in before["caller"])
    assert all(bucket(MODEL, caller) < 50 for caller in after["caller"])
    assert roll_out(served, decision)  # interrupted after the last write, it has nothing left to do


def test_a_candidate_whose_answers_are_not_valid_is_called_back_and_stays_out(served: Desk) -> None:
    version, decision = candidate(served, "Say anything.", **unconstrained(served))
    with traffic(served):
        end = finish(served, version, decision)
    assert end.outcome == "rolled_back"
    assert served.control.alias(MODEL, "champion") == shown(served, "champion") == decision.champion
    assert is_over(served)
    assert shown(served, "challenger") is None
    look = served.control.last("rollout_look", RolloutLook, f"{decision.key}/")
    assert look is not None
    assert (look.verdict, look.percent) == ("roll_back", 20)
    shares = served.control.facts("traffic", Traffic)
    assert not roll_out(served, decision)  # interrupted after the last write, it does not try its luck again
    assert served.control.facts("traffic", Traffic) == shares


def moved_on(served: Desk, decision: Decision) -> None:
    """Another process makes another version champion, without a word to the rollout."""
    other, _ = candidate(served, f"Sorted by hand, not by {decision.candidate}.")
    served.move(decision.champion, other.version)


def taken_back(served: Desk, decision: Decision) -> None:
    """A person undoes the champion's own promotion while its successor is a canary."""
    apply.rollback(served.settings, served.control, MODEL, actor="test", reason="a bad day")


@pytest.mark.parametrize("meanwhile", [moved_on, taken_back])
def test_a_champion_that_moves_during_the_rollout_holds_the_cycle_and_ends_the_canary(
    served: Desk, meanwhile: Callable[[Desk, Decision], None]
) -> None:
    earlier, _ = candidate(served, f"An earlier one, before {meanwhile.__name__}.")
    served.move(served.control.alias(MODEL, "champion"), earlier.version)
    version, decision = candidate(served, f"Too late for {meanwhile.__name__}.")

    def interfere() -> None:
        until(lambda: (share := served.control.traffic(MODEL)) and share.version == version.version)
        meanwhile(served, decision)

    other = threading.Thread(target=interfere)  # no traffic: the canary waits for its requests until then
    other.start()
    end = finish(served, version, decision)
    other.join()
    assert end.outcome == "held"
    assert served.control.alias(MODEL, "champion") not in (decision.champion, version.version)
    assert is_over(served)
    with pytest.raises(Conflict, match="compare again"):  # and it does not begin again
        roll_out(served, decision)
    assert is_over(served)


def test_a_candidate_that_does_not_load_fails_the_cycle_and_never_had_traffic(served: Desk) -> None:
    version, decision = candidate(served, "Lost.", base=Weights(name="lost", sha256="0" * 64))
    end = finish(served, version, decision)
    assert end.outcome == "failed"
    assert "does not load" in end.summary
    assert is_over(served)
    assert version.version not in {share.version for share in served.control.facts("traffic", Traffic)}
