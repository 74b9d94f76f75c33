"""Packages from npm that tests run, at one version each, kept in the user's cache."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest


def package(name: str, what: str) -> Path:
    """The folder of an installed package, NAME@VERSION. Skips when node, npm or network are missing, saying `what`."""
    where = Path.home() / ".cache" / "trimtab" / "tests" / name.replace("/", "_")
    folder = where / "node_modules" / name.rpartition("@")[0]
    where.mkdir(parents=True, exist_ok=True)
    with (where / "lock").open("w") as alone:  # another process of tests may be installing it
        fcntl.flock(alone, fcntl.LOCK_EX)
        if folder.exists() and shutil.which("node") is not None:
            return folder
        npm = shutil.which("npm")
        if npm is None or shutil.which("node") is None:
            pytest.skip(f"{what} needs node and npm, which are not installed")
        command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(where), name]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"{what} could not be installed with npm: {reason}")
    return folder
