"""`POST /feedback`: what clients tell us afterwards about an answer.

The boundary: one JSON object or a list of them in, checked values out.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from trimtab.gateway import shapes
from trimtab.gateway.shapes import Fault, NonEmpty


class Feedback(msgspec.Struct, kw_only=True):
    """What a client tells us about an earlier answer."""

    request_id: str | None = None
    client_request_id: str | int | None = None
    name: NonEmpty = "label"
    value: Annotated[dict[str, Any], msgspec.Meta(min_length=1)]
    source: Literal["human", "code", "llm_judge"] = "human"


_FEEDBACK = msgspec.json.Decoder(Feedback | list[Feedback])


def told(body: bytes) -> list[Feedback]:
    """One piece of feedback or a list of them. Raises Fault 400."""
    read = shapes.read(body, _FEEDBACK)
    items = read if isinstance(read, list) else [read]
    if not items:
        raise Fault(400, "invalid_body", "the list is empty; send at least one piece of feedback")
    for item in items:
        if item.request_id is None and item.client_request_id is None:
            raise Fault(400, "invalid_body", "name the answer by request_id or client_request_id", "request_id")
    return items
