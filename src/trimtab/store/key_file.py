"""Files of secret keys: whole or not there, readable by their owner alone, and never replaced."""

from __future__ import annotations

import os
from pathlib import Path


def keep(file: Path, data: bytes) -> None:
    """Write a key to a file that is not there yet; one that somebody else made meanwhile stays."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    try:
        os.link(temporary, file)  # of two that make one at the same time, the first wins
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
