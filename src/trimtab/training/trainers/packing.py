"""Many examples in one row: what all chats begin with once, then each example's own rest, none seeing another.

Twins that follow each other borrow the words they have in common from the first of them. The numbers are those of one
example per row, at about half the work for a long system prompt; no padding either.
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
    """T tokens: the shared beginning, then of each example's rest what follows the `borrowed` tokens.

    `positions` (T) count within each example, `mask` (T, T) is true where a token sees another: the beginning, what its
    example borrows, and its own example up to itself. `asked` are the places whose next token is an answer token,
    `answers` those tokens. `lengths` are whole rests; `lenders` the examples that are borrowed from (one's own number:
    nothing is borrowed).
    """

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    asked: torch.Tensor
    answers: torch.Tensor
    lengths: list[int]
    borrowed: list[int]
    lenders: list[int]

    def own(self, states: list[torch.Tensor]) -> torch.Tensor:
        """What enters a layer: the shared beginning's states (the first), and those of the rests that are laid out."""
        beginning, *rests = states
        return torch.cat([beginning, *(rest[start:] for rest, start in zip(rests, self.borrowed, strict=True))])

    def whole(self, hidden: torch.Tensor) -> list[torch.Tensor]:
        """The other way round: states of the beginning and of every whole rest, from those of the row (T, width)."""
        sizes = [length - start for length, start in zip(self.lengths, self.borrowed, strict=True)]
        beginning, *laid = hidden.split([len(hidden) - sum(sizes), *sizes])
        lent = [laid[lender][:start] for lender, start in zip(self.lenders, self.borrowed, strict=True)]
        return [beginning.clone(), *(torch.cat(parts) for parts in zip(lent, laid, strict=True))]


def shared_length(examples: list[Tokens]) -> int:
    """How many tokens all prompts begin with alike; at least each one's last token is left to it."""
    shared, limit = 0, min(len(example.prompt) for example in examples) - 1
    while shared < limit and len({example.prompt[shared] for example in examples}) == 1:
        shared += 1
    return shared


def pack(examples: list[Tokens], shared: int) -> Packed:
    """Lay examples out in one row; their prompts' first `shared` tokens are the same."""
    rests = [example.prompt[shared:] + example.answer[:-1] for example in examples]
    lenders, borrowed = _twins(examples, rests, shared)
    ids, positions, owner, asked = examples[0].prompt[:shared], list(range(shared)), [-1] * shared, list[int]()
    for number, (example, rest, start) in enumerate(zip(examples, rests, borrowed, strict=True)):
        end = len(ids) + len(rest) - start
        asked += range(end - len(example.answer), end)
        ids, owner = ids + rest[start:], owner + [number] * (len(rest) - start)
        positions += range(shared + start, shared + len(rest))
    place = torch.tensor(positions)
    of, lender = torch.tensor(owner), torch.tensor([-1 if o < 0 else lenders[o] for o in owner])
    known = shared + torch.tensor([0 if o < 0 else borrowed[o] for o in owner])
    lent = (of[None, :] == lender[:, None]) & (place[None, :] < known[:, None])
    visible = (of[None, :] == -1) | (of[None, :] == of[:, None]) | lent
    return Packed(
        ids=torch.tensor(ids),
        positions=place,
        mask=torch.ones_like(visible).tril() & visible,
        asked=torch.tensor(asked),
        answers=torch.tensor([token for example in examples for token in example.answer]),
        lengths=[len(rest) for rest in rests],
        borrowed=borrowed,
        lenders=lenders,
    )


def _twins(examples: list[Tokens], rests: list[list[int]], shared: int) -> tuple[list[int], list[int]]:
    """For each example the number it borrows from, and how many of its rest's first tokens: those that it says in the
    same words as the first of the twins it follows. Its last prompt token is its own, for it asks for the answer."""
    lenders, borrowed = [0], [0]
    for number in range(1, len(examples)):
        first, same = lenders[-1], 0
        if examples[number].message and examples[number].message == examples[first].message:
            most = min(len(examples[number].prompt), len(examples[first].prompt)) - shared - 1
            pairs = zip(rests[number][:most], rests[first], strict=False)
            same = next((place for place, (a, b) in enumerate(pairs) if a != b), most)
        lenders.append(first if same else number)
        borrowed.append(same)
    return lenders, borrowed


def states_below(llama: Any, examples: list[Tokens], shared: int, layer: int) -> list[torch.Tensor]:
    """What enters `layer`, computed once: (tokens, width) of the shared beginning, then of each example's rest.

    The examples go through in fixed groups, so that the states are bit for bit the same in a run that resumes.
    """
    states: list[torch.Tensor] = []
    for start in range(0, len(examples), ROWS_AT_ONCE):
        packed = pack(examples[start : start + ROWS_AT_ONCE], shared)
        with torch.no_grad():
            hidden = _through(llama, llama.model.embed_tokens(packed.ids)[None], packed, slice(0, layer))
        states += packed.whole(hidden[0])[1 if states else 0 :]
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
