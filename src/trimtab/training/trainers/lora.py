"""The LoRA trainer: `python -m trimtab.training.trainers.lora JOB.json`. See `train.Job` and `train.Report`.

A plain loop: one epoch order fixed by the seed, AdamW, and a checkpoint every few steps, so that a run that was killed
ends with the same adapter as one that was not. Recipe: rank 8 on all seven linears and a high, linearly decaying rate
learn a triage task of 200 messages in about 25 steps; further settings were within noise of each other.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch

from trimtab import masking, processes
from trimtab.errors import Fixable
from trimtab.records.project import LoraSection
from trimtab.records.training import TWIN, Case
from trimtab.training import export, gguf_weights
from trimtab.training.train import Job, Report
from trimtab.training.trainers import packing
from trimtab.training.trainers.packing import Tokens

CHECKPOINT_EVERY = 5
WARM_UP = 5
CLIP = 1.0
MAX_TOKENS = 1024
"""Longer examples are left out: no message of a help desk is that long, and memory grows with the square."""


def encode(job: Job, cases: list[Case], tokenizer: Any) -> list[Tokens]:
    """The examples, in order, as the engine will see and should answer them. Over-long ones are left out."""
    found: list[Tokens] = []
    for case in cases:
        messages = [{"role": "system", "content": job.system}] if job.system else []
        messages.append({"role": "user", "content": case.input})
        messages = masking.through([mask.model_dump() for mask in job.masks], messages)
        chat = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        # Prompt and answer are split into tokens apart, as they are when the engine generates the answer.
        prompt, answer = (
            tokenizer(text, add_special_tokens=False).input_ids for text in (chat, job.labels.dump(case.label))
        )
        if len(prompt) + len(answer) < MAX_TOKENS:
            message = case.request_id.removesuffix(TWIN)
            found.append(Tokens(prompt, [*answer, tokenizer.eos_token_id], message))
    if not found:
        raise Fixable(f"no training example has fewer than {MAX_TOKENS} tokens", "shorten the system prompt")
    return found


def plan(messages: Sequence[str], section: LoraSection) -> list[list[int]]:
    """The batches of the whole run, as indices of examples: each epoch a new order of messages, fixed by the seed.

    Twins, examples of the same message, follow each other, and so meet in a batch: what the name alone would change
    cancels out in the step.
    """
    together: dict[str, list[int]] = {}
    for index, message in enumerate(messages):
        together.setdefault(message or str(index), []).append(index)
    groups, n = list(together.values()), len(messages)
    total = max(1, round(n * section.epochs))
    random = np.random.default_rng(section.seed)
    epochs = [random.permutation(len(groups)) for _ in range(-(-total // n))]
    order = [index for epoch in epochs for group in epoch for index in groups[group]][:total]
    return [order[start : start + section.batch_size] for start in range(0, total, section.batch_size)]


def rate(step: int, steps: int, peak: float) -> float:
    """Learning rate of a step (0-based): a short linear warm-up, then linear decay towards 0."""
    return peak * min((step + 1) / min(WARM_UP, steps), (steps - step) / steps)


def add_adapter(model: Any, section: LoraSection) -> peft.PeftModel:
    """The model with a fresh adapter on the seven linears of its top layers, float32 whatever the base is."""
    torch.manual_seed(section.seed)
    layers = range(first_layer(model, section), model.config.num_hidden_layers)
    config = peft.LoraConfig(
        r=section.rank,
        lora_alpha=2 * section.rank,
        target_modules=[module.split(".")[1] for module in export.LINEARS],
        layers_to_transform=list(layers),
        layers_pattern="layers",
        task_type="CAUSAL_LM",
    )
    tuned = peft.get_peft_model(model, config)
    assert isinstance(tuned, peft.PeftModel)  # noqa: S101 (what get_peft_model returns for one adapter)
    return tuned


def go_on_from(model: peft.PeftModel, state: dict[str, torch.Tensor]) -> None:
    """Put an earlier adapter's weights into the fresh one. Raises Fixable when they are of another shape."""
    ours = {name: weight.shape for name, weight in peft.get_peft_model_state_dict(model).items()}
    if ours != {name: weight.shape for name, weight in state.items()}:
        raise Fixable(
            "the adapter to go on from has another rank or other layers", "keep retrain.lora as it was for that adapter"
        )
    peft.set_peft_model_state_dict(model, state)


def first_layer(model: Any, section: LoraSection) -> int:
    """The lowest layer (0-based) that gets an adapter."""
    n = model.config.num_hidden_layers
    return n - min(section.layers or n, n)


def base_dtype() -> torch.dtype:
    """bfloat16 where the processor multiplies it natively; elsewhere it is emulated, and slower by far than float32."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return torch.bfloat16 if "avx512_bf16" in flags or "amx_bf16" in flags else torch.float32


def run(job: Job) -> Iterator[Report]:
    """Train from the last checkpoint, if any, to the end; the adapter lies in the job's folder afterwards."""
    with job.train.open(encoding="utf-8") as lines:
        cases = [Case.model_validate_json(line) for line in lines]
    reader = gguf_weights.open_base(job.base)
    examples = encode(job, cases, gguf_weights.load_tokenizer(reader))
    model = add_adapter(gguf_weights.load_model(reader, base_dtype()), job.section)
    if job.adapter is not None:
        go_on_from(model, gguf_weights.read_adapter(job.adapter, reader))
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), betas=(0.9, 0.95), weight_decay=0.0)
    batches = plan([example.message for example in examples], job.section)
    losses, seconds = _resume(job.folder / "checkpoint.pt", weights, optimizer)
    loss_of = _losses(model, examples, job.section, batches)
    for step in range(len(losses), len(batches)):
        started = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = rate(step, len(batches), job.section.learning_rate)
        losses.append(_step(optimizer, loss_of, batches[step]))
        seconds += time.monotonic() - started
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == len(batches):
            _checkpoint(job.folder / "checkpoint.pt", weights, optimizer, losses, seconds)
        yield _report(losses, len(batches), seconds, len(examples))
    model.save_pretrained(str(job.folder / "adapter"))
    n_head, n_head_kv = gguf_weights.heads(reader)
    export.export(job.folder / "adapter", job.folder / "adapter.gguf", n_head=n_head, n_head_kv=n_head_kv)
    yield _report(losses, len(batches), seconds, len(examples), done=True)


LossOf = Callable[[list[int]], tuple[torch.Tensor, int]]


def _losses(model: peft.PeftModel, examples: list[Tokens], section: LoraSection, batches: list[list[int]]) -> LossOf:
    """A function from examples' indices to their summed loss and number of answer tokens.

    Layers without an adapter never change, so what leaves them is computed here, once for each example of a batch.
    """
    llama: Any = model.base_model.model
    shared, layer = packing.shared_length(examples), first_layer(llama, section)
    place = {index: number for number, index in enumerate(sorted({index for batch in batches for index in batch}))}
    states = packing.states_below(llama, [examples[index] for index in place], shared, layer) if layer else []

    def loss_of(indices: list[int]) -> tuple[torch.Tensor, int]:
        packed = packing.pack([examples[index] for index in indices], shared)
        entering = packed.own([states[0], *(states[place[index] + 1] for index in indices)]) if layer else None
        return packing.loss_sum(llama, packed, entering, layer), len(packed.answers)

    return loss_of


def _step(optimizer: torch.optim.Optimizer, loss_of: LossOf, batch: list[int]) -> float:
    """One step of the optimizer; the batch's mean loss per answer token, in nats."""
    loss, tokens = 0.0, 0
    for start in range(0, len(batch), packing.ROWS_AT_ONCE):
        part, n = loss_of(batch[start : start + packing.ROWS_AT_ONCE])
        part.backward()
        loss, tokens = loss + part.item(), tokens + n
    if not math.isfinite(loss):
        raise Fixable("the loss is not a finite number any more", "lower retrain.lora.learning_rate")
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for weight in weights:
        weight.grad /= tokens
    torch.nn.utils.clip_grad_norm_(weights, CLIP)
    optimizer.step()
    optimizer.zero_grad()
    return loss / tokens


def _report(losses: list[float], steps: int, seconds: float, examples: int, *, done: bool = False) -> Report:
    return Report(
        step=len(losses),
        steps=steps,
        loss=losses[-1],
        loss_first=losses[0],
        eta_seconds=seconds / len(losses) * (steps - len(losses)),
        seconds=seconds,
        examples=examples,
        done=done,
    )


def _checkpoint(
    file: Path,
    weights: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    losses: list[float],
    seconds: float,
) -> None:
    """Replace the checkpoint as a whole: a kill leaves the old one or the new one."""
    state = {"weights": weights, "optimizer": optimizer.state_dict(), "losses": losses, "seconds": seconds}
    temporary = file.with_suffix(".tmp")
    with temporary.open("wb") as out:
        torch.save(state, out)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(file)


def _resume(
    file: Path, weights: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> tuple[list[float], float]:
    """Losses so far and seconds spent, the adapter and the optimizer set back to the checkpoint; or a fresh start."""
    if not file.exists():
        return [], 0.0
    state = torch.load(file, weights_only=True)
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(state["weights"][name])
    optimizer.load_state_dict(state["optimizer"])
    return state["losses"], state["seconds"]


def main() -> None:
    """Entry point of the process: a ready line, then one report a line."""
    processes.exit_with_parent()
    os.nice(5)
    print("{}", flush=True)
    job = Job.model_validate_json(Path(sys.argv[1]).read_text("utf-8"))
    try:
        for report in run(job):
            print(report.model_dump_json(), flush=True)
    except Fixable as error:
        sys.exit(f"{error}; {error.fix}")


if __name__ == "__main__":
    main()
