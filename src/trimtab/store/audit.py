"""The audit log: decisions, approvals and alias moves as leaves of a Merkle tree, its size and root signed at each one.

`control` stores entries and checkpoints in the transaction that writes the fact; what anybody needs to check them is
in `verify_audit`, one file that stands alone. Whoever holds the database and the signing key can write all of it anew:
keep checkpoints elsewhere (`trimtab audit checkpoint`) and compare.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from trimtab.errors import Corrupt
from trimtab.records.record import Record
from trimtab.store import key_file, verify_audit
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
    """A signing key, the project's or a person's: made once, readable by its owner only. `name` is the signer's."""

    def __init__(self, file: Path, name: str = ORIGIN) -> None:
        self.name = name
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
        return verify_audit.verifier_key(self.name, self._public)

    def checkpoint(self, size: int, tree: bytes) -> str:
        """The signed size and root of a log (C2SP tlog-checkpoint)."""
        return self.note(f"{ORIGIN}\n{size}\n{base64.b64encode(tree).decode()}\n")

    def note(self, text: str) -> str:
        """A text and its signature (C2SP signed-note). `text` ends with a newline."""
        signature = verify_audit.key_id(self.name, self._public) + self._key.sign(text.encode())
        return f"{text}\n\u2014 {self.name} {base64.b64encode(signature).decode()}\n"


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


class Grown:
    """A tree with every full subtree's root at hand: a proof costs a look-up a level. Built once, in O(n)."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._levels: list[list[bytes]] = [[]]
        for leaf in leaves:
            self.add(leaf)

    @property
    def size(self) -> int:
        return len(self._levels[0])

    def add(self, leaf: bytes) -> None:
        """Append a leaf hash."""
        self._levels[0].append(leaf)
        level = 0
        while not len(self._levels[level]) % 2:
            if level + 1 == len(self._levels):
                self._levels.append([])
            self._levels[level + 1].append(verify_audit.node_hash(*self._levels[level][-2:]))
            level += 1

    def root(self, first: int = 0, last: int | None = None) -> bytes:
        """Root over the leaves first <= i < last; `first` is a multiple of the power of two at or above last - first,
        or 0. Of none, the hash of nothing."""
        last = self.size if last is None else last
        n = last - first
        if n == 0:
            return root([])
        if not n & (n - 1):
            level = n.bit_length() - 1
            return self._levels[level][first >> level]
        middle = first + _split(n)
        return verify_audit.node_hash(self.root(first, middle), self.root(middle, last))


def inclusion_proof(tree: Grown, index: int) -> list[bytes]:
    """Hashes that prove leaf `index` (from 0) to whoever has the root: RFC 9162, 2.1.3.1."""
    proof: list[bytes] = []
    first, last = 0, tree.size
    while last - first > 1:
        middle = first + _split(last - first)
        if index < middle:
            proof.append(tree.root(middle, last))
            last = middle
        else:
            proof.append(tree.root(first, middle))
            first = middle
    return proof[::-1]


def consistency_proof(tree: Grown, old: int) -> list[bytes]:
    """Hashes that prove that the tree of the first `old` leaves (0 < old <= all) only grew: RFC 9162, 2.1.4.1."""
    proof: list[bytes] = []
    first, last, whole = 0, tree.size, True
    while old != last:
        middle = first + _split(last - first)
        if old <= middle:
            proof.append(tree.root(middle, last))
            last = middle
        else:
            proof.append(tree.root(first, middle))
            first, whole = middle, False
    return ([] if whole else [tree.root(first, last)]) + proof[::-1]


def _split(n: int) -> int:
    """The largest power of two below n."""
    return 1 << (n - 1).bit_length() - 1


def _create(file: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key_file.keep(file, pem)
