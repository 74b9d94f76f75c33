"""Whatever process dies and whatever goes away: every answer stands in the books once, and serving comes back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from callers import Callers
from faults import FAULTS, NO_RECORD, run

from running import Desk, desk

# MLflow and its dependencies warn about themselves; what never happens is reported before the day is over.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk(tmp_path_factory.mktemp("faulty")) as one:
        yield one


@pytest.mark.parametrize("fault", FAULTS)
def test_every_answer_given_around_a_fault_is_recorded_once_and_truly(served: Desk, fault: str) -> None:
    callers = Callers(served)
    _, found = run(served, callers, [fault])
    said = callers.codes()
    assert said["200"]
    assert (found.duplicates, found.lost, found.untrue) == (0, [], [])
    if fault == "disk full":
        assert said[NO_RECORD]
    if fault in ("database away", "control process killed"):
        assert said.keys() == {"200"}, "serving depends on what it must not depend on"
