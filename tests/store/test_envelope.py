"""A payload reads as it was written, with its own key, in its own row and column, and nowhere else."""

from __future__ import annotations

import base64
import json
import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from trimtab.errors import Corrupt
from trimtab.store.envelope import derived, is_sealed, key_of, opened, sealed

KEY = ("0123456789abcdef", bytes(range(32)))
SECRET = "the lamp of Erin Delacroix"
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=())),  # lone surrogates, too
    st.text("ab ", min_size=50, max_size=3000),
    st.binary(max_size=500).map(lambda data: base64.b64encode(data).decode()),  # which nothing makes shorter
)


@given(TEXTS, st.one_of(st.none(), TEXTS), st.text())
@examples(max_examples=300)
def test_what_is_sealed_opens_as_it_was(text: str, like: str | None, about: str) -> None:
    stored = sealed(KEY, text, about, like)
    assert is_sealed(stored)
    assert key_of(stored) == KEY[0]
    assert opened(KEY[1], stored, about, like) == text


@given(TEXTS, st.one_of(st.none(), TEXTS), st.data())
@examples(max_examples=200)
def test_elsewhere_under_another_key_or_changed_by_a_bit_it_does_not(text: str, like: str | None, data) -> None:
    stored = sealed(KEY, text, "1/request", like)
    wrong = [
        (KEY[1], stored, "2/request"),  # another row
        (KEY[1], stored, "1/response"),  # another column
        (bytes(32), stored, "1/request"),
        (KEY[1], stored.replace("enc:v2", "enc:v1"), "1/request"),
    ]
    head, _, body = stored.rpartition(":")
    bits = bytearray(base64.b64decode(body))
    bits[data.draw(st.integers(0, len(bits) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    wrong.append((KEY[1], f"{head}:{base64.b64encode(bits).decode()}", "1/request"))
    for key, value, about in wrong:
        with pytest.raises(Corrupt, match="was changed"):
            opened(key, value, about, like)


def test_a_request_costs_little_beside_the_text_it_repeats() -> None:
    text = " ".join(os.urandom(4).hex() for _ in range(200))
    request = json.dumps({"model": "desk", "messages": [{"role": "user", "content": text}]})
    alone, beside = sealed(KEY, request, "1/request"), sealed(KEY, request, "1/request", text)
    assert len(alone) < len(request)
    assert len(beside) < len(alone) / 5
    assert opened(KEY[1], beside, "1/request", text) == request
    with pytest.raises(Corrupt):
        opened(KEY[1], beside, "1/request", "another text")


def test_what_the_first_version_wrote_is_read() -> None:
    nonce = os.urandom(12)
    body = nonce + AESGCM(derived(KEY[1], b"payload")).encrypt(nonce, SECRET.encode(), b"1/request")
    assert opened(KEY[1], f"enc:v1:{KEY[0]}:{base64.b64encode(body).decode()}", "1/request", "x") == SECRET


@pytest.mark.parametrize("stored", ["enc:v2", "enc:v2:x:", "enc:v2:x:!", "enc:v3:0123456789abcdef:AAAA", "enc:v"])
def test_what_only_looks_sealed_is_refused(stored: str) -> None:
    with pytest.raises(Corrupt):
        opened(KEY[1], stored, "1/request")
