"""Hear that a file was replaced, as soon as it is: Linux' inotify(7), which no module of the standard library has.

The boundary: it tells that something came under one of some names; what it is, the caller looks at. Where there is no
inotify, or a file system does not tell, whoever looks now and then finds it all the same.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from struct import Struct

_CLOSE_WRITE, _MOVED_TO = 0x8, 0x80
_EVENT = Struct("iIII")  # watch, mask, cookie, length of the name behind it


def watch(files: Iterable[Path], changed: Callable[[], None]) -> bool:
    """Call `changed` on the running loop when one of these files was written or replaced, for as long as the process
    lives. False: nobody tells here."""
    names = {str(path.absolute()): path.absolute() for path in files}
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, AttributeError):
        return False
    if fd < 0:
        return False
    folders: dict[int, Path] = {}
    for folder in {path.parent for path in names.values()}:
        folders[libc.inotify_add_watch(fd, os.fsencode(folder), _CLOSE_WRITE | _MOVED_TO)] = folder
    if -1 in folders:
        os.close(fd)
        return False

    def heard() -> None:
        if any(str(folders.get(number, Path()) / name) in names for number, name in _events(os.read(fd, 65536))):
            changed()

    asyncio.get_running_loop().add_reader(fd, heard)
    return True


def _events(data: bytes) -> Iterable[tuple[int, str]]:
    """The watch and the name of each event."""
    at = 0
    while at < len(data):
        number, _, _, length = _EVENT.unpack_from(data, at)
        at += _EVENT.size + length
        yield number, os.fsdecode(data[at - length : at].rstrip(b"\0"))
