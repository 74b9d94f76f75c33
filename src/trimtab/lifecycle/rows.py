"""The rows that a cycle sees, wherever they are: a lake, and how what was asked since gets there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trimtab.project import Loaded
from trimtab.promotion.rollout import Endpoint
from trimtab.records.project import Project
from trimtab.settings import Settings
from trimtab.store import erasing
from trimtab.store.control import Control
from trimtab.store.drain import drain
from trimtab.store.lake import AnyLake, Lake

WORKSPACE_LOOK_SECONDS = 300.0
"""Between two looks at a canary in a workspace: its inference table is minutes behind."""


@dataclass(frozen=True)
class Rows:
    """`arrive` brings in what arrived since the last time, each row once, and returns how many there were.

    `tables` is what an erasure rewrites. `endpoint` is what a rollout moves; None: the gateways of this machine, which
    follow by themselves.
    """

    lake: AnyLake
    arrive: Callable[[], int]
    tables: erasing.Tables
    endpoint: Endpoint | None = None


def here(settings: Settings) -> Rows:
    """The rows of this project's gateways."""
    return Rows(Lake(settings), lambda: drain(settings), erasing.Here(settings))


def on_spark(project: Project) -> bool:
    """Whether the project's rows are in the catalog of its workspace, and this runs there."""
    if project.target.databricks is None:
        return False
    from trimtab.databricks import runtime

    return runtime.on_spark(project)


def anywhere(settings: Settings, loaded: Loaded, control: Control) -> Rows:
    """The rows of the project: in the catalog of its workspace when this runs there, else those of this machine."""
    if not on_spark(loaded.project):
        return here(settings)
    from trimtab.databricks import runtime

    lake, arrive = runtime.lake(loaded.project, settings)
    if not runtime.in_workspace():
        return Rows(lake, arrive, lake)
    serve = runtime.serving(settings, loaded, control)
    return Rows(lake, arrive, lake, Endpoint(lake, serve, arrive, WORKSPACE_LOOK_SECONDS))
