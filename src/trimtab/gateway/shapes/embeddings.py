"""OpenAI's embeddings, `POST /v1/embeddings`: relayed to the engine, which may not be able to.

The boundary: checked, passed on and answered as they came. Protocol: platform.openai.com/docs/api-reference/embeddings.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from trimtab.gateway import shapes
from trimtab.gateway.routes import Entity
from trimtab.gateway.shapes import Asked, Completion, Named, NonEmpty, Positive
from trimtab.gateway.shapes.chat import NOTED

_PASSED = frozenset({"input", "encoding_format", "dimensions"})
KNOWN = _PASSED | NOTED | {"model", "client_request_id", "user", "safety_identifier"}
_Token = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Tokens = Annotated[list[_Token], msgspec.Meta(min_length=1)]
_MANY = msgspec.Meta(min_length=1, max_length=2048)


class Embeddings(Named, kw_only=True):
    """The request."""

    input: NonEmpty | Annotated[list[NonEmpty | _Token | _Tokens], _MANY]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Positive | None = None


_EMBEDDINGS = msgspec.json.Decoder(Embeddings)


def asked(body: bytes) -> Asked:
    """Texts to embed. Raises Fault 400."""
    read = shapes.read(body, _EMBEDDINGS)
    fields = {name: value for name, value in shapes.given(body, KNOWN).items() if name in _PASSED}
    said = read.input if isinstance(read.input, str) else None
    return Asked([[]], {}, _render, read, said, fields=fields, operation="embeddings")


def _render(answers: list[Completion], request_id: str, entity: Entity) -> bytes:
    return answers[0].raw
