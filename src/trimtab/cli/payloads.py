"""Evidence: request rows for readers of other kinds, and the keys that open them in a safe place."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli import show
from trimtab.cli.loop import user
from trimtab.cli.opening import Folder, opened, recorded

PASSPHRASE = "TRIMTAB_BACKUP_PASSPHRASE"  # noqa: S105 (the name of a variable)
Backup = Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")]


def export(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="A new file: .parquet or .jsonl.")],
    purpose: Annotated[
        str, typer.Option(help="What for: needed, and stands in the audit log.", show_default=False)
    ] = "",
    project: Folder = Path(),
    first: Annotated[
        datetime | None, typer.Option("--from", help="Asked from this moment on (UTC).", show_default="the first row")
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", help="Asked before this moment (UTC).", show_default="the last row")
    ] = None,
) -> None:
    """Write request rows with their texts to one file, for DuckDB, pandas and other readers of an encrypted lake.

    The audit log says who took which rows and what for, before the first one is written. An erasure does not reach the
    file: delete it when the purpose is served.
    """
    settings, loaded = opened(project)
    _, control = recorded(project)
    from trimtab.lifecycle import erasure
    from trimtab.records.record import utc_now
    from trimtab.store import row_export
    from trimtab.store.drain import drain

    erasure.choose(settings, loaded.project)
    drain(settings)
    start, end = (None if moment is None else moment.replace(tzinfo=UTC) for moment in (first, last))
    with show.working("writing…"):
        taken = row_export.write(
            settings, control, loaded.project.name, out, (start, end), purpose, f"cli:{user()}", utc_now()
        )
    show.say(f"{taken.rows} rows in {out}")
    show.then(f"delete {out} when it has served: `trimtab erase` does not reach it")


def backup(file: Backup, project: Folder = Path()) -> None:
    """Write the subjects' keys and the master key into one encrypted file: without them the lake cannot be read.

    TRIMTAB_BACKUP_PASSPHRASE holds the passphrase; without it, it is asked for. Keep the file apart from backups of the
    lake, and make it anew after an erasure: an older one still has the key that was destroyed.
    """
    settings, loaded = opened(project)
    _, control = recorded(project)
    from trimtab.records.record import utc_now
    from trimtab.store import key_backup

    passphrase = _passphrase(new=True)
    moved = key_backup.write(settings, control, loaded.project.name, file, passphrase, f"cli:{user()}", utc_now())
    show.say(f"{moved.keys} keys and the master key in {file}")
    show.then(f"keep {file} away from the lake's backups, delete older ones; `trimtab subjects restore {file}`")


def restore(file: Backup, project: Folder = Path()) -> None:
    """Put the keys of a backup back where they are missing, also into another store (TRIMTAB_SUBJECTS_URL).

    Keys that were destroyed here, and keys of subjects whose tombstone is in the audit log, stay destroyed.
    """
    settings, loaded = opened(project)
    _, control = recorded(project)
    from trimtab.records.record import utc_now
    from trimtab.store import key_backup

    passphrase = _passphrase(new=False)
    moved = key_backup.restore(settings, control, loaded.project.name, file, passphrase, f"cli:{user()}", utc_now())
    show.say(f"{moved.keys} keys are back; of subjects erased since, and destroyed: {moved.kept_destroyed}")
    show.then("`trimtab audit verify --rows 0`")


def _passphrase(*, new: bool) -> str:
    return os.environ.get(PASSPHRASE) or typer.prompt("Passphrase", hide_input=True, confirmation_prompt=new, err=True)
