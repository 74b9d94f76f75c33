"""A GGUF base as torch: the weights llama.cpp serves, its tokenizer and its chat template, from the one file.

Training starts from the served numbers themselves, dequantised, so the adapter corrects what it will be added to.
Only for the training process: imports torch and transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
import torch
import transformers
from gguf.quants import dequantize
from tokenizers import decoders, pre_tokenizers
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from trimtab.errors import Fixable
from trimtab.training.export import LINEARS

PRE_TOKENIZER = "smollm"
"""The one `tokenizer.ggml.pre` of llama.cpp that is rebuilt here exactly; any other is refused rather than guessed."""

_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_CONTROL, _USER_DEFINED = int(gguf.TokenType.CONTROL), int(gguf.TokenType.USER_DEFINED)


class _Reader(gguf.GGUFReader):
    """Reads a hundred thousand strings, each a slice: slices of a memmap cost thrice those of an array."""

    @property
    def data(self) -> np.ndarray:
        return self._mapped

    @data.setter
    def data(self, mapped: np.ndarray) -> None:
        self._mapped = np.asarray(mapped)


def open_base(path: Path) -> gguf.GGUFReader:
    """The file, opened. Raises Fixable when it is no GGUF of the Llama architecture."""
    try:
        reader = _Reader(path)
    except (ValueError, OSError) as error:
        raise Fixable(f"{path} is not a readable GGUF file: {error}", "set model.base to a GGUF file") from None
    architecture = value(reader, "general.architecture")
    scaling = value(reader, "llama.rope.scaling.type", "none")
    if architecture != "llama" or scaling != "none":
        found = f"architecture {architecture}, rope scaling {scaling}"
        raise Fixable(f"cannot fine-tune this base: {found}", "use a Llama-architecture base without rope scaling")
    return reader


def value(reader: gguf.GGUFReader, key: str, default: Any = None) -> Any:
    """A metadata value, or `default` when the file does not have it."""
    field = reader.get_field(key)
    return default if field is None else field.contents()


def heads(reader: gguf.GGUFReader) -> tuple[int, int]:
    """Number of query heads and of key/value heads."""
    n_head = int(value(reader, "llama.attention.head_count"))
    return n_head, int(value(reader, "llama.attention.head_count_kv", n_head))


def load_model(reader: gguf.GGUFReader, dtype: torch.dtype) -> transformers.LlamaForCausalLM:
    """The base in evaluation mode, every weight dequantised, then rounded to `dtype`; rotary tables stay float32."""
    state = {name: torch.from_numpy(array).to(dtype) for name, array in tensors(reader)}
    config = _config(reader, tied="lm_head.weight" not in state)
    with torch.device("meta"):  # no memory and no random numbers for weights about to be replaced
        model = transformers.LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    wrong = [*unexpected, *(name for name in missing if name != "lm_head.weight")]
    if wrong or (missing and not config.tie_word_embeddings):
        raise Fixable(f"this GGUF lacks or adds tensors: {', '.join(wrong[:4])}", "use a plain Llama base")
    model.model.rotary_emb = LlamaRotaryEmbedding(config)
    return model.eval()


def tensors(reader: gguf.GGUFReader) -> list[tuple[str, np.ndarray]]:
    """Every tensor under its transformers name, float32, (out, in), with llama.cpp's q/k row order undone."""
    n_head, n_head_kv = heads(reader)
    found: list[tuple[str, np.ndarray]] = []
    for tensor in reader.tensors:
        array = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        if tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
            array = _interleave(array, n_head if "attn_q" in tensor.name else n_head_kv)
        found.append((_name(tensor.name), np.require(array, requirements=["C", "W"])))
    return found


def read_adapter(path: Path, base: gguf.GGUFReader) -> dict[str, torch.Tensor]:
    """A GGUF LoRA adapter of this base under peft's names, float32: the inverse of `export.export`."""
    n_head, n_head_kv = heads(base)
    state: dict[str, torch.Tensor] = {}
    for tensor in gguf.GGUFReader(path).tensors:
        name, part = tensor.name.rsplit(".lora_", 1)
        array = tensor.data.astype(np.float32)
        if part == "b" and name.endswith(("attn_q.weight", "attn_k.weight")):
            array = _interleave(array, n_head if "attn_q" in name else n_head_kv)
        module = _name(name).removesuffix(".weight")
        state[f"base_model.model.{module}.lora_{part.upper()}.weight"] = torch.from_numpy(array.copy())
    return state


def _interleave(array: np.ndarray, n_head: int) -> np.ndarray:
    """Inverse of `export.split_halves`: rows (head, pair, half) become rows (head, half, pair)."""
    out = array.shape[0]
    return array.reshape(n_head, out // n_head // 2, 2, -1).swapaxes(1, 2).reshape(array.shape)


def _name(name: str) -> str:
    if name in _WHOLE:
        return _WHOLE[name]
    parts = name.split(".")  # blk.<layer>.<tensor>.weight
    if len(parts) != 4 or parts[0] != "blk" or parts[3] != "weight":
        return name
    linears = {gguf_name: module for module, gguf_name in LINEARS.items()}
    return f"model.layers.{parts[1]}.{(linears | _NORMS).get(parts[2], parts[2])}.weight"


def _config(reader: gguf.GGUFReader, *, tied: bool) -> transformers.LlamaConfig:
    n_head, n_head_kv = heads(reader)
    width = int(value(reader, "llama.embedding_length"))
    return transformers.LlamaConfig(
        vocab_size=len(reader.fields["tokenizer.ggml.tokens"].data),
        hidden_size=width,
        intermediate_size=int(value(reader, "llama.feed_forward_length")),
        num_hidden_layers=int(value(reader, "llama.block_count")),
        num_attention_heads=n_head,
        num_key_value_heads=n_head_kv,
        head_dim=int(value(reader, "llama.attention.key_length", width // n_head)),
        max_position_embeddings=int(value(reader, "llama.context_length")),
        rms_norm_eps=float(value(reader, "llama.attention.layer_norm_rms_epsilon")),
        rope_parameters={"rope_type": "default", "rope_theta": float(value(reader, "llama.rope.freq_base", 10000.0))},
        bos_token_id=value(reader, "tokenizer.ggml.bos_token_id"),
        eos_token_id=value(reader, "tokenizer.ggml.eos_token_id"),
        tie_word_embeddings=tied,
    )


def load_tokenizer(reader: gguf.GGUFReader) -> transformers.PreTrainedTokenizerFast:
    """The file's byte-level BPE tokenizer with its chat template. Raises Fixable for a kind not rebuilt here."""
    found = {key: value(reader, f"tokenizer.ggml.{key}") for key in ("model", "pre", "add_bos_token")}
    template = value(reader, "tokenizer.chat_template")
    if (found["model"], found["pre"]) != ("gpt2", PRE_TOKENIZER) or found["add_bos_token"] or not template:
        kind = f"tokenizer {found}, {'a' if template else 'no'} chat template"
        raise Fixable(f"cannot fine-tune this base: {kind}", "use smollm2-135m-instruct or another SmolLM2 chat model")
    words: list[str] = value(reader, "tokenizer.ggml.tokens")
    merges = [tuple(pair.split(" ")) for pair in value(reader, "tokenizer.ggml.merges")]
    vocabulary = {word: index for index, word in enumerate(words)}
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
    splits = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    bpe.pre_tokenizer = pre_tokenizers.Sequence(splits)
    bpe.decoder = decoders.ByteLevel()
    kinds: list[int] = value(reader, "tokenizer.ggml.token_type")
    marked = [word for word, mark in zip(words, kinds, strict=True) if mark in (_CONTROL, _USER_DEFINED)]
    bpe.add_special_tokens([tokenizers.AddedToken(word, normalized=False, special=True) for word in marked])
    end = words[value(reader, "tokenizer.ggml.eos_token_id")]
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, chat_template=template, eos_token=end)
