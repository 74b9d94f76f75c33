"""Where the keys to payloads lie, and what is wrong with it: out of others' reach, or beside what they open."""

from __future__ import annotations

import os
from typing import Any

from trimtab.errors import ConfigError, Fixable
from trimtab.records.project import Project
from trimtab.settings import Settings
from trimtab.store import master_key

_APART = "machines share the control database or the lake, and the keys of subjects are of this machine alone: "
_SHARE = "set TRIMTAB_SUBJECTS_URL on each of them, e.g. to that PostgreSQL"
_UNREADABLE = (f"{_APART}others could not read its rows", f"{_SHARE}, or write `evidence: {{erasure: rewrite}}`")
_BESIDE = "the master key lies beside the rows that it opens: who copies the folder has both"


def refuse_keys_apart(settings: Settings) -> None:
    """Raises Fixable where machines share rows or facts with this one, and not the keys that would encrypt them."""
    if settings.keys_are_apart:
        raise Fixable(*_UNREADABLE)


def faults(settings: Settings, project: Project) -> list[ConfigError]:
    """What `trimtab check` finds about the keys in the environment."""
    chosen, found = project.evidence.erasure, list[ConfigError]()
    place: dict[str, Any] = {"file": "trimtab.yaml", "field": "evidence.erasure", "value": chosen}
    if settings.keys_are_apart and chosen == "subject_keys":
        found.append(ConfigError(*_UNREADABLE, **place))
    elif settings.keys_are_apart:
        found.append(ConfigError(f"{_APART}others take its seals for broken", _SHARE, **place, severity="warning"))
    if chosen == "subject_keys" and beside_the_lake(settings):
        where = master_key.place(settings)
        fix = f"move {where} to a place of its own and set TRIMTAB_MASTER_KEY_FILE, or TRIMTAB_MASTER_KEY_COMMAND"
        found.append(ConfigError(_BESIDE, fix, **place, severity="warning"))
    return found


def beside_the_lake(settings: Settings) -> bool:
    """Whether who copies the project's folder has the rows, and what opens them."""
    if os.environ.get("TRIMTAB_MASTER_KEY_COMMAND") or settings.lake_url is not None:
        return False
    path = master_key.place(settings)
    return path.exists() and path.resolve().is_relative_to(settings.root)
