"""Who asks: API keys, checked against the file that the supervisor replaces.

The boundary: a header in, a `Key` or a `Fault` out; which limits a key has is known here, whether they are used up is
`limits`. The file holds hashes only: a secret has 192 random bits, so SHA-256 cannot be guessed backwards and a slow
password hash would protect nothing more. No database is opened.

How long a check takes says nothing about a secret: the public part of it, the key's id, finds the hashes to compare
with (for an unknown id, one that fits nothing), and all of them are compared in full, whichever fits.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import msgspec

from trimtab.gateway.shapes import Fault

OPEN_PATHS = frozenset({"/", "/healthz", "/readyz"})
"""Paths that need no key: they tell whether the gateway is there, and nothing else."""
_SECRET = re.compile(rb"tt-([0-9a-f]{12})-[0-9a-f]{48}")
_NOBODY = (bytes(32),)


class Rate(msgspec.Struct, frozen=True, dict=True):
    """`count` in each `seconds`."""

    count: int
    seconds: int

    @cached_property
    def each_ns(self) -> int:
        """ns in which there is room for one more; rounded up, so that a rate is never exceeded."""
        return -(-self.seconds * 1_000_000_000 // self.count)


class Budget(msgspec.Struct, frozen=True):
    """Most nano-USD in each calendar hour, day or month (UTC)."""

    nano_usd: int
    per: str


class Key(msgspec.Struct, frozen=True, dict=True):
    """A live key; mirrors `records.keys.LiveKey`. `slot` is its place in the ledger, `sha256` its secrets' hashes."""

    id: str
    slot: int
    scopes: frozenset[str]
    sha256: list[str]
    until_ms: list[int | None]
    """Epoch ms after which the hash at the same place fits no more; None: never."""
    requests: Rate | None = None
    tokens: Rate | None = None
    budgets: list[Budget] = []

    @cached_property
    def limited(self) -> bool:
        """Whether the ledger has to be asked at all."""
        return self.requests is not None or self.tokens is not None or bool(self.budgets)


class _File(msgspec.Struct):
    keys: list[Key]


_decode = msgspec.json.Decoder(_File).decode


class KeysFile:
    """The live keys, as last written. Before the first good file nobody is let in; a broken one changes nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._keys: dict[bytes, Key] = {}
        self._hashes: dict[bytes, tuple[bytes, ...]] = {}

    @property
    def live(self) -> object:
        """The keys as they are; another one when the file has changed."""
        return self._keys

    def refresh(self) -> None:
        """Look at the file again. Costs one stat when nothing changed."""
        try:
            status = os.stat(self.path)  # noqa: PTH116 (often, for as long as the process lives)
            seen = (status.st_mtime_ns, status.st_ino, status.st_size)
            if seen == self._seen:
                return
            self._seen = seen
            keys = _decode(self.path.read_bytes()).keys
            hashes = {_public(key): tuple(bytes.fromhex(digest) for digest in key.sha256) for key in keys}
        except FileNotFoundError:
            return
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            print(f"keys file {self.path} ignored: {error}", file=sys.stderr, flush=True)
            return
        self._keys, self._hashes = {_public(key): key for key in keys}, hashes

    def find(self, secret: bytes) -> Key | None:
        """The key that a secret belongs to, unless it has expired."""
        found = self.look_up(secret)
        return found and found[0]

    def look_up(self, secret: bytes) -> tuple[Key, Good] | None:
        """The same, with what tells whether it is still so: a head that comes again is not hashed again."""
        shape = _SECRET.fullmatch(secret)
        public = shape.group(1) if shape else b""
        digest = hashlib.sha256(secret).digest()
        fitting = -1
        for place, known in enumerate(self._hashes.get(public, _NOBODY)):
            fitting = place if hmac.compare_digest(known, digest) else fitting
        live = self._keys
        key = live.get(public)
        if key is None or fitting < 0:
            return None
        until = key.until_ms[fitting]

        def good() -> bool:
            return self._keys is live and (until is None or time.time() * 1000 < until)

        return (key, good) if good() else None


Good = Callable[[], bool]
"""Whether what `authenticate` found would be found again: the file is the same and the key has not expired."""


def authenticate(keys: KeysFile | None, path: str, headers: dict[bytes, bytes]) -> tuple[Key | None, Good]:
    """The key of a request; None where none is asked for. Raises Fault 401 or 403. The one gate for every path."""
    if keys is None or path in OPEN_PATHS:
        return None, _always
    secret = _presented(headers)
    if not secret:
        raise _unknown("no API key was sent; send it as `Authorization: Bearer tt-…`", b"Bearer")
    found = keys.look_up(secret)
    if found is None:
        raise _unknown("this API key is unknown, revoked or expired", b'Bearer error="invalid_token"')
    key, good = found
    scope = scope_of(path)
    if scope not in key.scopes and "admin" not in key.scopes:
        message = f"{key.id} may not use {path}: it lacks the scope {scope}; create a key with --scope {scope}"
        challenge = b'www-authenticate: Bearer error="insufficient_scope", scope="%b"\r\n' % scope.encode()
        raise Fault(403, "insufficient_scope", message, headers=challenge)
    return key, good


def _always() -> bool:
    return True


def scope_of(path: str) -> str:
    """The scope that a path needs. What is not listed asks the model something."""
    if path == "/feedback" or path == "/metrics":
        return path[1:]
    return "models" if path == "/v1/models" or path.startswith("/v1/models/") else "predict"


def _presented(headers: dict[bytes, bytes]) -> bytes:
    """The secret, where OpenAI's clients (Authorization) and Azure's (api-key) put it."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and token:
        return token.strip()
    return headers.get(b"api-key") or headers.get(b"x-api-key") or b""


def _unknown(message: str, challenge: bytes) -> Fault:
    return Fault(401, "invalid_api_key", message, headers=b"www-authenticate: %b\r\n" % challenge)


def _public(key: Key) -> bytes:
    """The part of a key's id that its secrets carry."""
    return key.id.removeprefix("key-").encode()
