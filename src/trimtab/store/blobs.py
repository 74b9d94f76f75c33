"""Content-addressed files: weights and adapters, each stored once under its SHA-256."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from trimtab.errors import Corrupt, Fixable


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(path: Path, expected: str | None) -> str:
    """SHA-256 (hex) of a file's bytes. Raises Corrupt when it is not `expected`."""
    digest = sha256_of(path)
    if expected is not None and digest != expected:
        raise Corrupt(f"{path.name} has sha256 {digest}, expected {expected}")
    return digest


def put(blobs: Path, source: Path, expected: str | None = None) -> str:
    """Copy a file into the store and return its hash. Raises Corrupt when it is not `expected`."""
    digest = check(source, expected)
    target = path_of(blobs, digest)
    if target.exists():
        return digest
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as temporary, source.open("rb") as file:
        shutil.copyfileobj(file, temporary)
        temporary.flush()
        os.fsync(temporary.fileno())
    Path(temporary.name).replace(target)
    return digest


def path_of(blobs: Path, digest: str) -> Path:
    """Where a blob lies or would lie."""
    return blobs / digest[:2] / digest


def get(blobs: Path, digest: str) -> Path:
    """A blob's path, its content checked. Raises Fixable when absent, Corrupt when its bytes were changed."""
    path = path_of(blobs, digest)
    if not path.exists():
        raise Fixable(
            f"blob {digest[:12]}… is not in {blobs}", "run `trimtab setup`, or set TRIMTAB_BLOBS to where it is"
        )
    if sha256_of(path) != digest:
        raise Corrupt(f"{path} no longer has the sha256 in its name; delete it and run `trimtab setup`")
    return path
