"""Compile the fast path: `python -m trimtab.gateway.fast_path.build`, where a C compiler is.

Installing from sources does it by itself. Nothing but the standard library is imported, and nothing of Trimtab: the
build of the wheel runs this file alone. The result needs no Python: any one on the same kind of machine may load it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
LIBRARY = HERE / "fast_path.so"
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-fstack-protector-strong")


def compiled(to: Path = LIBRARY, *flags: str, source: str = str(HERE / "fast_path.c")) -> str:
    """Compile, and return why that was not possible; empty when it was. `flags` are added to the compiler's."""
    if not sys.platform.startswith("linux"):
        return "it is for Linux (epoll)"
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return "there is no C compiler (cc)"
    new = to.with_suffix(".new")  # a process that has the old one loaded keeps it
    command = [compiler, *FLAGS, *flags, "-o", str(new), source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        new.unlink(missing_ok=True)
        return done.stderr.strip()[-2000:]
    new.replace(to)
    return ""


if __name__ == "__main__":
    if why := compiled():
        sys.exit(f"the fast path was not compiled: {why}")
    print(LIBRARY)
