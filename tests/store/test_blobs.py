"""A blob is what its name says, or an error."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from trimtab.errors import Corrupt, Fixable
from trimtab.store import blobs

CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "adapter.gguf"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


def test_what_was_put_is_got_by_its_hash_and_kept_once(store: Path, source: Path) -> None:
    assert blobs.put(store, source) == DIGEST
    assert blobs.put(store, source, expected=DIGEST) == DIGEST
    source.unlink()
    assert blobs.get(store, DIGEST).read_bytes() == CONTENT
    assert [path.name for path in store.rglob("*") if path.is_file()] == [DIGEST]


def test_a_file_that_is_not_the_expected_one_is_not_stored(store: Path, source: Path) -> None:
    with pytest.raises(Corrupt, match=DIGEST):
        blobs.put(store, source, expected="0" * 64)
    assert not store.exists()


def test_a_changed_blob_is_never_handed_out(store: Path, source: Path) -> None:
    path = blobs.path_of(store, blobs.put(store, source))
    path.write_bytes(CONTENT[:-1] + b"X")
    with pytest.raises(Corrupt, match="no longer has the sha256 in its name"):
        blobs.get(store, DIGEST)


def test_a_missing_blob_says_how_to_get_it(store: Path) -> None:
    with pytest.raises(Fixable) as caught:
        blobs.get(store, DIGEST)
    assert "trimtab setup" in caught.value.fix
