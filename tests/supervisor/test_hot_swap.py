"""Versions change, one does not load, an engine dies, and callers ask on: nobody is failed, nothing is mixed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import psutil
import pytest
from callers import Callers, books

from running import MODEL, Desk, desk, kill, until
from trimtab import registry
from trimtab.records.registry import LabelSet, Weights

# MLflow and its dependencies warn about themselves; what never happens is reported before the day is over.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(300)]

SECONDS = float(os.environ.get("TRIMTAB_HOT_SWAP_SECONDS", "10"))
"""How long callers ask at least; the promise is for a minute."""
PER_SECOND = 200.0
FLIPS = 10
INTENTS = {1: "refund", 2: "login"}
"""An engine without a model answers with the first label of its version: so the answer itself names its version."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One desk for both tests: each leaves version 1 champion and the only one that runs."""
    with desk(tmp_path_factory.mktemp("swapped")) as one:
        yield one


def test_ten_flips_and_a_version_that_does_not_load_fail_nobody_and_mix_nothing(served: Desk) -> None:
    second, broken = versions(served)
    started: set[int] = set()
    with Callers(served, threads=8, per_second=PER_SECOND) as callers:
        begun = time.monotonic()
        for flip, (before, after) in enumerate([(1, second), (second, 1)] * (FLIPS // 2)):
            flip_to(served, callers, before, after)
            started |= engines(served)
            if flip == FLIPS // 2:
                refuse_broken(served, after, broken)
            time.sleep(max(0.0, (flip + 1) * SECONDS / FLIPS - (time.monotonic() - begun)))
        until(lambda: served.state(second) == "stopped")  # it drained and was unloaded
    assert callers.codes().keys() == {"200"}
    assert {one.version for one in callers.told} == {1, second}, "the broken version was asked"
    assert [one for one in callers.told if one.intent != INTENTS[one.version or 0]] == []
    found = books(served, callers.told)
    assert (found.rows, found.duplicates, found.lost, found.untrue) == (len(callers.told), 0, [], [])
    assert len(engines(served)) == 1
    assert engines(served) <= started


def versions(served: Desk) -> tuple[int, int]:
    """Version 2, which answers otherwise than version 1, and one whose weights are nowhere."""
    first = registry.get(served.control, MODEL, 1).spec
    assert first.labels is not None
    fields = dict(first.labels.fields)
    fields["intent"] = fields["intent"][::-1]
    second = served.register(first.model_copy(update={"labels": LabelSet(fields=fields)})).version
    lost = first.model_copy(update={"base": Weights(name="lost", sha256="0" * 64)})
    return second, served.register(lost).version


def flip_to(served: Desk, callers: Callers, before: int, after: int) -> None:
    """Move the alias and wait until callers are answered by the version it names."""
    served.move(before, after)
    until(lambda: [one.version for one in callers.told[-8:]] == [after] * 8)


def refuse_broken(served: Desk, serving: int, broken: int) -> None:
    """The alias names a version that does not load; then it goes back."""
    served.move(serving, broken)
    until(lambda: served.state(broken) == "failed")
    served.move(broken, serving)


def engines(served: Desk) -> set[int]:
    """Process ids of the engines that run."""
    children = psutil.Process(served.up.pid).children()
    return {one.pid for one in children if one.status() != psutil.STATUS_ZOMBIE and "echo" in " ".join(one.cmdline())}


def test_an_engine_that_is_killed_while_it_serves_fails_nobody(served: Desk) -> None:
    with Callers(served, threads=8, per_second=PER_SECOND) as callers:
        until(lambda: callers.said("200") > 50)
        (victim,) = engines(served)
        kill(psutil.Process(victim))
        until(lambda: engines(served) - {victim})
        until(served.answers)
    assert callers.codes().keys() == {"200"}
