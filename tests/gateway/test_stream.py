"""A stream reaches the client byte for byte, however it was cut on the way, except for what must be held back."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.gateway.stream import DONE, EngineFailed, Relay, text_of


def event(text: str | None, index: int = 0) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": index, "delta": {"content": text}}]}).encode() + b"\n\n"


USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}\n\n'


@given(st.lists(st.text()), st.lists(st.integers(0, 400)), st.booleans())
def test_any_cut_gives_the_same_stream(texts: list[str], cuts: list[int], wanted: bool) -> None:
    events = b"".join(event(text) for text in texts)
    whole = events + USAGE + DONE
    at = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    relay = Relay(include_usage=wanted)
    passed = b"".join(relay.feed(whole[start:end]) for start, end in pairwise(at))
    assert passed == events + (USAGE if wanted else b"")
    assert relay.done
    assert (relay.usage.prompt_tokens, relay.usage.completion_tokens) == (3, 2)
    assert text_of(passed) == ("".join(texts), sum(bool(text) for text in texts))
    assert relay.text(passed) == "".join(texts)


def test_words_of_the_protocol_in_a_text_are_only_text() -> None:
    said = [event('"usage": {"x": 1} [DONE] "error": {}'), event(None), event("second choice", index=1)]
    relay = Relay(include_usage=False)
    assert relay.feed(b"".join(said)) == b"".join(said)
    assert not relay.done
    assert text_of(b"".join(said))[0] == '"usage": {"x": 1} [DONE] "error": {}'


@given(st.lists(st.sampled_from([event("a"), event("b\ndata: c"), event("d", index=1), b": ping\n\n", event(None)])))
def test_the_text_is_the_same_however_it_is_read(events: list[bytes]) -> None:
    sent = b"".join(events)
    assert Relay().text(sent) == text_of(sent)[0]


def test_an_error_event_is_a_failure() -> None:
    with pytest.raises(EngineFailed, match="out of memory"):
        Relay(include_usage=False).feed(b'data: {"error": {"message": "out of memory"}}\n\n')
