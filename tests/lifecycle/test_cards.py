"""Cards, explanations and evidence tell what the file and the guidelines said then, not what they say now."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import triage
from triage import MODEL

from trimtab import project, registry
from trimtab.lifecycle import card, compliance, explain, write_bundle
from trimtab.lifecycle.evidence import card_on_record
from trimtab.project import Loaded
from trimtab.records.record import utc_now
from trimtab.records.registry import ModelVersion, ProjectFile
from trimtab.registry import project_files
from trimtab.store import verify_audit
from trimtab.store.control import Control

pytestmark = pytest.mark.filterwarnings("default")  # MLflow and its dependencies warn about themselves

BOOK = """\
system: desk
owner: team@example.org
intended_use: {{purpose: {purpose}}}
prohibited_use: [{prohibited}]
clauses:
- {{id: DOC-01, text: The card is filled., check: card.complete, with: {{headings: [Purpose]}}, maps: [AIA-11]}}
"""


class Desk:
    """A project whose file and guidelines are written anew now and then."""

    def __init__(self, folder: Path) -> None:
        self.settings, _ = triage.write(folder, "echo", "{latency_p95: null}")
        self.plain = (folder / "trimtab.yaml").read_text()
        self.loaded = self.write("Sorts messages.", "credit decisions", 50)
        registry.register_base(self.settings, self.loaded)
        self.control = Control(self.settings)

    def write(self, purpose: str, prohibited: str, window: int) -> Loaded:
        root = self.settings.root
        (root / "guidelines.yaml").write_text("\ufeff" + BOOK.format(purpose=purpose, prohibited=prohibited))
        said = f"guidelines: guidelines.yaml\nmonitor: {{input_drift: {{window: {window}}}}}\n"
        (root / "trimtab.yaml").write_text(self.plain + said + 'alerts: [{on: ["latency_p99 > 2s"]}]\n')
        return project.load(root)

    def change(self) -> Loaded:
        self.loaded = self.write("Judges people.", "nothing at all", 77)
        return self.loaded

    @property
    def version(self) -> ModelVersion:
        return registry.get(self.control, MODEL, 1)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("TRIMTAB_BLOBS", str(tmp_path / "blobs"))
    monkeypatch.setattr(registry, "_log_version", lambda *_: (1, "run 1"))  # MLflow is not what is tested here
    for name in ("log_text", "show_aliases"):
        monkeypatch.setattr(registry, name, lambda *_: None)
    return Desk(tmp_path / "desk")


def test_a_card_is_rebuilt_byte_for_byte_after_the_file_and_the_guidelines_changed(desk: Desk) -> None:
    first = card(desk.settings, desk.loaded, 1)
    for said in ("Sorts messages.", "- Not for: credit decisions", "windows of 50 requests", "latency_p99 > 2s"):
        assert said in first
    changed = desk.change()
    assert card(desk.settings, changed, 1) == first
    registry.register_base(desk.settings, changed)  # what `trimtab up` does: the new file is on record, too
    assert [file.hash for file in desk.control.facts("project_file", ProjectFile)] == [
        desk.version.config_hash,
        changed.hash,
    ]
    assert card(desk.settings, changed, 1) == first
    assert (desk.settings.cards / f"{MODEL}-1.md").read_text() == first


def test_a_report_on_a_version_puts_it_under_the_guidelines_of_that_report(desk: Desk) -> None:
    changed = desk.change()
    found = compliance.evaluate(desk.settings, changed, desk.control, desk.version, utc_now())
    assert "Sorts messages." in card_on_record(desk.control, desk.version)  # what was only looked at binds nothing
    compliance.record(changed, desk.control, found)
    after = card_on_record(desk.control, desk.version)
    assert "Judges people." in after
    assert "windows of 77 requests" in after
    assert "Sorts messages." not in after


def test_a_version_of_an_earlier_release_has_a_card_that_says_what_was_not_kept(desk: Desk) -> None:
    old = desk.version.model_copy(update={"version": 2, "config_hash": "0" * 64})
    desk.control.put("version", f"{MODEL}/2", old)
    text = card(desk.settings, desk.loaded, 2)
    assert text.count("An earlier release registered this version and did not keep what trimtab.yaml") == 5
    assert "Sorts messages." not in text
    assert "windows of" not in text


def test_an_explanation_names_the_guidelines_that_were_in_force_when_it_was_asked(desk: Desk) -> None:
    before = desk.loaded.guidelines_sha256
    moment = utc_now()
    registry.register_base(desk.settings, desk.change())
    at = {when: project_files.in_force(desk.control, MODEL, when) for when in (moment, utc_now())}
    assert [file and file.guidelines_sha256 for file in at.values()] == [before, desk.loaded.guidelines_sha256]
    triage.answer(desk.settings, 1)  # an hour ago: before anything was on record
    told = explain(desk.settings, desk.control, "0")
    assert told.guidelines_sha256 == ""
    assert "What trimtab.yaml and the guidelines said then was not recorded." in told.missing


class Bundle:
    """An evidence bundle on an auditor's machine."""

    def __init__(self, desk: Desk, first: datetime, folder: Path) -> None:
        self.file, self.key, self.folder = folder / "evidence.zip", desk.control.signer.verifier_key, folder
        write_bundle(desk.control, first, utc_now() + timedelta(seconds=1), self.file)
        with zipfile.ZipFile(self.file) as archive:
            self.files = {name: archive.read(name) for name in archive.namelist()}
        self.signer = desk.control.signer

    def signed_anew(self, files: dict[str, bytes]) -> str:
        """What the verifier says of other files under a manifest that the operator signed for them."""
        listed = json.loads(files.pop("manifest.json"))
        files.pop("manifest.note")
        listed["files"] = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        manifest = json.dumps(listed).encode()
        note = self.signer.note(f"{verify_audit.BUNDLE}\n{hashlib.sha256(manifest).hexdigest()}\n")
        with zipfile.ZipFile(self.file, "w") as archive:
            for name, data in {**files, "manifest.json": manifest, "manifest.note": note.encode()}.items():
                archive.writestr(name, data)
        return self.verified()

    def verified(self) -> str:
        (self.folder / "verify_audit.py").write_bytes(self.files["verify_audit.py"])
        command = [sys.executable, "-I", "verify_audit.py", "--key", self.key, str(self.file)]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False).stdout


def test_a_bundle_holds_the_guidelines_of_its_period_and_the_verifier_misses_them(desk: Desk, tmp_path: Path) -> None:
    old, begin = desk.loaded.guidelines_sha256, utc_now()
    found = compliance.evaluate(desk.settings, desk.change(), desk.control, desk.version, utc_now())
    compliance.record(desk.loaded, desk.control, found)
    bundle = Bundle(desk, begin, tmp_path)
    new = desk.loaded.guidelines_sha256
    assert "whole and in place" in bundle.verified()
    assert {name for name in bundle.files if name.startswith("guidelines/")} == {
        f"guidelines/{sha}.yaml" for sha in (old, new)
    }  # the one in force when the period began, and the one that came in it
    assert bundle.files[f"guidelines/{new}.yaml"] == (desk.settings.root / "guidelines.yaml").read_bytes()
    assert "Judges people." in bundle.files[f"cards/{MODEL}-1.md"].decode()
    fewer = {name: data for name, data in bundle.files.items() if name != f"guidelines/{old}.yaml"}
    assert f"names guidelines {old}, which are not here" in bundle.signed_anew(fewer)
    other = bundle.files | {f"guidelines/{new}.yaml": b"system: another\n"}
    assert "is not the file of that SHA-256" in bundle.signed_anew(other)
    forged = bundle.files | {"in_force.json": bundle.files["in_force.json"].replace(old.encode(), new.encode())}
    assert "is not in the log that was signed" in bundle.signed_anew(forged)


def test_guidelines_that_only_an_earlier_release_used_are_listed_as_not_on_record(desk: Desk, tmp_path: Path) -> None:
    found = compliance.evaluate(desk.settings, desk.loaded, desk.control, desk.version, utc_now())
    desk.control.put("compliance", f"{MODEL}/1/old", found.model_copy(update={"guidelines_sha256": "0" * 64}))
    bundle = Bundle(desk, datetime(2020, 1, 1, tzinfo=UTC), tmp_path)
    assert "whole and in place" in bundle.verified()
    assert json.loads(bundle.files["manifest.json"])["guidelines_not_on_record"] == ["0" * 64]
    spoiled = bundle.files | {"entries.jsonl": bundle.files["entries.jsonl"].replace(b'"body": "{', b'"body": "[')}
    assert "is not in the log that was signed" in bundle.signed_anew(spoiled)
