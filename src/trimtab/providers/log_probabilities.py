"""What an engine tells of how likely its words were: OpenAI's `logprobs`, as llama.cpp and others write them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Tokens = tuple[tuple[bytes, Mapping[bytes, float]], ...]


def tokens_of(choice: Mapping[str, Any]) -> Tokens:
    """Each token of a choice, as UTF-8, with the log-probabilities (nats) of the likeliest ones at its place and its
    own; empty where none are told, or not in this form. Special tokens are empty, and several."""
    try:
        return tuple(map(_likely, (choice.get("logprobs") or {}).get("content") or ()))
    except (KeyError, TypeError, ValueError, AttributeError):
        return ()


def _likely(place: Mapping[str, Any]) -> tuple[bytes, Mapping[bytes, float]]:
    found: dict[bytes, float] = {}
    for token in (place, *(place.get("top_logprobs") or ())):
        text = _text(token)
        found[text] = max(float(token["logprob"]), found.get(text, float(token["logprob"])))
    return _text(place), found


def _text(token: Mapping[str, Any]) -> bytes:
    told = token.get("bytes")
    return token["token"].encode() if told is None else bytes(told)
