"""A tiny Llama base with random weights, as a GGUF for the engine and the trainer, and a way to ask it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
from tokenizers import pre_tokenizers, trainers

from trimtab.providers import llama_cpp
from trimtab.records.project import LocalTarget
from trimtab.records.registry import Decoding, Prompt, VersionSpec, Weights
from trimtab.settings import Settings
from trimtab.store import blobs

WIDTH, HEADS, KV_HEADS, INNER, LAYERS = 128, 4, 2, 192, 2
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
AWKWARD = [
    "my order 4711 of 12.03.2026 has not arrived: refund £30,50!\nFrom: Ann Lee",
    '{"intent":"refund","urgency":"high"}',
    "It's  two   spaces, tabs\tand\n\n\nnewlines \n end ",
    "Straße, naïve café, 日本語, emoji 🙂👍🏽, <|im_end|> and <|endoftext|>x",
]
"""Texts on which tokenizers differ."""
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = [
    "my order 4711 has not arrived, please refund the money",
    '{"intent":"refund","urgency":"high"} From: Ann Lee',
] * 8


def write(path: Path) -> None:
    """A GGUF of the Llama architecture: 2 blocks, 4 query and 2 key/value heads, byte-level BPE, a chat template."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(1024)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    _add_weights(writer, _add_tokenizer(writer))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter) -> int:
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    splits = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    bpe.pre_tokenizer = pre_tokenizers.Sequence(splits)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL, initial_alphabet=sorted(alphabet), show_progress=False
    )
    bpe.train_from_iterator(CORPUS, trainer)
    model = json.loads(bpe.to_str())["model"]
    words = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    kinds = [gguf.TokenType.CONTROL if word in SPECIAL else gguf.TokenType.NORMAL for word in words]
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    return len(words)


def _add_weights(writer: gguf.GGUFWriter, n_words: int) -> None:
    random = np.random.default_rng(7)

    def matrix(name: str, out: int, width: int) -> None:
        weight = random.normal(0, 1.5 / width**0.5, (out, width)).astype(np.float32)
        if name == "token_embd":
            weight[: len(SPECIAL)] *= 0.01  # never the likeliest token: an answer of one end mark has no probabilities
        writer.add_tensor(f"{name}.weight", weight)

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", random.normal(1, 0.1, WIDTH).astype(np.float32))

    matrix("token_embd", n_words, WIDTH)
    norm("output_norm")
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        norm(block + "attn_norm")
        norm(block + "ffn_norm")
        matrix(block + "attn_q", WIDTH, WIDTH)
        matrix(block + "attn_k", WIDTH * KV_HEADS // HEADS, WIDTH)
        matrix(block + "attn_v", WIDTH * KV_HEADS // HEADS, WIDTH)
        matrix(block + "attn_output", WIDTH, WIDTH)
        matrix(block + "ffn_gate", INNER, WIDTH)
        matrix(block + "ffn_up", INNER, WIDTH)
        matrix(block + "ffn_down", WIDTH, INNER)


Ask = Callable[[str, dict[str, Any]], dict[str, Any]]


@contextmanager
def engine(settings: Settings, base: Path, adapter: Path | None = None) -> Iterator[Ask]:
    """The product's own engine over a base and an adapter; yields POST(path, body) -> answer."""
    spec = VersionSpec(
        model="tiny",
        base=Weights(name="tiny", sha256=blobs.put(settings.blobs, base)),
        adapter_sha256=blobs.put(settings.blobs, adapter) if adapter else None,
        prompt=Prompt(system=""),
        decoding=Decoding(),
    )
    child, key = llama_cpp.start(settings, spec, LocalTarget(parallel=1), settings.logs / "engine.log")

    def ask(path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(f"http://{child.ready['address']}{path}", json.dumps(body).encode())
        request.add_header("Authorization", f"Bearer {key}")
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return json.load(answer)

    try:
        yield ask
    finally:
        child.stop()


def next_token(ask: Ask, ids: list[int], n: int, *, adapter: bool) -> dict[int, float]:
    """Log-probabilities (nats) of the n likeliest next tokens after `ids`."""
    lora = [{"id": 0, "scale": float(adapter)}]
    body = {"prompt": ids, "n_predict": 1, "n_probs": n, "temperature": 0, "cache_prompt": False, "lora": lora}
    (first,) = ask("/completion", body)["completion_probabilities"]
    return {token["id"]: token["logprob"] for token in first["top_logprobs"]}
