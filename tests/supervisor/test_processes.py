"""A child is heard however many files its parent has open."""

from __future__ import annotations

import os
import resource
from contextlib import ExitStack
from pathlib import Path

import pytest

from trimtab import processes

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
