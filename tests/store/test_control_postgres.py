"""The control database on a real PostgreSQL, which the jobs of a workspace share: facts, moves, and writers at once.
Beside the ladder: the real server, not a managed one.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import postgres
import pytest

from trimtab import settings as environment
from trimtab.errors import Conflict
from trimtab.records.erasure import ErasureRequest
from trimtab.records.record import utc_now
from trimtab.records.registry import AliasMove
from trimtab.settings import Settings
from trimtab.store.control import Control


@pytest.fixture
def where(tmp_path: Path) -> Iterator[Settings]:
    """A project whose control database is a server of its own, which ends with the test."""
    with postgres.running() as url:
        yield dataclasses.replace(environment.load(tmp_path), database_url=url)


def test_jobs_that_write_at_once_lose_nothing_and_the_audit_log_has_no_gap(where: Settings) -> None:
    pytest.importorskip("psycopg")
    wrong, made = list[Exception](), list[Control]()

    def opened() -> Control:
        made.append(Control(where))
        return made[-1]

    def work(number: int) -> None:
        try:
            control = opened()
            for n in range(10):
                control.put("erase_request", f"desk/{number}/{n}", ErasureRequest(subject="x", at=utc_now(), by="t"))
        except Exception as error:  # told below, in the test's own thread
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    control = opened()
    assert len(control.facts("erase_request", ErasureRequest)) == 40
    move = AliasMove(model="desk", alias="champion", before=None, after=1, at=utc_now(), actor="t", reason="t")
    control.move([move])
    with pytest.raises(Conflict):
        control.move([move])
    with made[0]._writing():  # a writer at work: reading waits for none
        assert control.alias("desk", "champion") == 1
    for one in made:
        one._engine.dispose()  # or its pool leaves open connections to the collector, which warns
