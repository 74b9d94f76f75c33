"""Text embeddings from a static table of token vectors (wordllama, 256 dimensions): no model runs, no hub is asked.

Reads the table's files from the blob store; everything after `load` is computation. The table was trained on English:
other languages are cut into pieces or bytes and told apart less well.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from trimtab.monitor.texts import body, words
from trimtab.providers import weights


@dataclass(frozen=True)
class Table:
    """Token vectors, one row for each token id of the tokenizer: shape (32000, 256)."""

    vectors: np.ndarray
    tokenizer: Tokenizer


@functools.cache
def load(blobs: Path) -> Table:
    """The table, fetched into the blob store first if absent; kept for the life of the process.

    Raises what `providers.weights.fetch` raises.
    """
    table = load_file(weights.fetch(blobs, "wordllama-256"))["embedding.weight"]
    tokenizer = Tokenizer.from_file(str(weights.fetch(blobs, "wordllama-256-tokenizer")))
    return Table(table, tokenizer)


def vectors(table: Table, texts: Sequence[str]) -> np.ndarray:
    """One unit vector for each text, shape (len(texts), 256), float32; zeros for a text without a body.

    The mean of the token vectors of the text's topic words, or of its whole body when it has none. Function words
    carry style, which hides the topic: with them, a new topic in 30 of 100 requests of the example was found in 78% of
    40 trials, without them in 97%.
    """
    found = np.zeros((len(texts), table.vectors.shape[1]), np.float32)
    for row, text in enumerate(texts):
        ids = table.tokenizer.encode(" ".join(words(text)) or body(text), add_special_tokens=False).ids
        if ids:
            found[row] = table.vectors[ids].mean(axis=0, dtype=np.float32)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)
