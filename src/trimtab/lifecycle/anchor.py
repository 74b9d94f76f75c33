"""Anchor the audit log's newest checkpoint outside the database, so that a log written anew is found out."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from trimtab import registry
from trimtab.monitor import alerts
from trimtab.project import Loaded
from trimtab.settings import Settings
from trimtab.store.control import Control

log = logging.getLogger(__name__)


def anchor(settings: Settings, loaded: Loaded, control: Control, anchored: dict[str, int]) -> None:
    """Bring the newest checkpoint to every place that `evidence.anchor` names and that has not got it yet.

    `anchored` is the size that each place has, and is kept up to date. A place that is away is logged and tried again
    at the next call.
    """
    size, note = control.newest_checkpoint() or (0, "")
    for place in loaded.project.evidence.anchor:
        if anchored.get(place, 0) >= size:
            continue
        try:
            _bring(settings, loaded, place, note)
        except OSError as error:
            log.warning("the checkpoint of %d audit entries did not reach its anchor: %s", size, error)
        else:
            anchored[place] = size


def _bring(settings: Settings, loaded: Loaded, place: str, note: str) -> None:
    kind, _, where = place.partition(":")
    match kind:
        case "mlflow":
            registry.show_checkpoint(settings, loaded.project.name, note)
        case "file":
            _append(settings.root / where, note)
        case _:
            alerts.post(where, note.encode(), "text/plain; charset=utf-8")


def _append(path: Path, note: str) -> None:
    """Add the note to a file, unless it ends with it already. It may lie on storage that only takes additions."""
    if path.exists() and path.read_text().endswith(note + "\n"):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(note + "\n")
        file.flush()
        os.fsync(file.fileno())
