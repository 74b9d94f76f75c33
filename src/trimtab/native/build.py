"""Compile what is written in C: `python -m trimtab.native.build`, where a C compiler is.

Installing from sources does it by itself. Nothing but the standard library is imported, and nothing of Trimtab: the
build of the wheel runs this file alone. The results need no Python: any one on the same kind of machine may load them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOMS = Path(__file__).parent.parent
SOURCES = (ROOMS / "gateway/fast_path/fast_path.c", ROOMS / "registry/batch.c")
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O3", "-fPIC", "-shared", "-Wall", "-Wextra", "-fstack-protector-strong")


def compiled(source: Path, *flags: str, to: Path | None = None) -> str:
    """Compile one source, beside it unless `to` says where, and return why that was not possible; empty when it was.
    `flags` are added to the compiler's."""
    if not sys.platform.startswith("linux"):
        return "it is for Linux (epoll)"
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return "there is no C compiler (cc)"
    to = library_of(source) if to is None else to
    new = to.with_suffix(".new")  # a process that has the old one loaded keeps it
    command = [compiler, *FLAGS, *flags, "-o", str(new), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        new.unlink(missing_ok=True)
        return done.stderr.strip()[-2000:]
    new.replace(to)
    return ""


def library_of(source: Path) -> Path:
    """Where what is compiled from a source stands."""
    return source.with_suffix(".so")


def main() -> None:
    """Compile everything."""
    for source in SOURCES:
        if why := compiled(source):
            sys.exit(f"{source.name} was not compiled: {why}")
        print(library_of(source))


if __name__ == "__main__":
    main()
