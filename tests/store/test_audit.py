"""Every edit, deletion, reordering and cut of the audit log is found, also by the one file that stands alone."""

from __future__ import annotations

import ast
import base64
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from trimtab.store import audit, verify_audit
from trimtab.store.control import AUDITED
from trimtab.store.verify_audit import extends, includes, leaf_hash, root

text = st.text(st.characters(max_codepoint=0xD7FF), min_size=1, max_size=8)
facts = st.dictionaries(st.tuples(st.sampled_from(sorted(AUDITED)), text), text, min_size=1, max_size=5)
leaves = st.lists(st.binary(max_size=4).map(leaf_hash), min_size=1, max_size=40)
AT = "2026-11-22T00:00:00+00:00"


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> audit.Signer:
    return audit.Signer(tmp_path_factory.mktemp("key") / "audit.key")


def log(known: dict[tuple[str, str], str]) -> list[audit.Entry]:
    rows = enumerate(known.items(), start=1)
    return [audit.Entry(seq=seq, at=AT, kind=kind, key=key, body=body) for seq, ((kind, key), body) in rows]


def notes(entries: list[audit.Entry], signer: audit.Signer) -> list[str]:
    """A checkpoint at each entry, as the control database keeps them."""
    hashes = [entry.leaf for entry in entries]
    return [signer.checkpoint(size, root(hashes[:size])) for size in range(1, len(hashes) + 1)]


def flip(value: str | int, data: st.DataObject) -> str | int:
    if isinstance(value, int):
        return value ^ 1 << data.draw(st.integers(0, 40))
    at = data.draw(st.integers(0, len(value) - 1))
    return value[:at] + chr(ord(value[at]) ^ 1 << data.draw(st.integers(0, 6))) + value[at + 1 :]


@given(facts, st.data())
@examples(max_examples=150)
def test_one_flipped_bit_anywhere_in_the_log_or_the_facts_is_reported(
    signer: audit.Signer, known: dict[tuple[str, str], str], data: st.DataObject
) -> None:
    entries, key = log(known), signer.verifier_key
    signed = notes(entries, signer)
    assert audit.verify(entries, signed, key, known) == []
    n = data.draw(st.integers(0, len(entries) - 1))
    column = data.draw(st.sampled_from([*audit.Entry.model_fields, "fact", "note"]))
    if column == "fact":
        where = (entries[n].kind, entries[n].key)
        assert audit.verify(entries, signed, key, {**known, where: str(flip(known[where], data))})
    elif column == "note":
        signed[n] = str(flip(signed[n], data))
        assert audit.verify(entries, signed, key)
    else:
        entries[n] = entries[n].model_copy(update={column: flip(getattr(entries[n], column), data)})
        assert audit.verify(entries, signed, key)


def test_a_note_has_one_form_only(signer: audit.Signer) -> None:
    """What decodes to the same is not the same: another line end, bits of base64 that are not used."""
    note = signer.checkpoint(1, root([leaf_hash(b"one")]))
    assert verify_audit.open_note(note, signer.verifier_key)
    unused = note[:-3] + chr(ord(note[-3]) + 1) + note[-2:]
    ends = (note[:-1], note[:-1] + "\x0b", note[:-1] + "\r\n", unused)
    for other in ends:
        with pytest.raises(verify_audit.Invalid):
            verify_audit.open_note(other, signer.verifier_key)
    signature = note.rpartition(" ")[2]
    assert base64.b64decode(unused.rpartition(" ")[2]) == base64.b64decode(signature)


@given(facts, st.data())
@examples(max_examples=80)
def test_deletion_reordering_and_a_cut_end_are_reported_by_the_newest_checkpoint_alone(
    signer: audit.Signer, known: dict[tuple[str, str], str], data: st.DataObject
) -> None:
    entries, key = log(known), signer.verifier_key
    newest = notes(entries, signer)[-1:]
    gone = data.draw(st.integers(0, len(entries) - 1))
    assert audit.verify(entries[:gone] + entries[gone + 1 :], newest, key)
    shuffled = data.draw(st.permutations(entries))
    assert bool(audit.verify(shuffled, newest, key)) == (shuffled != entries)


def test_a_log_written_anew_is_found_by_a_checkpoint_kept_elsewhere_and_by_no_one_elses_key(
    signer: audit.Signer, tmp_path: Path
) -> None:
    old = log({("decision", "1"): "reject", ("decision", "2"): "promote"})
    new = log({("decision", "1"): "promote", ("decision", "2"): "promote"})
    kept, forged = notes(old, signer), notes(new, signer)
    assert audit.verify(new, forged, signer.verifier_key) == []
    assert audit.verify(new, [*forged, kept[0]], signer.verifier_key)
    stranger = audit.Signer(tmp_path / "audit.key")
    assert audit.verify(old, notes(old, stranger), signer.verifier_key)
    assert (tmp_path / "audit.key").stat().st_mode & 0o777 == 0o600
    assert audit.Signer(tmp_path / "audit.key").verifier_key == stranger.verifier_key


def test_the_tree_is_that_of_rfc_9162() -> None:
    """The example of section 2.1.5: seven entries, its subtrees and its proofs, by the names used there."""
    a, b, c, d, e, f, j = (leaf_hash(bytes([value])) for value in range(7))
    node = verify_audit.node_hash
    g, h, i = node(a, b), node(c, d), node(e, f)
    k, m = node(g, h), node(i, j)
    whole = audit.Grown([a, b, c, d, e, f, j])
    assert root([a, b, c, d, e, f, j]) == whole.root() == node(k, m)
    assert audit.inclusion_proof(whole, 0) == [b, h, m]
    assert audit.inclusion_proof(whole, 3) == [c, g, m]
    assert audit.inclusion_proof(whole, 4) == [f, j, k]
    assert audit.inclusion_proof(whole, 6) == [i, k]
    assert audit.consistency_proof(whole, 3) == [c, d, g, m]
    assert audit.consistency_proof(whole, 4) == [m]
    assert audit.consistency_proof(whole, 6) == [i, j, k]


@given(leaves, st.data())
@examples(max_examples=200)
def test_inclusion_proofs_hold_for_their_leaf_and_place_only(hashes: list[bytes], data: st.DataObject) -> None:
    size, tree = len(hashes), root(hashes)
    index = data.draw(st.integers(0, size - 1))
    proof = audit.inclusion_proof(audit.Grown(hashes), index)
    assert includes(index, size, hashes[index], proof, tree)
    assert not includes(index, size, leaf_hash(b"another entry"), proof, tree)
    assert not includes(index, size, hashes[index], [*proof, tree], tree)
    assert not includes(size, size, hashes[index], proof, tree)
    if proof:
        assert not includes(index, size, hashes[index], proof[:-1], tree)


@given(leaves, st.data())
@examples(max_examples=200)
def test_consistency_proofs_hold_between_a_tree_and_its_own_beginning_only(
    hashes: list[bytes], data: st.DataObject
) -> None:
    size, old = len(hashes), data.draw(st.integers(1, len(hashes)))
    before, after, proof = root(hashes[:old]), root(hashes), audit.consistency_proof(audit.Grown(hashes), old)
    assert extends(old, size, before, after, proof)
    other = root([leaf_hash(b"another entry"), *hashes[1:old]])
    assert not extends(old, size, other, after, proof)
    assert not extends(old, size, before, root([*hashes, hashes[0]]), proof)


def test_the_verifier_stands_alone() -> None:
    """It imports only what Python brings, and its own Ed25519 agrees with a library's."""
    tree = ast.parse(Path(verify_audit.__file__).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= sys.stdlib_module_names
    for number in range(8):
        key = Ed25519PrivateKey.from_private_bytes(bytes([number] * 32))
        public, message = key.public_key().public_bytes_raw(), bytes(number)
        signature = key.sign(message)
        assert verify_audit.ed25519_verify(public, message, signature)
        assert not verify_audit.ed25519_verify(public, message + b"!", signature)
        assert not verify_audit.ed25519_verify(public, message, bytes([signature[0] ^ 1]) + signature[1:])


def test_a_known_vector_of_rfc_8032() -> None:
    public = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    signature = bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert verify_audit.ed25519_verify(public, b"\x72", signature)


def test_the_file_runs_by_itself_on_an_auditors_machine(signer: audit.Signer, tmp_path: Path) -> None:
    entries = log({("decision", "1"): "reject", ("decision", "2"): "promote"})
    (tmp_path / "verify.py").write_bytes(Path(verify_audit.__file__).read_bytes())
    (tmp_path / "log.jsonl").write_text("".join(entry.model_dump_json() + "\n" for entry in entries))
    (tmp_path / "newest.note").write_text(notes(entries, signer)[-1])
    command = [sys.executable, "-I", "verify.py", "--key", signer.verifier_key, "--checkpoint", "newest.note"]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, "log.jsonl"], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (run().returncode, run().stdout) == (0, "2 entries, whole and in place\n")
    (tmp_path / "log.jsonl").write_text((tmp_path / "log.jsonl").read_text().replace("reject", "accept"))
    assert run().returncode == 1
    assert "edited, removed or reordered" in run().stdout


def test_a_checkpoint_has_the_c2sp_form(signer: audit.Signer) -> None:
    note = signer.checkpoint(1, root([leaf_hash(b"one")]))
    body, _, signature = note.rpartition("\n\n")
    origin, size, tree = body.splitlines()
    assert (origin, size, base64.b64decode(tree)) == ("trimtab/audit", "1", leaf_hash(b"one"))
    assert signature.startswith("\u2014 trimtab/audit ")
    assert len(base64.b64decode(signature.split(" ")[2])) == 4 + 64
