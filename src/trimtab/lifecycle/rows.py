"""The rows that a cycle sees, wherever they are: a lake, and how what was asked since gets there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trimtab.settings import Settings
from trimtab.store.drain import drain
from trimtab.store.lake import AnyLake, Lake


@dataclass(frozen=True)
class Rows:
    """`arrive` brings in what arrived since the last time, each row once, and returns how many there were."""

    lake: AnyLake
    arrive: Callable[[], int]


def here(settings: Settings) -> Rows:
    """The rows of this project's gateways."""
    return Rows(Lake(settings), lambda: drain(settings))
