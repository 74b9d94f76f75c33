"""The audit log: decisions, approvals and alias moves as leaves of a Merkle tree, its size and root signed at each one.

`control` stores entries and checkpoints in the transaction that writes the fact; what anybody needs to check them is
in `verify_audit`, one file that stands alone. Whoever holds the database and the signing key can write all of it anew:
keep checkpoints elsewhere (`trimtab audit checkpoint`) and compare.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from trimtab.errors import Corrupt
from trimtab.records.record import Record
from trimtab.store import verify_audit
from trimtab.store.verify_audit import leaf_hash, root

ORIGIN = "trimtab/audit"
"""The log's name in its checkpoints, and the signer's."""


class Entry(Record):
    """One entry. `body` is the canonical JSON of the fact, byte for byte."""

    seq: int
    at: str
    kind: str
    key: str
    body: str

    @property
    def leaf(self) -> bytes:
        """The entry's hash in the tree."""
        return leaf_hash(verify_audit.entry_bytes(self.model_dump()))


class Signer:
    """The project's signing key: made once, readable by its owner only."""

    def __init__(self, file: Path) -> None:
        if not file.exists():
            _create(file)
        key = serialization.load_pem_private_key(file.read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise Corrupt(f"{file} is not an Ed25519 key")
        self._key = key
        self._public = key.public_key().public_bytes_raw()

    @property
    def verifier_key(self) -> str:
        """What an auditor needs, besides the checkpoints, to check them."""
        return verify_audit.verifier_key(ORIGIN, self._public)

    def checkpoint(self, leaves: Sequence[bytes]) -> str:
        """The signed size and root of a log with these leaf hashes (C2SP tlog-checkpoint)."""
        return self.note(f"{ORIGIN}\n{len(leaves)}\n{base64.b64encode(root(leaves)).decode()}\n")

    def note(self, text: str) -> str:
        """A text and its signature (C2SP signed-note). `text` ends with a newline."""
        signature = verify_audit.key_id(ORIGIN, self._public) + self._key.sign(text.encode())
        return f"{text}\n\u2014 {ORIGIN} {base64.b64encode(signature).decode()}\n"


def verify(
    entries: Iterable[Entry], checkpoints: Sequence[str], key: str, facts: Mapping[tuple[str, str], str] | None = None
) -> list[str]:
    """Faults of a log in words; empty when it is whole. `checkpoints` are notes that `key` signed.

    With `facts` (bodies by kind and key), also that every fact stands in the log unchanged and vice versa.
    """
    known = list(entries)
    lines = [entry.model_dump_json() for entry in known]
    faults = verify_audit.faults_of(lines, checkpoints, key, _open_fast) if known or checkpoints else []
    if facts is None:
        return faults
    for entry in known:
        if facts.get((entry.kind, entry.key)) != entry.body:
            faults.append(f"{entry.kind} {entry.key} differs from its audit entry {entry.seq}")
    seen = {(entry.kind, entry.key) for entry in known}
    return faults + [f"{kind} {key} has no audit entry" for kind, key in facts if (kind, key) not in seen]


def _open_fast(note: str, key: str) -> str:
    """`verify_audit.open_note` with a native signature check: a whole log has as many notes as entries."""
    return verify_audit.open_note(note, key, _native_verify)


def _native_verify(public: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Hashes that prove leaf `index` (from 0) to whoever has the root: RFC 9162, 2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = _split(len(leaves))
    if index < k:
        return [*inclusion_proof(leaves[:k], index), root(leaves[k:])]
    return [*inclusion_proof(leaves[k:], index - k), root(leaves[:k])]


def consistency_proof(leaves: Sequence[bytes], old: int) -> list[bytes]:
    """Hashes that prove that the tree of the first `old` leaves (0 < old <= all) only grew: RFC 9162, 2.1.4.1."""
    return _subproof(leaves, old, whole=True)


def _subproof(leaves: Sequence[bytes], old: int, *, whole: bool) -> list[bytes]:
    if old == len(leaves):
        return [] if whole else [root(leaves)]
    k = _split(len(leaves))
    if old <= k:
        return [*_subproof(leaves[:k], old, whole=whole), root(leaves[k:])]
    return [*_subproof(leaves[k:], old - k, whole=False), root(leaves[:k])]


def _split(n: int) -> int:
    """The largest power of two below n."""
    return 1 << (n - 1).bit_length() - 1


def _create(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(pem)
        out.flush()
        os.fsync(out.fileno())
    try:
        os.link(temporary, file)  # of two that make one at the same time, the first wins
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
