"""What a command needs before it can do anything: where the project is, what it decides, what was recorded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab import settings as environment
from trimtab.errors import Fixable
from trimtab.settings import Settings

if TYPE_CHECKING:
    from trimtab.project import Loaded
    from trimtab.store.control import Control

Folder = Annotated[Path, typer.Option("--project", "-p", help="Folder of trimtab.yaml.", show_default="here")]
"""The option that all commands share."""


def settings_of(folder: Path) -> Settings:
    """Where things are. Raises Fixable when the environment says nonsense."""
    try:
        return environment.load(folder)
    except ValueError:
        raise Fixable("TRIMTAB_PORT or TRIMTAB_DASHBOARD_PORT is not a number", "set it to a free port") from None


def opened(folder: Path) -> tuple[Settings, Loaded]:
    """Where things are, and what the file decides. Raises ConfigError for a faulty file."""
    from trimtab import project

    return settings_of(folder), project.load(folder)


def recorded(folder: Path) -> tuple[Settings, Control]:
    """The project's control database. Raises Fixable when there is none yet: asking must not create one."""
    settings = settings_of(folder)
    path = settings.database_url.removeprefix("sqlite:///")
    if path != settings.database_url and not Path(path).exists():
        raise Fixable(f"nothing is recorded in {settings.root} yet", "run `trimtab register` there, or use --project")
    from trimtab.store.control import Control

    return settings, Control(settings)
