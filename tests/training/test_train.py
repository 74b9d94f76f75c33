"""A fine-tune lowers the loss, survives kill -9 with the same result, dies with its parent, and says why it failed."""

from __future__ import annotations

import importlib.util
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny_base as tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab import settings as settings_module
from trimtab.errors import Fixable, StepFailed
from trimtab.providers import weights
from trimtab.records.project import LoraSection
from trimtab.records.registry import LabelSet, Prompt, Weights
from trimtab.records.training import Case, DatasetVersion, TrainingRun
from trimtab.settings import Settings
from trimtab.store import blobs
from trimtab.training import gguf_weights
from trimtab.training.train import train
from trimtab.training.trainers import lora, packing
from trimtab.training.trainers.packing import Tokens

# peft 0.21 asks transformers 5.23 by an attribute's old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
LABELS = LabelSet(fields={"intent": ("refund", "login", "delivery"), "urgency": ("low", "high")})
PHRASES = {
    "refund": ("I want my money back for the {}", "please refund the {}", "the {} went back, where is my money"),
    "login": ("the {} page rejects my password", "cannot sign in to the {}", "locked out of my {} account"),
    "delivery": ("my {} has not arrived", "where is the parcel with the {}", "the {} was due yesterday"),
}


def dataset(folder: Path, n: int) -> DatasetVersion:
    """n rows of a made-up triage task; `high` where the writer is in a hurry."""
    choose = random.Random(1)  # noqa: S311
    folder.mkdir(parents=True)
    with (folder / "train.jsonl").open("w") as file:
        for number in range(n):
            intent, high = choose.choice(list(PHRASES)), choose.random() < 0.5
            thing = choose.choice(["lamp", "desk", "kettle", "phone", "router", "jacket"])
            text = choose.choice(PHRASES[intent]).format(thing) + (", urgent, need it today" if high else ", no hurry")
            label = {"intent": intent, "urgency": "high" if high else "low"}
            file.write(Case(request_id=str(number), at=NOW, input=text, label=label).model_dump_json() + "\n")
    return DatasetVersion(
        hash=f"made-up-{n}",
        recipe="made-up",
        mitigation="none",
        path=str(folder),
        n_train=n,
        n_holdout=0,
        n_frames=0,
        labels=LABELS,
        nearest_leak=0.0,
        cut=NOW,
    )


def tune(
    settings: Settings,
    data: DatasetVersion,
    base: Path,
    section: LoraSection,
    steps: list[float],
    system: str = "Triage.",
    key: str = "cycle-1/1",
    adapter: str | None = None,
) -> TrainingRun:
    return train(
        settings,
        data,
        key=key,
        base=Weights(name="tiny", sha256=blobs.put(settings.blobs, base)),
        prompt=Prompt(system=system),
        section=section,
        on_progress=lambda fraction, eta, text: steps.append(fraction),
        adapter=adapter,
    )


KILLED = """
import os, signal, sys
from pathlib import Path
from trimtab import settings
from trimtab.records.project import LoraSection
from trimtab.records.registry import Prompt, Weights
from trimtab.records.training import DatasetVersion
from trimtab.training import train
import psutil

def on_progress(fraction, eta, text):
    if fraction * 30 >= 12:
        print(psutil.Process().children()[0].pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

root, data, sha256, section = sys.argv[1:]
data, section = DatasetVersion.model_validate_json(data), LoraSection.model_validate_json(section)
base, prompt = Weights(name="tiny", sha256=sha256), Prompt(system="Triage.")
train(settings.load(root), data, key="cycle-1/1", base=base, prompt=prompt, section=section, on_progress=on_progress)
"""


def ended(pid: int) -> bool:
    """Whether the process is gone, or dead and only waits for the system to take note."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


SECTION = LoraSection(epochs=5.0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> tuple[Settings, DatasetVersion]:
    """A place where a run of 48 rows by SECTION was made, key cycle-1/1, and its data."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_BLOBS", str(folder / "blobs"))
        settings = settings_module.load(folder)
    data = dataset(settings.datasets / "d", 48)
    tune(settings, data, tiny_base, SECTION, [])
    return settings, data


def test_a_run_killed_with_its_parent_resumes_to_the_same_adapter(
    settings: Settings, tiny_base: Path, undisturbed: tuple[Settings, DatasetVersion]
) -> None:
    data, section = dataset(settings.datasets / "d", 48), SECTION
    whole = tune(*undisturbed, tiny_base, section, [])  # done already
    assert whole.steps == 30
    assert whole.loss_last < whole.loss_first

    sha256 = blobs.put(settings.blobs, tiny_base)
    arguments = [str(settings.root), data.model_dump_json(), sha256, section.model_dump_json()]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    deadline = time.monotonic() + 60
    while not ended(int(killed.stdout)):
        assert time.monotonic() < deadline, "the trainer outlived its parent"
        time.sleep(0.05)

    steps: list[float] = []
    resumed = tune(settings, data, tiny_base, section, steps)
    assert min(step for step in steps if step > 0) * 30 > 10, "started again instead of resuming"
    assert resumed.adapter_sha256 == whole.adapter_sha256
    assert (resumed.loss_first, resumed.loss_last) == (whole.loss_first, whole.loss_last)
    assert steps == sorted(steps)
    assert steps[-1] == 1.0
    assert tune(settings, data, tiny_base, section, steps) == resumed  # done: no trainer is started any more


def test_a_run_goes_on_from_an_earlier_adapter_of_its_own_shape(
    tiny_base: Path, undisturbed: tuple[Settings, DatasetVersion]
) -> None:
    settings, data = undisturbed
    first = tune(settings, data, tiny_base, SECTION, [])
    second = tune(settings, data, tiny_base, LoraSection(), [], key="cycle-1/2", adapter=first.adapter_sha256)
    assert second.start_adapter_sha256 == first.adapter_sha256
    assert second.loss_first < (first.loss_first + first.loss_last) / 2, "started afresh"
    with pytest.raises(StepFailed, match="another rank or other layers"):
        tune(settings, data, tiny_base, LoraSection(rank=4), [], key="cycle-1/3", adapter=first.adapter_sha256)


def test_a_failed_run_names_the_reason_and_another_job_under_the_key_starts_afresh(
    settings: Settings, tiny_base: Path
) -> None:
    data = dataset(settings.datasets / "d", 8)
    with pytest.raises(
        StepFailed, match=r"code 1: .*no training example has fewer than 1024 tokens; shorten the system"
    ):
        tune(settings, data, tiny_base, LoraSection(), [], system="far too long " * 1000)
    run = tune(settings, data, tiny_base, LoraSection(rank=4), [])
    assert run.steps == 1
    assert run.params["rank"] == 4
    assert blobs.get(settings.blobs, run.adapter_sha256).read_bytes()[:4] == b"GGUF"


def test_without_the_extra_it_says_what_to_install(
    settings: Settings, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataset(settings.datasets / "d", 8)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    with pytest.raises(Fixable, match="training needs torch") as caught:
        tune(settings, data, tiny_base, LoraSection(), [])
    assert caught.value.fix == "pip install 'trimtab[train]'"


def test_the_control_process_stays_free_of_torch() -> None:
    code = "import sys, trimtab.training.train, trimtab.training.curate, trimtab.training.export;"
    code += "print([m for m in ('torch', 'transformers', 'peft', 'gguf') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("layer", [0, 1], ids=["all layers", "lower layers computed before"])
def test_packed_examples_lose_what_they_lose_alone(tiny_base: Path, layer: int) -> None:
    model = gguf_weights.load_model(gguf_weights.open_base(tiny_base), torch.float32)
    prompts = [[1, 30, 31, 32, 33, 40], [1, 30, 31, 32, 50, 51, 52, 53], [1, 30, 31, 32]] * 4
    examples = [Tokens(prompt, [60 + i, 61, 2]) for i, prompt in enumerate(prompts)]
    twins = [[1, 30, 31, 70, 71, 72, 80, 9], [1, 30, 31, 70, 71, 72, 81, 82, 9], [1, 30, 31, 70, 71, 72, 9]]
    examples += [Tokens(prompt, [60 + i, 61, 2], "said by three") for i, prompt in enumerate(twins)]
    shared = packing.shared_length(examples)
    assert shared == 3
    chosen = [1, 4, 9, 12, 13, 14, 11]
    packed = packing.pack([examples[index] for index in chosen], shared)
    assert packed.borrowed == [0, 0, 0, 0, 3, 3, 0], "what all three say is read once"
    assert len(packed.ids) == 3 + sum(len(examples[i].prompt) - 3 + 2 for i in chosen) - 6
    with torch.no_grad():
        states = packing.states_below(model, examples, shared, layer)
        entering = packed.own([states[0], *(states[index + 1] for index in chosen)])
        together = packing.loss_sum(model, packed, entering, layer)
        alone = sum(_plain_loss(model, examples[index]) for index in chosen)
    assert float(together) == pytest.approx(float(alone), rel=1e-5)


def test_only_the_top_layers_get_an_adapter_when_the_file_says_so(tiny_base: Path) -> None:
    model = gguf_weights.load_model(gguf_weights.open_base(tiny_base), torch.float32)
    tuned = lora.add_adapter(model, LoraSection(layers=1))
    trained = {name.split(".")[4] for name, weight in tuned.named_parameters() if weight.requires_grad}
    assert trained == {"1"}


def _plain_loss(model: torch.nn.Module, example: Tokens) -> torch.Tensor:
    ids = torch.tensor([example.prompt + example.answer])
    labels = ids.clone()
    labels[0, : len(example.prompt)] = -100
    return model(input_ids=ids, labels=labels).loss * len(example.answer)


@given(st.integers(1, 50), st.integers(1, 4), st.integers(1, 12), st.integers(0, 9), st.booleans())
def test_each_epoch_sees_each_example_once_and_twins_together_in_an_order_set_by_the_seed(
    n: int, epochs: int, size: int, seed: int, twins: bool
) -> None:
    messages = [str(number) for number in range(n) for _ in range(2 if twins else 1)]
    section = LoraSection(epochs=epochs, batch_size=size, seed=seed)
    batches, n = lora.plan(messages, section), len(messages)
    order = [index for batch in batches for index in batch]
    assert batches == lora.plan(messages, section)
    assert all(len(batch) == size for batch in batches[:-1])
    assert [sorted(order[i * n : (i + 1) * n]) for i in range(epochs)] == [list(range(n))] * epochs
    if twins:
        assert [messages[index] for index in order[::2]] == [messages[index] for index in order[1::2]]


SYSTEM = "Answer with intent and urgency as JSON."


def test_twenty_steps_teach_the_real_base_and_the_engine_serves_what_was_trained(settings: Settings) -> None:
    """The loss more than halves, the engine's tokens are the trainer's, and on unseen messages the engine's greedy
    answers are those of transformers with peft, word for word; but for a toss-up, where the engine's 8 bits may decide
    otherwise: two tokens whose log-probabilities are within four times what the two differ by on the base itself."""
    base = weights.fetch(settings_module.load().blobs, "smollm2-135m-instruct")
    section = LoraSection(layers=12, epochs=2.0)
    run = tune(settings, dataset(settings.datasets / "d", 80), base, section, [], system=SYSTEM)
    assert run.steps == 20
    assert run.loss_last < run.loss_first / 2
    reader = gguf_weights.open_base(base)
    tokenizer = gguf_weights.load_tokenizer(reader)
    things = ["sofa", "tablet", "camera", "shop"]
    texts = [PHRASES[intent][i % 3].format(things[i]) for i in range(4) for intent in PHRASES]
    asked = [[{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}] for text in texts]
    model = lora.add_adapter(gguf_weights.load_model(reader, torch.float32), section)
    adapter = blobs.get(settings.blobs, run.adapter_sha256)
    lora.go_on_from(model, gguf_weights.read_adapter(adapter, reader))
    trained = _greedy(model, tokenizer, asked)
    with tiny.engine(settings, base, adapter) as ask:
        for text in tiny.AWKWARD:
            assert tokenizer(text).input_ids == ask("/tokenize", {"content": text, "parse_special": True})["tokens"]
        body = {"temperature": 0, "max_tokens": 30, "cache_prompt": False, "lora": [{"id": 0, "scale": 1.0}]}
        served = [ask("/v1/chat/completions", body | {"messages": messages})["choices"][0] for messages in asked]
    answers = [choice["message"]["content"] for choice in served]
    apart = [_apart(model, tokenizer, *both) for both in zip(asked, trained, answers, strict=True)]
    assert max(apart) < 4 * 0.085, list(zip(apart, trained, answers, strict=True))
    assert apart.count(0.0) >= len(apart) - 2
    assert all(LABELS.parse(text) is not None for text in trained), trained
    assert {choice["finish_reason"] for choice in served} == {"stop"}


def _apart(model: Any, tokenizer: Any, chat: list[dict[str, str]], one: str, other: str) -> float:
    """How much likelier transformers finds its own answer where the other one leaves it, in nats; 0 for the same."""
    if one == other:
        return 0.0
    begun = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in (one, other)]
    place = next(n for n, pair in enumerate(zip(*ids, strict=False)) if pair[0] != pair[1])
    prompt = tokenizer(begun, add_special_tokens=False).input_ids + ids[0][:place]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
    return float(logits[ids[0][place]] - logits[ids[1][place]])


def _greedy(model: Any, tokenizer: Any, asked: list[list[dict[str, str]]]) -> list[str]:
    chats = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in asked]
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "left"
    batch = tokenizer(chats, add_special_tokens=False, return_tensors="pt", padding=True)
    with torch.no_grad():
        whole = model.generate(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, do_sample=False, max_new_tokens=30
        )
    return tokenizer.batch_decode(whole[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
