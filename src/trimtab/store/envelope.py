"""A payload as the lake holds it: made shorter where it can be, then encrypted under its subject's key.

`enc:v2:KEY:BODY`: the key's id, and base64 of a nonce and of the ciphertext (AES-256 in GCM). What is encrypted begins
with a byte that says how it was made shorter: as it is, by DEFLATE, or by DEFLATE with another text of the row as its
dictionary, since a request repeats what was asked and a response what was said. The ciphertext is bound to its row
and column, so that it reads nowhere else. `enc:v1:` is the same without the byte, and is read as ever.
"""

from __future__ import annotations

import base64
import binascii
import functools
import os
import zlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from trimtab.errors import Corrupt

MARK = "enc:v"
"""How an encrypted value begins, whatever its version."""
_OLD, _NEW = "enc:v1", "enc:v2"
_AS_IS, _SHORTER, _LIKE = b"\0", b"\1", b"\2"
_SHORT = 64
"""Bytes below which DEFLATE saves nothing that is worth its time."""
_NONCE = 12


def is_sealed(stored: str | None) -> bool:
    """Whether a stored value is encrypted."""
    return stored is not None and stored.startswith(MARK)


def key_of(stored: str) -> str:
    """The id of the key that an encrypted value needs."""
    return stored.split(":", 3)[2] if stored.count(":") >= 3 else ""


def sealed(key: tuple[str, bytes], text: str, about: str, like: str | None = None) -> str:
    """A text as it is stored, under a key (id and 32 bytes).

    `about` says what it is, and must be said again to read it; and so must `like`, a text that it may repeat.
    """
    nonce = os.urandom(_NONCE)
    packed = _packed(text.encode("utf-8", "surrogatepass"), (like or "").encode("utf-8", "surrogatepass"))
    body = nonce + _cipher(key[1]).encrypt(nonce, packed, _bound(_NEW, about))
    return f"{_NEW}:{key[0]}:{base64.b64encode(body).decode()}"


def opened(key: bytes, stored: str, about: str, like: str | None = None) -> str:
    """The text of what `sealed` made. Raises Corrupt when it was changed, or is of another row, column or key."""
    try:
        mark, version, _, body = stored.split(":", 3)
        data, version = base64.b64decode(body, validate=True), f"{mark}:{version}"
        packed = _cipher(key).decrypt(data[:_NONCE], data[_NONCE:], _bound(version, about))
        plain = packed if version == _OLD else _unpacked(packed, (like or "").encode("utf-8", "surrogatepass"))
        return plain.decode("utf-8", "surrogatepass")
    except (InvalidTag, ValueError, binascii.Error, zlib.error):
        raise Corrupt(f"an encrypted payload ({about}) was changed") from None


@functools.lru_cache(maxsize=65536)
def derived(key: bytes, purpose: bytes) -> bytes:
    """A key of its own for each purpose (HKDF, RFC 5869)."""
    return HKDF(SHA256(), 32, None, b"trimtab/" + purpose).derive(key)


@functools.lru_cache(maxsize=8192)
def _cipher(key: bytes) -> AESGCM:
    return AESGCM(derived(key, b"payload"))


def _bound(version: str, about: str) -> bytes:
    return (about if version == _OLD else f"{version}:{about}").encode()


def _packed(data: bytes, like: bytes) -> bytes:
    """The bytes with how they were made shorter; as they are where nothing makes them shorter."""
    if len(data) < _SHORT and not like:
        return _AS_IS + data
    way = (zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_DEFAULT_STRATEGY)
    deflate = zlib.compressobj(1, *way, like) if like else zlib.compressobj(1, *way)
    shorter = deflate.compress(data) + deflate.flush()
    return (_LIKE if like else _SHORTER) + shorter if len(shorter) < len(data) else _AS_IS + data


def _unpacked(packed: bytes, like: bytes) -> bytes:
    how, data = packed[:1], packed[1:]
    if how == _AS_IS:
        return data
    inflate = zlib.decompressobj(-zlib.MAX_WBITS, like) if how == _LIKE else zlib.decompressobj(-zlib.MAX_WBITS)
    plain = inflate.decompress(data) + inflate.flush()
    if how not in (_SHORTER, _LIKE) or not inflate.eof:
        raise ValueError("not what was packed")
    return plain
