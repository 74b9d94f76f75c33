"""A peft LoRA adapter as a GGUF adapter for llama.cpp. Needs numpy, safetensors and gguf; no torch.

The adapter stays beside the base: merged into it and quantised again it would be lost, because its changes are far
smaller than a quantisation step.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.errors import Fixable

LINEARS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""The seven linear layers of a Llama block: transformers' module, llama.cpp's tensor."""

_KEY = re.compile(r"^base_model\.model\.model\.layers\.(\d+)\.(.+)\.lora_([AB])\.weight$")
_REFUSED = ("use_dora", "use_rslora", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias")


def export(adapter: Path, out: Path, *, n_head: int, n_head_kv: int, architecture: str = "llama") -> None:
    """Write the peft adapter in folder `adapter` as the GGUF LoRA file `out`, matrices as float16.

    `n_head` and `n_head_kv` are the base's numbers of query and key/value heads. llama.cpp scales by alpha/rank, as
    peft does. Raises Fixable for adapters that this form cannot hold (DoRA, rank-stabilised scaling, patterns, biases,
    other modules).
    """
    import gguf
    from safetensors.numpy import load_file

    config: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_text())
    if refused := [name for name in _REFUSED if config.get(name)]:
        raise Fixable(f"this adapter uses {', '.join(refused)}", "train a plain LoRA adapter")
    writer = gguf.GGUFWriter(out, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(config["lora_alpha"]))
    for key, array in sorted(load_file(adapter / "adapter_model.safetensors").items()):
        layer, name, part = _target(key)
        if part == "b" and name in ("attn_q", "attn_k"):
            array = split_halves(array, n_head if name == "attn_q" else n_head_kv)
        tensor = f"blk.{layer}.{name}.weight.lora_{part}"
        writer.add_tensor(tensor, np.ascontiguousarray(array.astype(np.float16)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def split_halves(array: np.ndarray, n_head: int) -> np.ndarray:
    """Rows of q or k in llama.cpp's order: within a head (pair, half), where transformers has (half, pair)."""
    out = array.shape[0]
    return array.reshape(n_head, 2, out // n_head // 2, -1).swapaxes(1, 2).reshape(array.shape)


def _target(key: str) -> tuple[str, str, str]:
    match = _KEY.match(key)
    if match is None or match[2] not in LINEARS:
        raise Fixable(
            f"this adapter changes {key}, which is not a linear layer of a block", "target only the seven linears"
        )
    return match[1], LINEARS[match[2]], match[3].lower()
