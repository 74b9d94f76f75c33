"""One project as the control process holds it open, and the latest look at it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from trimtab.project import Loaded
from trimtab.records.record import utc_now
from trimtab.settings import Settings
from trimtab.store.control import Control
from trimtab.store.lake import Lake
from trimtab.web.view import View, snapshot

FRESH_SECONDS = 0.5
"""However many pages are open, the records are read once in this time."""


@dataclass
class Place:
    """An open project."""

    settings: Settings
    loaded: Loaded
    control: Control
    lake: Lake
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _seen: tuple[float, View] | None = None

    def look(self) -> View:
        """The picture now. Blocks for some milliseconds: not for the event loop. Raises what `snapshot` raises."""
        with self._lock:
            if self._seen is None or time.monotonic() - self._seen[0] > FRESH_SECONDS:
                view = snapshot(self.settings, self.loaded, self.control, self.lake, utc_now())
                self._seen = time.monotonic(), view
            return self._seen[1]

    def forget(self) -> None:
        """Look anew next time: something was changed."""
        self._seen = None
