"""Server-sent events on their way from engine to client: passed through as bytes, or told in another API's shape.

The boundary: bytes in, bytes out. Held back: the part of an event that has not come whole, the end (it leaves after
the row is closed) and the usage chunk (the gateway asks for it, the client may not have).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Protocol

import msgspec

DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.Encoder().encode


class EngineFailed(Exception):
    """The engine reported an error in the stream."""


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class Usage(msgspec.Struct, omit_defaults=True):
    """Tokens as the engine counted them; None where it did not say.

    `cached_tokens` (read from a prompt cache) and `cache_write_tokens` are parts of `prompt_tokens`,
    `reasoning_tokens` a part of `completion_tokens`. OpenAI nests them in `*_tokens_details`; Databricks reports
    `reasoning_tokens` beside the totals, and Claude's names for the cache there.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None

    def __post_init__(self) -> None:
        if (prompt := self.prompt_tokens_details) is not None:
            self.cached_tokens, self.cache_write_tokens = prompt.cached_tokens, prompt.cache_write_tokens
        if (said := self.completion_tokens_details) is not None and said.reasoning_tokens is not None:
            self.reasoning_tokens = said.reasoning_tokens
        if self.cache_read_input_tokens is not None and self.cached_tokens is None:
            self.cached_tokens = self.cache_read_input_tokens
        if self.cache_creation_input_tokens is not None and self.cache_write_tokens is None:
            self.cache_write_tokens = self.cache_creation_input_tokens


_COUNTS = ("prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")


def total(usages: list[Usage]) -> Usage:
    """The tokens of a whole batch; what no answer reported stays unknown."""
    if len(usages) == 1:
        return usages[0]
    whole = Usage()
    for name in _COUNTS:
        counts = [count for one in usages if (count := getattr(one, name)) is not None]
        setattr(whole, name, sum(counts) if counts else None)
    return whole


class _Reported(msgspec.Struct):
    usage: Usage = msgspec.field(default_factory=Usage)


_REPORTED = msgspec.json.Decoder(_Reported)


def reported(body: bytes) -> Usage:
    """What an answer says of its tokens, though the rest of it may be of no use."""
    with suppress(msgspec.DecodeError, UnicodeDecodeError):
        return _REPORTED.decode(body).usage
    return Usage()


class Piece(msgspec.Struct):
    """A part of content that came as a list: Databricks sends thinking models' answers so."""

    type: str = "text"
    text: str = ""


Content = str | list[Piece] | None


def flat(content: Content) -> str:
    """Content as one text."""
    if isinstance(content, list):
        return "".join(piece.text for piece in content if piece.type == "text")
    return content or ""


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class CallDelta(msgspec.Struct):
    """A piece of a tool call; `index` says of which."""

    index: int | None = None
    id: str | None = None
    function: _Function = msgspec.field(default_factory=_Function)


class Delta(msgspec.Struct):
    """A piece of a message, or a whole one."""

    content: Content = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    tool_calls: list[CallDelta] | None = None

    def thought(self) -> str:
        """Reasoning: llama.cpp calls it `reasoning_content`, vLLM `reasoning`."""
        return self.reasoning_content or (self.reasoning if isinstance(self.reasoning, str) else "")

    def carries(self) -> bool:
        """Whether this is a piece of an answer: text, thought, a refusal or a call."""
        return bool(self.content or self.tool_calls or self.refusal or self.thought())


class ChunkChoice(msgspec.Struct):
    """One choice's piece in a chunk; a plain answer's whole message stands in `message`."""

    index: int = 0
    delta: Delta = msgspec.field(default_factory=Delta)
    message: Delta | None = None
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.message is not None:
            self.delta = self.message


class Chunk(msgspec.Struct):
    """A chat completion or a chunk of one, with everything another API's shape can tell of it."""

    choices: list[ChunkChoice] = []
    created: int | float = 0


class _Event(msgspec.Struct):
    choices: list[ChunkChoice] = []
    usage: Usage | None = None
    error: Any = None


class _TextDelta(msgspec.Struct):
    content: Content = None


class _TextChoice(msgspec.Struct):
    index: int = 0
    delta: _TextDelta = msgspec.field(default_factory=_TextDelta)


class _Texts(msgspec.Struct):
    choices: list[_TextChoice] = []


_decode = msgspec.json.Decoder(_Event).decode
_decode_texts = msgspec.json.Decoder(list[_Texts]).decode
read_chunk = msgspec.json.Decoder(Chunk).decode
"""A chat completion's body, or an event's payload, as a Chunk. Raises msgspec.DecodeError."""


def event(name: str, value: Any) -> bytes:
    """One named server-sent event."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode(value))


class Relay:
    """One answer's events as they are; `done` once `[DONE]` came."""

    def __init__(self, include_usage: bool = False) -> None:
        self._include_usage = include_usage
        self._rest = b""
        self.usage = Usage()
        self.done = False

    def feed(self, data: bytes) -> bytes:
        """Take what came; returns what the client may have now.

        Raises EngineFailed when an event is an error, msgspec.DecodeError when it is not what it says it is.
        """
        if b"\r" in data:  # an event's lines may end in CRLF; JSON has no bare CR
            data = data.replace(b"\r", b"")
        if self._rest:
            data, self._rest = self._rest + data, b""
        if not data.endswith(b"\n\n"):
            cut = data.rfind(b"\n\n") + 2
            if cut == 1:
                self._rest = data
                return b""
            data, self._rest = data[:cut], data[cut:]
        if b'"usage"' not in data and b"[DONE]" not in data and b'"error"' not in data:
            return data
        return b"".join(event + b"\n\n" for event in data.split(b"\n\n")[:-1] if self._passes(event))

    def restore(self, rest: bytes, usage: Usage, done: bool) -> None:
        """Go on behind what another relay has passed on: it held `rest` back."""
        self._rest, self.usage, self.done = rest, usage, done

    def said(self, sent: bytes) -> tuple[str, int]:
        """The text so far, and how many pieces carried any of it; `sent` is what the client was sent."""
        return text_of(sent)

    def text(self, sent: bytes) -> str:
        """The text alone, for a tenth of that: all events are read as one list where they are plain ones."""
        try:
            events = _decode_texts(b"[%b]" % sent[6:-2].replace(b"\n\ndata: ", b","))
        except msgspec.DecodeError:
            return text_of(sent)[0]
        return "".join(
            [flat(choice.delta.content) for event in events for choice in event.choices if choice.index == 0]
        )

    def last(self) -> bytes:
        """What ends a good answer."""
        return DONE

    def failure(self, error: bytes) -> bytes:
        """What ends an answer that failed half-way; `error` is OpenAI's envelope."""
        return b"data: %b\n\n" % error

    def _passes(self, event: bytes) -> bool:
        payload = event.removeprefix(b"data:").strip()
        if payload == b"[DONE]":
            self.done = True
            return False
        if not payload.startswith(b"{"):
            return True
        read = _decode(payload)
        if read.error is not None:
            raise EngineFailed(str(read.error))
        if read.usage is None:
            return True
        self.usage = read.usage
        return self._include_usage or bool(read.choices)


class Telling(Protocol):
    """How an API tells an answer in events of its own."""

    def chunk(self, chunk: Chunk) -> bytes:
        """The events for a piece."""
        ...

    def end(self, usage: Usage) -> bytes:
        """The events behind the last piece."""
        ...

    def failure(self, error: bytes) -> bytes:
        """The event of an answer that failed half-way."""
        ...


class Retold(Relay):
    """One answer's events in another API's shape."""

    def __init__(self, telling: Telling) -> None:
        super().__init__()
        self._telling = telling
        self._texts: list[str] = []
        self._pieces = 0

    def feed(self, data: bytes) -> bytes:
        """As `Relay.feed`."""
        told = []
        for payload in _payloads(super().feed(data)):
            chunk = read_chunk(payload)
            for choice in chunk.choices:
                delta = choice.delta
                if choice.index == 0 and (text := flat(delta.content)):
                    self._texts.append(text)
                self._pieces += delta.carries()
            told.append(self._telling.chunk(chunk))
        return b"".join(told)

    def said(self, sent: bytes) -> tuple[str, int]:
        """As `Relay.said`, from what the engine said: the client was sent something else."""
        return "".join(self._texts), self._pieces

    def text(self, sent: bytes) -> str:
        """As `Relay.text`."""
        return "".join(self._texts)

    def last(self) -> bytes:
        """What ends a good answer."""
        return self._telling.end(self.usage)

    def failure(self, error: bytes) -> bytes:
        """What ends an answer that failed half-way."""
        return self._telling.failure(error)


def text_of(sent: bytes) -> tuple[str, int]:
    """The first choice's text in events that were sent, and how many pieces of content, thought or calls they carry."""
    texts, pieces = [], 0
    for payload in _payloads(sent):
        with suppress(msgspec.DecodeError):
            for choice in _decode(payload).choices:
                delta = choice.delta
                pieces += delta.carries()
                if choice.index == 0 and delta.content:
                    texts.append(flat(delta.content))
    return "".join(texts), pieces


def _payloads(events: bytes) -> Iterator[bytes]:
    lines: Iterable[bytes] = (event.removeprefix(b"data:").strip() for event in events.split(b"\n\n"))
    return (line for line in lines if line.startswith(b"{"))
