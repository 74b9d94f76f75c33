"""What the audit chain costs at a million entries: append, proof, verification.

    python benchmarks/responsible/chain.py

Times are of one core, medians where an operation is repeated. Everything is the product's own code: `store.audit`,
`store.verify_audit` (the verifier that stands alone) and `store.control` on SQLite with full syncs.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from trimtab import settings as environment
from trimtab.records.record import utc_now
from trimtab.records.registry import Traffic
from trimtab.store import audit, verify_audit
from trimtab.store.control import Control

AT = "2026-11-22T00:00:00+00:00"


def entries(count: int) -> list[audit.Entry]:
    """Entries of the size of a seal, the kind that there are most of."""
    body = '{"at":"2026-11-22T00:00:00Z","first":%d,"last":%d,"root":"' + "ab" * 32 + '"}'
    return [
        audit.Entry(seq=n, at=AT, kind="seal", key=f"desk/{n:012}", body=body % (n, n + 1)) for n in range(1, count + 1)
    ]


def median(operation: Callable[[int], object], places: list[int]) -> float:
    """Median seconds of an operation over some places."""
    spent: list[float] = []
    for place in places:
        begun = time.perf_counter()
        operation(place)
        spent.append(time.perf_counter() - begun)
    return statistics.median(spent)


def told(what: str, seconds: float, note: str = "") -> None:
    """One line of the result."""
    shown = (
        f"{seconds:.2f} s"
        if seconds >= 1
        else f"{seconds * 1e3:.2f} ms"
        if seconds >= 1e-3
        else f"{seconds * 1e6:.1f} us"
    )
    print(f"{what:<58} {shown:>12}  {note}", flush=True)


def tree(log: list[audit.Entry], folder: Path) -> None:
    """Append, proofs and verification on the log itself, without a database."""
    count, signer = len(log), audit.Signer(folder / "audit.key")
    begun = time.perf_counter()
    leaves = [entry.leaf for entry in log]
    told("hash an entry", (time.perf_counter() - begun) / count, "canonical JSON and SHA-256")
    begun = time.perf_counter()
    growing = verify_audit.Tree()
    for leaf in leaves:
        growing.add(leaf)
    told("append a leaf", (time.perf_counter() - begun) / count)
    told("root of the whole log", median(lambda _: growing.root(), list(range(1000))))
    newest = signer.checkpoint(count, growing.root())
    told("sign a checkpoint", median(lambda _: signer.checkpoint(count, growing.root()), list(range(1000))))

    begun = time.perf_counter()
    grown = audit.Grown(leaves)
    told("build the tree for proofs, once", time.perf_counter() - begun)
    places = list(range(0, count, max(1, count // 1000)))
    told("prove one entry", median(lambda place: audit.inclusion_proof(grown, place), places))
    told("prove that the log only grew", median(lambda place: audit.consistency_proof(grown, place + 1), places))
    root = grown.root()
    proofs = {place: audit.inclusion_proof(grown, place) for place in places}
    told(
        "verify one entry against a root",
        median(lambda place: verify_audit.includes(place, count, leaves[place], proofs[place], root), places),
        f"{len(proofs[places[0]])} hashes",
    )
    told(
        "verify a signature, pure Python",
        median(lambda _: verify_audit.open_note(newest, signer.verifier_key), [0] * 20),
    )
    told("verify a signature, native", median(lambda _: audit._open_fast(newest, signer.verifier_key), [0] * 200))

    lines = [entry.model_dump_json() for entry in log]
    begun = time.perf_counter()
    faults = verify_audit.faults_of(lines, [newest], signer.verifier_key)
    told("verify the whole log offline, newest checkpoint", time.perf_counter() - begun, "the one-file verifier")
    if faults:
        raise SystemExit(f"the log is not whole: {faults}")
    lines[count // 2] = lines[count // 2].replace("ab", "ac", 1)
    if not verify_audit.faults_of(lines, [newest], signer.verifier_key):
        raise SystemExit("an edited entry was not found")


def database(log: list[audit.Entry], folder: Path) -> None:
    """Append through the control database, when the log is empty and when it is long."""
    control = Control(environment.load(folder))

    def append(number: int) -> None:
        control.put_traffic(Traffic(model="desk", version=1, percent=number % 100, at=utc_now(), reason="benchmark"))

    told("append through SQLite, synced, empty log", median(append, list(range(50))))
    file = folder / ".trimtab" / "trimtab.db"
    with sqlite3.connect(file) as db:
        have = db.execute("SELECT max(seq) FROM audit").fetchone()[0]
        rows = ((e.seq, e.at, e.kind, e.key, e.body, e.leaf.hex()) for e in log[have:])
        db.executemany("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?)", rows)
    db.close()
    begun = time.perf_counter()
    append(0)
    told("first append where only leaves are stored", time.perf_counter() - begun, "once: the tree is built from them")
    told("append through SQLite, synced, long log", median(append, list(range(50))))


def report(_data: Path | None, count: int = 1_000_000) -> None:
    """Print the times at so many entries. It needs about 2 GB of memory at a million."""
    print(f"the audit chain at {count:,} entries\n")
    log = entries(count)
    with tempfile.TemporaryDirectory() as folder:
        tree(log, Path(folder))
        database(log, Path(folder))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000, help="entries in the log")
    report(None, parser.parse_args().entries)


if __name__ == "__main__":
    main()
