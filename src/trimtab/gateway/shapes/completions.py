"""OpenAI's legacy text completions, `POST /v1/completions`, on top of chat.

The boundary: a version is weights and a prompt, so a text to complete is what the user says to that version; asking
the bare weights would answer with something that was never judged. What has no meaning in a chat (`suffix`, `echo`,
`best_of`, prompts of token numbers) is refused. Protocol: platform.openai.com/docs/api-reference/completions.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from trimtab.gateway import shapes
from trimtab.gateway.routes import Entity
from trimtab.gateway.shapes import Asked, Completion, Fault, Sampling, StreamOptions
from trimtab.gateway.shapes.chat import NOTED, SAMPLING, user
from trimtab.gateway.stream import DONE, Chunk, ChunkChoice, Retold, Usage, flat, read_chunk, total

_OWN = frozenset({"prompt", "model", "client_request_id", "user", "safety_identifier", "stream", "stream_options"})
KNOWN = (SAMPLING - {"top_logprobs"}) | _OWN | NOTED | {"suffix", "echo", "best_of"}


class Completions(Sampling, kw_only=True):
    """The request."""

    prompt: str | Annotated[list[str], msgspec.Meta(min_length=1, max_length=128)]
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=5)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    suffix: str | None = None
    echo: bool | None = None
    best_of: Annotated[int, msgspec.Meta(ge=1)] | None = None


_COMPLETIONS = msgspec.json.Decoder(Completions)


def asked(body: bytes) -> Asked:
    """A text completion. Raises Fault 400."""
    read = shapes.read(body, _COMPLETIONS)
    fields = shapes.given(body, KNOWN)
    for name, given in (("suffix", read.suffix), ("echo", read.echo), ("best_of", (read.best_of or 1) > 1)):
        if given:
            message = f"{name} completes a bare text, and the served version answers a chat; leave it out"
            raise Fault(400, "unsupported_parameter", message, name)
    prompts = [read.prompt] if isinstance(read.prompt, str) else read.prompt
    if read.stream and len(prompts) > 1:
        raise Fault(400, "unsupported_parameter", "a stream takes one prompt; send the others apart", "prompt")
    sampling: dict[str, Any] = {name: fields[name] for name in fields.keys() & SAMPLING - {"logprobs"}} | read.chosen()
    if read.logprobs is not None:
        sampling |= {"logprobs": True, "top_logprobs": read.logprobs}
    wanted = bool(read.stream_options and read.stream_options.include_usage)
    return Asked(
        [[user(prompt)] for prompt in prompts],
        sampling,
        _render,
        read,
        prompts[0] if len(prompts) == 1 else None,
        bool(read.stream),
        lambda request_id, entity: Retold(_Told(request_id, entity, wanted)),
    )


def _render(answers: list[Completion], request_id: str, entity: Entity) -> bytes:
    chunks = [read_chunk(answer.raw) for answer in answers]
    choices = [choice for chunk in chunks for choice in chunk.choices]
    body = _envelope(request_id, entity, chunks[0].created)
    body["choices"] = [_choice(choice, index, choice.finish_reason, 0) for index, choice in enumerate(choices)]
    usage = total([answer.usage for answer in answers])
    return shapes.encode(body | ({"usage": _usage(usage)} if usage.prompt_tokens is not None else {}))


def _envelope(request_id: str, entity: Entity, created: float) -> dict[str, Any]:
    return {"id": f"cmpl-{request_id}", "object": "text_completion", "created": int(created), "model": entity.model}


def _choice(choice: ChunkChoice, index: int, finish: str | None, offset: int) -> dict[str, Any]:
    logprobs = _logprobs(choice.logprobs, offset)
    return {"index": index, "text": flat(choice.delta.content), "finish_reason": finish, "logprobs": logprobs}


def _logprobs(given: dict[str, Any] | None, offset: int) -> dict[str, Any] | None:
    """Chat's log-probabilities, a list of tokens, as the lists that this API has; offsets count from `offset`."""
    tokens = given.get("content") if given else None
    if tokens is None:
        return None
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token["token"])
    return {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": [{top["token"]: top["logprob"] for top in token.get("top_logprobs", [])} for token in tokens],
        "text_offset": offsets,
    }


def _usage(usage: Usage) -> dict[str, int]:
    prompt, said = usage.prompt_tokens or 0, usage.completion_tokens or 0
    return {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said}


class _Told:
    """The answer in chunks of text."""

    def __init__(self, request_id: str, entity: Entity, wanted: bool) -> None:
        self._request_id, self._entity, self._wanted = request_id, entity, wanted
        self._created: float = 0
        self._offsets: dict[int, int] = {}

    def chunk(self, chunk: Chunk) -> bytes:
        self._created = chunk.created
        choices = []
        for choice in chunk.choices:
            offset = self._offsets.get(choice.index, 0)
            choices.append(_choice(choice, choice.index, choice.finish_reason, offset))
            self._offsets[choice.index] = offset + len(flat(choice.delta.content))
        return self._event({"choices": choices}) if choices else b""

    def end(self, usage: Usage) -> bytes:
        return (self._event({"choices": [], "usage": _usage(usage)}) if self._wanted else b"") + DONE

    def failure(self, error: bytes) -> bytes:
        return b"data: %b\n\n" % error

    def _event(self, more: dict[str, Any]) -> bytes:
        return b"data: %b\n\n" % shapes.encode(_envelope(self._request_id, self._entity, self._created) | more)
