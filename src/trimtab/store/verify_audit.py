"""Verify a Trimtab audit log offline. One file, Python's standard library only: read it, copy it, run it anywhere.

    python verify_audit.py --key VERIFIER_KEY --checkpoint NEWEST.note [--checkpoint OLDER.note ...] ENTRIES.jsonl
    python verify_audit.py --key VERIFIER_KEY BUNDLE.zip

ENTRIES.jsonl has one entry a line, as `trimtab audit export` prints them. The log is a Merkle tree (RFC 9162, section
2.1) over the entries in order; a checkpoint is its size and root, signed with Ed25519 (RFC 8032) as a note
(C2SP signed-note and tlog-checkpoint). What this proves: every entry that a checkpoint covers is there, unchanged and
in its place. A checkpoint that was kept elsewhere rules out that the whole log was written anew.

Exit code 0: whole. 1: faults, one a line. 2: the files could not be read.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import json
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

BUNDLE = "trimtab/evidence-bundle"
FIELDS = ("seq", "at", "kind", "key", "body")


class Invalid(Exception):
    """A note, key or entry that is not what it should be."""


# The Merkle tree: RFC 9162, section 2.1


def leaf_hash(data: bytes) -> bytes:
    """Hash of one entry's bytes."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """Root over leaf hashes; of none, the hash of nothing."""
    tree = Tree()
    for leaf in leaves:
        tree.add(leaf)
    return tree.root()


class Tree:
    """A growing tree by the roots of its full subtrees, largest first: a leaf or the root costs a few hashes."""

    def __init__(self, size: int = 0, full: Sequence[bytes] = ()) -> None:
        self.size = size
        self._full = list(full)

    @property
    def full(self) -> list[bytes]:
        """The roots of the full subtrees: with the size, all there is to know to go on."""
        return list(self._full)

    def add(self, leaf: bytes) -> None:
        """Append a leaf hash."""
        carry, at = leaf, self.size
        while at % 2:
            carry, at = node_hash(self._full.pop(), carry), at >> 1
        self._full.append(carry)
        self.size += 1

    def root(self) -> bytes:
        """Root over the leaves so far."""
        if not self._full:
            return hashlib.sha256(b"").digest()
        found = self._full[-1]
        for left in reversed(self._full[:-1]):
            found = node_hash(left, found)
        return found


def includes(index: int, size: int, leaf: bytes, proof: Sequence[bytes], tree: bytes) -> bool:
    """Whether `leaf` is number `index` (from 0) of the `size` leaves under `tree`: RFC 9162, 2.1.3.2."""
    if not 0 <= index < size:
        return False
    at, last, found = index, size - 1, leaf
    for step in proof:
        if last == 0:
            return False
        if at % 2 or at == last:
            found = node_hash(step, found)
            while not at % 2 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, step)
        at, last = at >> 1, last >> 1
    return last == 0 and found == tree


def extends(old: int, new: int, old_tree: bytes, new_tree: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the tree of `new` leaves only adds to that of `old`: RFC 9162, 2.1.4.2."""
    if old == new:
        return not proof and old_tree == new_tree
    if old == 0:
        return not proof and old_tree == root([])
    if not 0 < old < new:
        return False
    path = list(proof) if old & (old - 1) else [old_tree, *proof]
    if not path:
        return False
    at, last = old - 1, new - 1
    while at % 2:
        at, last = at >> 1, last >> 1
    before = after = path[0]
    for step in path[1:]:
        if last == 0:
            return False
        if at % 2 or at == last:
            before, after = node_hash(step, before), node_hash(step, after)
            while not at % 2 and at:
                at, last = at >> 1, last >> 1
        else:
            after = node_hash(after, step)
        at, last = at >> 1, last >> 1
    return last == 0 and before == old_tree and after == new_tree


# Signed notes and checkpoints: C2SP signed-note, C2SP tlog-checkpoint


def key_id(name: str, public: bytes) -> bytes:
    """The four bytes by which a signature line says whose it is."""
    return hashlib.sha256(name.encode() + b"\n\x01" + public).digest()[:4]


def verifier_key(name: str, public: bytes) -> str:
    """An Ed25519 public key as text: name+id+key."""
    return "+".join((name, key_id(name, public).hex(), base64.b64encode(b"\x01" + public).decode()))


def read_verifier_key(text: str) -> tuple[str, bytes]:
    """Name and public key. Raises Invalid."""
    try:
        name, ident, encoded = text.strip().split("+", 2)
        kind_and_key = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        raise Invalid("the verifier key is not name+id+key") from None
    public = kind_and_key[1:]
    if kind_and_key[:1] != b"\x01" or len(public) != 32 or key_id(name, public).hex() != ident:
        raise Invalid("the verifier key is not an Ed25519 key, or its parts do not belong together")
    return name, public


def open_note(note: str, key: str, verified: Callable[[bytes, bytes, bytes], bool] | None = None) -> str:
    """The text of a note that `key` signed. Raises Invalid. `verified` is the check of a signature, ours by default."""
    name, public = read_verifier_key(key)
    text, cut, lines = note.rpartition("\n\n")
    if not cut:
        raise Invalid("the note has no signature")
    if not lines.endswith("\n"):
        raise Invalid("the note does not end with a line end")
    text += "\n"
    for line in lines[:-1].split("\n"):  # a line ends nowhere else, as splitlines() would have it
        mark, _, rest = line.partition(" ")
        signer, _, encoded = rest.partition(" ")
        if mark != "\u2014" or signer != name:
            continue
        try:
            signature = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            raise Invalid("the note's signature is not base64") from None
        if base64.b64encode(signature).decode() != encoded:  # bits that decode to nothing
            raise Invalid("the note's signature is not base64 as it is written")
        if signature[:4] == key_id(name, public):
            if not (verified or ed25519_verify)(public, text.encode(), signature[4:]):
                raise Invalid("the note's signature is not that of its text")
            return text
    raise Invalid(f"the note is not signed by {name}")


def notes_of(text: str) -> list[str]:
    """The notes of a file: one, or all that an anchor added to it, a blank line after each."""
    if text.count("\n\n") < 2:
        return [text]
    parts = text.removesuffix("\n\n").split("\n\n")
    return ["\n\n".join(parts[first : first + 2]) + "\n" for first in range(0, len(parts), 2)]


def read_checkpoint(text: str) -> tuple[str, int, bytes]:
    """Origin, size and root of a checkpoint's text. Raises Invalid."""
    lines = text.splitlines()
    try:
        tree = base64.b64decode(lines[2], validate=True)
        size = int(lines[1])
    except (IndexError, ValueError, binascii.Error):
        raise Invalid("the note is not a checkpoint: origin, size, root") from None
    if len(tree) != 32 or size < 0:
        raise Invalid("the checkpoint's root is not a SHA-256, or its size is negative")
    return lines[0], size, tree


# Ed25519, verification only: RFC 8032, section 5.1. Points are (X, Y, Z, T) with x = X/Z, y = Y/Z, xy = T/Z.

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_ROOT_OF_MINUS_ONE = pow(2, (_P - 1) // 4, _P)
_Point = tuple[int, int, int, int]
_NEUTRAL: _Point = (0, 1, 1, 0)


def _add(p: _Point, q: _Point) -> _Point:
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % _P, (p[1] + p[0]) * (q[1] + q[0]) % _P
    c, d = 2 * p[3] * q[3] * _D % _P, 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times(scalar: int, point: _Point) -> _Point:
    result = _NEUTRAL
    while scalar:
        if scalar & 1:
            result = _add(result, point)
        point, scalar = _add(point, point), scalar >> 1
    return result


def _same(p: _Point, q: _Point) -> bool:
    return (p[0] * q[2] - q[0] * p[2]) % _P == 0 and (p[1] * q[2] - q[1] * p[2]) % _P == 0


def _point(data: bytes) -> _Point | None:
    """Decode a point: section 5.1.3."""
    y = int.from_bytes(data, "little") & (2**255 - 1)
    sign = data[31] >> 7
    if y >= _P:
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT_OF_MINUS_ONE % _P
    if (x * x - square) % _P or (x == 0 and sign):
        return None
    x = x if x % 2 == sign else _P - x
    return x, y, 1, x * y % _P


_generator = _point((4 * pow(5, -1, _P) % _P).to_bytes(32, "little"))
assert _generator is not None  # noqa: S101 (the curve's own constant)
_G: _Point = _generator


def ed25519_verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the signature (64 bytes) of `message` was made with the private half of `public` (32 bytes)."""
    if len(public) != 32 or len(signature) != 64:
        return False
    key, nonce = _point(public), _point(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if key is None or nonce is None or s >= _L:
        return False
    challenge = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % _L
    return _same(_times(s, _G), _add(nonce, _times(challenge, key)))


# The log


def entry_bytes(entry: dict[str, Any]) -> bytes:
    """What of an entry is hashed: its five fields as JSON with sorted keys, no spaces, UTF-8."""
    chosen = {name: entry[name] for name in FIELDS}
    return json.dumps(chosen, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def faults_of(
    lines: Sequence[str], checkpoints: Sequence[str], key: str, opened: Callable[[str, str], str] = open_note
) -> list[str]:
    """What is wrong with a log and its checkpoints (notes), in words; empty when all is well.

    `opened` is what turns a note and a verifier key into the note's text, or raises Invalid.
    """
    faults: list[str] = []
    signed: dict[int, bytes] = {}
    for note in checkpoints:
        try:
            _, size, tree_root = read_checkpoint(opened(note, key))
        except Invalid as error:
            faults.append(f"a checkpoint does not count: {error}")
            continue
        if signed.setdefault(size, tree_root) != tree_root:
            faults.append(f"two different logs of {size} entries were signed")
    if not signed:
        faults.append("there is no checkpoint that counts: nothing vouches for these entries")
    tree = Tree()
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            tree.add(leaf_hash(entry_bytes(entry)))
        except (ValueError, KeyError, TypeError, RecursionError):
            return [*faults, f"line {number} is not an audit entry"]
        if entry["seq"] != number:
            faults.append(f"entry {number} is missing: found {entry['seq']}")
        if number in signed and signed[number] != tree.root():
            faults.append(f"the first {number} entries are not those that were signed: edited, removed or reordered")
    if signed and max(signed) > len(lines):
        faults.append(f"{max(signed)} entries were signed, and only {len(lines)} are here: the end was cut off")
    return faults


def bundle_faults(file: Path, key: str) -> tuple[list[str], int]:
    """What is wrong with an evidence bundle (zip), in words, and how many entries it holds.

    Every file is the one whose SHA-256 the signed manifest names; every entry is proved to be in the log that the
    newest checkpoint signs; entries are in order and without a gap; that log only adds to the older one beside it; the
    guidelines that entries name are there, to the byte.
    """
    with zipfile.ZipFile(file) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    faults: list[str] = []
    manifest = files.pop("manifest.json", b"")
    signed = open_note(files.pop("manifest.note", b"").decode(), key)
    if signed != f"{BUNDLE}\n{hashlib.sha256(manifest).hexdigest()}\n":
        return ["the manifest is not the one that was signed"], 0
    listed = json.loads(manifest)["files"]
    found = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    faults += [
        f"{name} is not what the manifest says"
        for name in sorted(listed.keys() | found.keys())
        if listed.get(name) != found.get(name)
    ]
    if faults:
        return faults, 0
    _, size, tree = read_checkpoint(open_note(files["checkpoint.note"].decode(), key))
    entries = [json.loads(line) for line in files["entries.jsonl"].decode().splitlines()]
    in_force = [json.loads(files["in_force.json"])] if "in_force.json" in files else []
    for entry in [*in_force, *entries]:
        proof = [bytes.fromhex(step) for step in entry["proof"]]
        if not includes(entry["seq"] - 1, size, leaf_hash(entry_bytes(entry)), proof, tree):
            faults.append(f"entry {entry['seq']} is not in the log that was signed")
    for before, entry in zip([None, *entries[:-1]], entries, strict=True):
        if before is not None and entry["seq"] != before["seq"] + 1:
            faults.append(f"entries between {before['seq']} and {entry['seq']} are missing")
    if "earlier.json" in files:
        earlier = json.loads(files["earlier.json"])
        _, old, old_tree = read_checkpoint(open_note(earlier["checkpoint"], key))
        if not extends(old, size, old_tree, tree, [bytes.fromhex(step) for step in earlier["proof"]]):
            faults.append(f"the log of {size} entries does not continue the one of {old} that was signed earlier")
    texts = {Path(name).stem: data for name, data in files.items() if name.startswith("guidelines/")}
    absent = json.loads(manifest).get("guidelines_not_on_record", [])
    for name in sorted(name for name, data in texts.items() if hashlib.sha256(data).hexdigest() != name):
        faults.append(f"guidelines/{name}.yaml is not the file of that SHA-256")
    for entry in [] if faults else [*in_force, *entries]:  # a body that was edited may be anything
        named = guidelines_of(entry["kind"], entry["body"])
        if named and named not in texts and named not in absent:
            faults.append(f"entry {entry['seq']} names guidelines {named}, which are not here")
    return faults, len(entries)


def guidelines_of(kind: str, body: str) -> str:
    """The SHA-256 of the guidelines that an entry was made under; empty for one that names none."""
    place = {"project_file": "guidelines_sha256", "compliance": "guidelines_sha256", "decision": "guidelines"}.get(kind)
    return str(json.loads(body).get(place, "")) if place else ""


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="entries (JSON Lines from `trimtab audit export`) or a bundle (.zip)")
    parser.add_argument("--key", required=True, help="verifier key, got from the operator by another way")
    parser.add_argument(
        "--checkpoint", type=Path, action="append", default=[], help="file of signed notes; may be repeated"
    )
    options = parser.parse_args()
    try:
        if options.file.suffix == ".zip":
            faults, count = bundle_faults(options.file, options.key)
        else:
            lines = options.file.read_text("utf-8").splitlines()
            notes = [note for path in options.checkpoint for note in notes_of(path.read_text("utf-8"))]
            faults, count = faults_of(lines, notes, options.key), len(lines)
    except Invalid as error:
        faults, count = [str(error)], 0
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        print(f"cannot read {options.file}: {error!r}", file=sys.stderr)
        return 2
    for fault in faults:
        print(fault)
    if not faults:
        print(f"{count} entries, whole and in place")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
