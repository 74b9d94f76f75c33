"""What is trained is what is served: a GGUF read as torch speaks as llama.cpp does, with and without an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import tiny_base as tiny
import torch
import transformers

from trimtab.settings import Settings
from trimtab.training import export, gguf_weights

# peft 0.21 asks transformers 5.23 by an attribute's old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

IDS = [1, 40, 77, 101, 12, 260, 281, 300, 77, 12]


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> transformers.LlamaForCausalLM:
    return gguf_weights.load_model(gguf_weights.open_base(tiny_base), torch.float32)


def next_token(model: Any, ids: list[int]) -> dict[int, float]:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
    return dict(enumerate(torch.log_softmax(logits.float(), -1).tolist()))


def distance(ours: dict[int, float], theirs: dict[int, float]) -> float:
    """Mean |difference of log-probability| in nats over the tokens that `theirs` lists."""
    return float(np.mean([abs(ours[token] - logprob) for token, logprob in theirs.items()]))


def test_weights_and_answers_equal_transformers_own_reading(
    tiny_base: Path, model: transformers.LlamaForCausalLM
) -> None:
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tiny_base.parent, gguf_file=tiny_base.name)
    ours = model.state_dict()
    for name, weight in theirs.state_dict().items():
        assert torch.equal(ours[name], weight), name
    ids = torch.tensor([IDS])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, theirs(ids).logits)


def test_tokens_and_chat_equal_the_engines(settings: Settings, tiny_base: Path) -> None:
    tokenizer = gguf_weights.load_tokenizer(gguf_weights.open_base(tiny_base))
    with tiny.engine(settings, tiny_base) as ask:
        for text in tiny.AWKWARD:
            served = ask("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]
            assert tokenizer(text).input_ids == served
            messages = [{"role": "system", "content": "Answer in JSON."}, {"role": "user", "content": text}]
            served = ask("/apply-template", {"messages": messages})["prompt"]
            assert tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == served


def test_an_exported_adapter_answers_as_it_was_trained(settings: Settings, tiny_base: Path, tmp_path: Path) -> None:
    """A random adapter on q and k only: the one place where a wrong row order cannot hide."""
    reader = gguf_weights.open_base(tiny_base)
    base = gguf_weights.load_model(reader, torch.float32)
    before = next_token(base, IDS)
    torch.manual_seed(3)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj"], init_lora_weights=False)
    tuned = peft.get_peft_model(base, config)
    for name, weight in tuned.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    after = next_token(tuned, IDS)
    tuned.save_pretrained(tmp_path / "adapter")
    n_head, n_head_kv = gguf_weights.heads(reader)
    export.export(tmp_path / "adapter", tmp_path / "right.gguf", n_head=n_head, n_head_kv=n_head_kv)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "split_halves", lambda array, _: array)
        export.export(tmp_path / "adapter", tmp_path / "wrong.gguf", n_head=n_head, n_head_kv=n_head_kv)

    trained, read = peft.get_peft_model_state_dict(tuned), gguf_weights.read_adapter(tmp_path / "right.gguf", reader)
    assert trained.keys() == read.keys()
    assert all(torch.equal(weight.half().float(), read[name]) for name, weight in trained.items())

    with tiny.engine(settings, tiny_base, tmp_path / "right.gguf") as ask:
        off = tiny.next_token(ask, IDS, 100, adapter=False)
        on = tiny.next_token(ask, IDS, 100, adapter=True)
    with tiny.engine(settings, tiny_base, tmp_path / "wrong.gguf") as ask:
        wrong = tiny.next_token(ask, IDS, 100, adapter=True)
    floor = distance(before, off)
    assert floor < 0.02
    assert distance(after, on) < 3 * floor + 0.01
    assert distance(after, wrong) > 0.1
    assert distance(after, off) > 0.1
