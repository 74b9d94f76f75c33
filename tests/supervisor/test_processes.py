"""A child is heard however many files its parent has open, and ended when nobody waits for it any more."""

from __future__ import annotations

import os
import resource
import threading
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from trimtab import processes
from trimtab.errors import EngineError

SELECTED = 1024
"""select() watches file descriptors below this (FD_SETSIZE)."""


def test_a_parent_with_more_files_open_than_select_can_watch_starts_its_child(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = SELECTED + 64
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this machine lets a process open {hard} files at most")
    with ExitStack() as after:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
        after.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        opened = -1
        while opened < SELECTED:
            opened = os.open(os.devnull, os.O_RDONLY)
            after.callback(os.close, opened)
        child = processes.start("trimtab.providers.echo", log=tmp_path / "log")
        after.callback(child.stop)
        assert child.process.stdout is not None
        assert child.process.stdout.fileno() > SELECTED
        assert child.ready["address"].startswith("127.0.0.1:")


def test_a_child_that_is_not_ready_when_its_parent_stops_is_ended(tmp_path: Path) -> None:
    before, stopping = set(psutil.Process().children()), threading.Event()
    stopping.set()
    with pytest.raises(EngineError, match="did not start"):
        processes.start("trimtab.providers.echo", log=tmp_path / "log", stopping=stopping)
    assert set(psutil.Process().children()) <= before
