"""The evidence of a period as one signed file, for an auditor who has nothing else."""

from __future__ import annotations

import hashlib
import json
import zipfile
from datetime import datetime
from pathlib import Path

from trimtab.errors import Fixable
from trimtab.lifecycle import evidence
from trimtab.records.guidelines import GuidelinesText
from trimtab.records.registry import ModelVersion
from trimtab.store import audit, verify_audit
from trimtab.store.control import Control

HOW = """Evidence from a Trimtab audit log.

verify_audit.py needs Python and nothing else. Get the verifier key from the operator by another way than this file:

    python verify_audit.py --key VERIFIER_KEY BUNDLE.zip
"""


def write(control: Control, first: datetime, last: datetime, out: Path) -> int:
    """Write the entries with first <= at < last, each with its proof, the guidelines and the cards, as a zip file.

    The guidelines are those in force when the period began and all that an entry of it names, each under its SHA-256.
    Returns how many entries. Raises Fixable when there is none in the period.
    """
    entries = control.audit_entries()
    chosen = [entry for entry in entries if first <= datetime.fromisoformat(entry.at) < last]
    if not chosen:
        span = f"{entries[0].at} to {entries[-1].at}" if entries else "nothing"
        raise Fixable(f"no audit entry between {first} and {last}", f"choose a period inside the log: {span}")
    tree, notes, signer = audit.Grown(entry.leaf for entry in entries), control.checkpoints(), control.signer
    files = {
        "README.txt": HOW.encode(),
        "verify_audit.py": Path(verify_audit.__file__).read_bytes(),
        "entries.jsonl": "".join(_line(entry, tree) for entry in chosen).encode(),
        "checkpoint.note": notes[len(entries)].encode(),
    }
    if (before := chosen[0].seq - 1) > 0:
        proof = [step.hex() for step in audit.consistency_proof(tree, before)]
        files["earlier.json"] = json.dumps({"checkpoint": notes[before], "proof": proof}).encode()
    in_force = [entry for entry in entries[: chosen[0].seq - 1] if entry.kind == "project_file"][-1:]
    if in_force:
        files["in_force.json"] = _line(in_force[0], tree).encode()
    texts, absent = _guidelines(control, [*in_force, *chosen])
    files |= texts | _cards(control)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    period = {"from": first.isoformat(), "to": last.isoformat()}
    listed = {"period": period, "files": hashes, "guidelines_not_on_record": absent}
    manifest = json.dumps(listed, indent=2, sort_keys=True).encode()
    files["manifest.json"] = manifest
    files["manifest.note"] = signer.note(f"{verify_audit.BUNDLE}\n{hashlib.sha256(manifest).hexdigest()}\n").encode()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return len(chosen)


def _guidelines(control: Control, entries: list[audit.Entry]) -> tuple[dict[str, bytes], list[str]]:
    """The guidelines that entries name, as files; and those whose text an earlier release did not keep."""
    named = {verify_audit.guidelines_of(entry.kind, entry.body) for entry in entries} - {""}
    kept = {sha: control.get("guidelines", sha, GuidelinesText) for sha in sorted(named)}
    files = {f"guidelines/{sha}.yaml": found.text.encode() for sha, found in kept.items() if found}
    return files, [sha for sha, found in kept.items() if found is None]


def _cards(control: Control) -> dict[str, bytes]:
    """System and data cards of every version, as the records have them now."""
    files: dict[str, bytes] = {}
    for version in control.facts("version", ModelVersion):
        name = f"cards/{version.spec.model}-{version.version}"
        files[f"{name}.md"] = evidence.card_on_record(control, version).encode()
        if (data := evidence.data_card_on_record(control, version)) is not None:
            files[f"{name}-data.md"] = data.encode()
    return files


def _line(entry: audit.Entry, tree: audit.Grown) -> str:
    proof = [step.hex() for step in audit.inclusion_proof(tree, entry.seq - 1)]
    return json.dumps(entry.model_dump() | {"proof": proof}, ensure_ascii=False) + "\n"
