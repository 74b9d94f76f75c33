"""`trimtab databricks bundle`: the workspace's resources as files, for those who deploy with Databricks' own tool."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli import show
from trimtab.cli.opening import Folder, opened

_SIGNS = {"create": "+", "change": "~", "keep": "=", "yours": "!"}
_NOTES = {"yours": "  (changed by hand: it is yours, and stays)"}


def bundle(
    project: Folder = Path(),
    out: Annotated[
        Path | None, typer.Option(help="Folder for the bundle.", show_default="bundle, in the project")
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Write the files. Without, only the plan is shown.")] = False,
) -> None:
    """Write a Declarative Automation Bundle: databricks.yml, resources/*.yml and the SQL view, for you to own.

    The same endpoint, jobs, monitor and alert that `deploy`, `monitor` and `schedule` make, with targets dev and prod.
    A file that you changed is never overwritten; what would change in it is shown.
    """
    _, loaded = opened(project)
    from trimtab.databricks import bundle as files

    folder = out or project / "bundle"
    planned = files.plan(loaded.project, folder)
    for file in planned:
        show.say(f"{_SIGNS[file.action]} {file.path}{_NOTES.get(file.action, '')}")
        for line in file.difference[2:]:
            show.say(f"    {line}", style="dim")
    todo = [file for file in planned if file.action in ("create", "change")]
    if not todo:
        show.then(f"nothing to write; `cd {folder} && databricks bundle validate`")
    elif not apply:
        show.then("the same with --apply; nothing was written")
    else:
        files.write(planned)
        show.say(f"wrote {len(todo)} files")
        show.then(f"`cd {folder} && databricks bundle validate`, then `databricks bundle deploy --target dev`")
