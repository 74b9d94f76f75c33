"""The evidence of a period as one signed file, for an auditor who has nothing else."""

from __future__ import annotations

import hashlib
import json
import zipfile
from datetime import datetime
from pathlib import Path

from trimtab.errors import Fixable
from trimtab.settings import Settings
from trimtab.store import audit, verify_audit
from trimtab.store.control import Control

HOW = """Evidence from a Trimtab audit log.

verify_audit.py needs Python and nothing else. Get the verifier key from the operator by another way than this file:

    python verify_audit.py --key VERIFIER_KEY BUNDLE.zip
"""


def write(settings: Settings, control: Control, first: datetime, last: datetime, out: Path) -> int:
    """Write the entries with first <= at < last, each with its proof, and the model cards, as a zip file.

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
    for card in sorted(settings.cards.glob("*.md")):
        files[f"cards/{card.name}"] = card.read_bytes()
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    period = {"from": first.isoformat(), "to": last.isoformat()}
    manifest = json.dumps({"period": period, "files": hashes}, indent=2, sort_keys=True).encode()
    files["manifest.json"] = manifest
    files["manifest.note"] = signer.note(f"{verify_audit.BUNDLE}\n{hashlib.sha256(manifest).hexdigest()}\n").encode()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return len(chosen)


def _line(entry: audit.Entry, tree: audit.Grown) -> str:
    proof = [step.hex() for step in audit.inclusion_proof(tree, entry.seq - 1)]
    return json.dumps(entry.model_dump() | {"proof": proof}, ensure_ascii=False) + "\n"
