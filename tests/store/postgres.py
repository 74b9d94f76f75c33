"""A PostgreSQL server of a test's own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from place import free_port


def _bin() -> Path | None:
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    found = shutil.which("pg_ctl")
    return debian[-1] if debian else Path(found).parent if found else None


@contextmanager
def running() -> Iterator[str]:
    """The URL of a server with nothing in it. It skips the test where PostgreSQL is not installed.

    Its folder is none of pytest's: another run of pytest would close the folder above them to the server's user.
    """
    programs = _bin()
    if programs is None:
        pytest.skip("PostgreSQL is not installed here: apt-get install postgresql")
    pytest.importorskip("psycopg")
    with tempfile.TemporaryDirectory(prefix="trimtab-postgres-") as name:
        folder, port, who = Path(name), free_port(), {}
        if os.geteuid() == 0:  # it refuses to run as root
            known = {one.pw_name for one in pwd.getpwall()}
            user = next((one for one in ("postgres", "nobody") if one in known), None)
            shutil.chown(folder, user)
            who = {"user": user}
        run = {"check": True, "capture_output": True, "timeout": 60, "cwd": folder} | who
        subprocess.run([programs / "initdb", "-A", "trust", "-U", "trimtab", "-N", "-D", folder / "data"], **run)
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        start = [programs / "pg_ctl", "-D", folder / "data", "-o", options, "-l", folder / "log", "-w", "start"]
        subprocess.run(start, **run | {"capture_output": False, "stdout": subprocess.DEVNULL})
        try:
            yield f"postgresql://trimtab@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([programs / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop"], **run)
