"""What trimtab.yaml and the guidelines said, and from when on: cards, explanations and evidence bundles are made of it.

Two facts, both in the audit log: `project_file`, one each time the file is another one than before, and `guidelines`,
one for each text of the guidelines, under its SHA-256. Neither holds what may carry a secret, such as a webhook.
"""

from __future__ import annotations

from datetime import datetime

from trimtab.project import Loaded
from trimtab.project.guidelines import read_back
from trimtab.records.guidelines import Guidelines, GuidelinesText
from trimtab.records.project import Project
from trimtab.records.record import utc_now
from trimtab.records.registry import ProjectFile
from trimtab.store.control import Control


def keep(control: Control, loaded: Loaded) -> str:
    """Put on record what the file says, unless it is what it said last. Returns its hash."""
    model, now = loaded.project.name, utc_now()
    if loaded.guidelines_sha256:
        text = GuidelinesText(sha256=loaded.guidelines_sha256, text=loaded.guidelines_text)
        control.put("guidelines", text.sha256, text)
    newest = control.last("project_file", ProjectFile, f"{model}/")
    if newest is None or newest.hash != loaded.hash:
        control.put("project_file", f"{model}/{now.isoformat()}", said(loaded, now))
    return loaded.hash


def said(loaded: Loaded, now: datetime) -> ProjectFile:
    """What the file says now; nothing is recorded."""
    return ProjectFile(
        model=loaded.project.name,
        hash=loaded.hash,
        at=now,
        watched=_watched(loaded.project),
        guidelines_sha256=loaded.guidelines_sha256,
    )


def find(control: Control, model: str, hash_: str) -> ProjectFile | None:
    """What the file of this hash said; None where no record tells, as of releases that kept none."""
    found = [file for file in control.facts("project_file", ProjectFile, f"{model}/") if file.hash == hash_]
    return found[0] if found else None


def in_force(control: Control, model: str, moment: datetime) -> ProjectFile | None:
    """What the file said at a moment, as far as records tell: the last one that was put to use by then."""
    found = [file for file in control.facts("project_file", ProjectFile, f"{model}/") if file.at <= moment]
    return found[-1] if found else None


def guidelines(control: Control, sha256: str) -> Guidelines | None:
    """The guidelines of this hash; None when they are not on record, or in a form that this release does not read."""
    kept = control.get("guidelines", sha256, GuidelinesText)
    return None if kept is None else read_back(kept.text)


def _watched(project: Project) -> tuple[str, ...]:
    """What is monitored, a sentence each."""
    drift, quality = project.monitor.input_drift, project.monitor.quality
    return (
        *([f"Input drift over windows of {drift.window} requests, alpha {drift.alpha:g}."] if drift else []),
        *([f"Accuracy of at least {quality.min:g} over {quality.window} labels."] if quality else []),
        *(
            f"An alert when {threshold.text}, looked at every {threshold.every.total_seconds() / 60:g} minutes."
            for threshold in project.thresholds()
        ),
    )
