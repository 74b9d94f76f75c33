"""Many examples in one row: what all chats begin with once, then each example's own rest, none seeing another.

The numbers are those of one example per row, at about half the work for a long system prompt; no padding either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

ROWS_AT_ONCE = 8
"""Examples per forward pass: the mask grows with the square of their tokens."""


@dataclass(frozen=True)
class Tokens:
    """One example as token ids: the chat up to the answer, and the answer with its end-of-turn mark."""

    prompt: list[int]
    answer: list[int]
    message: str = ""
    """What twins have in common: the request id of the message they say."""


@dataclass(frozen=True)
class Packed:
    """T tokens: the shared beginning, then the examples' own rests of these `lengths`.

    `positions` (T) count within each example, `mask` (T, T) is true where a token sees another: the beginning, and its
    own example up to itself. `asked` are the places whose next token is an answer token, `answers` those tokens.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    asked: torch.Tensor
    answers: torch.Tensor
    lengths: list[int]


def shared_length(examples: list[Tokens]) -> int:
    """How many tokens all prompts begin with alike; at least each one's last token is left to it."""
    shared, limit = 0, min(len(example.prompt) for example in examples) - 1
    while shared < limit and len({example.prompt[shared] for example in examples}) == 1:
        shared += 1
    return shared


def pack(examples: list[Tokens], shared: int) -> Packed:
    """Lay examples out in one row; their prompts' first `shared` tokens are the same."""
    rests = [example.prompt[shared:] + example.answer[:-1] for example in examples]
    ids, positions, owner, asked = examples[0].prompt[:shared], list(range(shared)), [-1] * shared, list[int]()
    for number, (example, rest) in enumerate(zip(examples, rests, strict=True)):
        asked += range(len(ids) + len(example.prompt) - shared - 1, len(ids) + len(rest))
        ids, owner = ids + rest, owner + [number] * len(rest)
        positions += range(shared, shared + len(rest))
    owners = torch.tensor(owner)
    visible = (owners[None, :] == -1) | (owners[None, :] == owners[:, None])
    return Packed(
        ids=torch.tensor(ids),
        positions=torch.tensor(positions),
        mask=torch.ones_like(visible).tril() & visible,
        asked=torch.tensor(asked),
        answers=torch.tensor([token for example in examples for token in example.answer]),
        lengths=[len(rest) for rest in rests],
    )


def states_below(llama: Any, examples: list[Tokens], shared: int, layer: int) -> list[torch.Tensor]:
    """What enters `layer`, computed once: (tokens, width) of the shared beginning, then of each example's rest.

    The examples go through in fixed groups, so that the states are bit for bit the same in a run that resumes.
    """
    states: list[torch.Tensor] = []
    for start in range(0, len(examples), ROWS_AT_ONCE):
        packed = pack(examples[start : start + ROWS_AT_ONCE], shared)
        with torch.no_grad():
            hidden = _through(llama, llama.model.embed_tokens(packed.ids)[None], packed, slice(0, layer))
        beginning, *rests = hidden[0].split([shared, *packed.lengths])
        states += [rest.clone() for rest in (rests if states else [beginning, *rests])]
    return states


def loss_sum(llama: Any, packed: Packed, entering: torch.Tensor | None = None, layer: int = 0) -> torch.Tensor:
    """Negative log-likelihood of the answers, summed over their tokens, in nats; other tokens get no logits at all.

    `entering` (T, width) is what enters `layer`, where the layers below are known already.
    """
    hidden = llama.model.embed_tokens(packed.ids) if entering is None else entering
    hidden = _through(llama, hidden[None], packed, slice(layer, None))
    logits = llama.lm_head(llama.model.norm(hidden[0, packed.asked])).float()
    return cross_entropy(logits, packed.answers, reduction="sum")


def _through(llama: Any, hidden: torch.Tensor, packed: Packed, layers: slice) -> torch.Tensor:
    rotary = llama.model.rotary_emb(hidden, position_ids=packed.positions[None])
    for layer in llama.model.layers[layers]:
        hidden = layer(hidden, attention_mask=packed.mask[None, None], position_embeddings=rotary)
    return hidden
