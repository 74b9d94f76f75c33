"""What is written in C, and how it is compiled (`python -m trimtab.native.build`) and loaded.

The boundary: nothing of Trimtab is imported here. The sources stand in the rooms that they belong to; what several of
them include is here. Each is optional: its room does the same without it, only slower.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

SWITCH = "TRIMTAB_FAST_PATH"
"""on (the default) or off; the path of a library is another build of the gateway's."""


def off() -> bool:
    """Whether everything native is switched off."""
    return os.environ.get(SWITCH, "on").lower() in ("off", "0", "false", "no")


def library(module: str, name: str) -> ctypes.CDLL | None:
    """The library beside a module's file; None: it was not compiled, or is switched off."""
    path = Path(module).with_name(f"{name}.so")
    return None if off() or not path.exists() else ctypes.CDLL(str(path))
