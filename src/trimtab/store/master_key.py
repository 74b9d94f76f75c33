"""The master key of a project, under which the keys of subjects are wrapped and subjects are hashed: 32 bytes.

It is the file `.trimtab/master.key`, another one (TRIMTAB_MASTER_KEY_FILE), or what a command prints
(TRIMTAB_MASTER_KEY_COMMAND), in base64.
"""

from __future__ import annotations

import base64
import binascii
import functools
import os
import secrets
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

from trimtab.errors import Fixable
from trimtab.settings import Settings
from trimtab.store import key_file


def master_key(settings: Settings, needed: Callable[[], bool]) -> bytes:
    """The master key, made where no command or file gives one, unless it is `needed`: there are keys under it.

    Raises Fixable when the command or the file does not give one.
    """
    command = os.environ.get("TRIMTAB_MASTER_KEY_COMMAND")
    if command:
        return _printed(command)
    path = place(settings)
    if not path.exists():
        if needed():
            fix = f"put it back at {path}, or set TRIMTAB_MASTER_KEY_FILE or TRIMTAB_MASTER_KEY_COMMAND"
            raise Fixable("there are keys of subjects, and the master key is not here", fix)
        keep(settings, secrets.token_bytes(32))
    return _parsed(path.read_text(), str(path))


def keep(settings: Settings, key: bytes) -> None:
    """Write a master key to its file, unless one is there."""
    key_file.keep(place(settings), base64.b64encode(key) + b"\n")


def place(settings: Settings) -> Path:
    """The file of the master key; with TRIMTAB_MASTER_KEY_COMMAND nobody reads it."""
    return Path(os.environ.get("TRIMTAB_MASTER_KEY_FILE") or settings.home / "master.key")


def given(settings: Settings) -> bool:
    """Whether a command or a file gives a master key."""
    return bool(os.environ.get("TRIMTAB_MASTER_KEY_COMMAND")) or place(settings).exists()


@functools.lru_cache(maxsize=8)
def _printed(command: str) -> bytes:
    """What the command prints, asked once a process: the drain needs it every second."""
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False, timeout=60)
    return _parsed(done.stdout if done.returncode == 0 else "", "TRIMTAB_MASTER_KEY_COMMAND")


def _parsed(text: str, where: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != 32:
        raise Fixable(f"{where} gives no master key", "it must give 32 bytes in base64: `openssl rand -base64 32`")
    return key
