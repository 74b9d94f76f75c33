"""The control database on a real PostgreSQL, which the jobs of a workspace share: facts, moves, and writers at once.
Beside the ladder: the real server, not a managed one.
"""

from __future__ import annotations

import dataclasses
import os
import pwd
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from place import free_port
from trimtab import settings as environment
from trimtab.errors import Conflict
from trimtab.records.erasure import ErasureRequest
from trimtab.records.record import utc_now
from trimtab.records.registry import AliasMove
from trimtab.settings import Settings
from trimtab.store.control import Control


def _bin() -> Path | None:
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    found = shutil.which("pg_ctl")
    return debian[-1] if debian else Path(found).parent if found else None


@pytest.fixture
def where(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A project whose control database is a server of its own, which ends with the test."""
    programs = _bin()
    if programs is None:
        pytest.skip("PostgreSQL is not installed here: apt-get install postgresql")
    folder, port, who = tmp_path_factory.mktemp("postgres"), free_port(), {}
    if os.geteuid() == 0:  # it refuses to run as root
        user = next((name for name in ("postgres", "nobody") if name in {one.pw_name for one in pwd.getpwall()}), None)
        shutil.chown(folder, user)
        for parent in list(folder.parents)[:2]:
            parent.chmod(0o755)
        who = {"user": user}
    run = {"check": True, "capture_output": True, "timeout": 60, "cwd": folder} | who
    subprocess.run([programs / "initdb", "-A", "trust", "-U", "trimtab", "-N", "-D", folder / "data"], **run)
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    start = [programs / "pg_ctl", "-D", folder / "data", "-o", options, "-l", folder / "log", "-w", "start"]
    subprocess.run(start, **run | {"capture_output": False, "stdout": subprocess.DEVNULL})
    settings = environment.load(tmp_path_factory.mktemp("project"))
    yield dataclasses.replace(settings, database_url=f"postgresql://trimtab@127.0.0.1:{port}/postgres")
    subprocess.run([programs / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop"], **run)


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
