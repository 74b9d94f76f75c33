"""The keys of subjects, and the master key, in one file that a passphrase opens: without them no payload is read.

The file is JSON: the parameters of scrypt (RFC 7914), and, encrypted by AES-256 in GCM, the keys. What was erased after
a backup was made is not brought back by it: keys that are destroyed here stay so, and so do those of subjects whose
tombstone in the audit log is younger. Who has an old backup of keys and one of the lake is not bound by that.
"""

from __future__ import annotations

import base64
import json
import os
from datetime import datetime
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from trimtab.errors import Fixable
from trimtab.records.erasure import KeysMoved, Tombstone
from trimtab.settings import Settings
from trimtab.store import master_key
from trimtab.store.control import Control
from trimtab.store.subjects import StoredKey, Subjects

_FORMAT = "trimtab-keys/1"
_COST = {"n": 2**16, "r": 8, "p": 1}
"""64 MiB and a fifth of a second for each guess."""
LEAST = 12
"""Characters of a passphrase, at least."""


def write(
    settings: Settings, control: Control, model: str, file: Path, passphrase: str, by: str, now: datetime
) -> KeysMoved:
    """Write every key into a new file. It is in the audit log before. Raises Fixable when there is none, or the file
    is there, or the passphrase is short."""
    if len(passphrase) < LEAST:
        raise Fixable(f"a passphrase of {len(passphrase)} characters opens too easily", f"use {LEAST} or more")
    subjects = Subjects(settings)
    keys = subjects.all()
    if not keys:
        raise Fixable("there are no keys of subjects yet", "make the backup once requests were answered")
    moved = KeysMoved(at=now, by=by, action="backed up", keys=sum(key.secret is not None for key in keys))
    control.put("keys_moved", f"{model}/{now.isoformat()}", moved)
    body = {"master": _text(subjects.master), "keys": [_plain(key) for key in keys]}
    salt, nonce = os.urandom(16), os.urandom(12)
    sealed = AESGCM(_opening(passphrase, salt, _COST)).encrypt(nonce, json.dumps(body).encode(), _FORMAT.encode())
    content = {"format": _FORMAT, "scrypt": {**_COST, "salt": _text(salt)}, "keys": _text(nonce + sealed)}
    try:
        with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as out:
            out.write(json.dumps(content) + "\n")
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise Fixable(
            f"cannot write {file}: {error.strerror}", "name a new file in a folder you may write to"
        ) from None
    return moved


def restore(
    settings: Settings, control: Control, model: str, file: Path, passphrase: str, by: str, now: datetime
) -> KeysMoved:
    """Put the keys of a backup back where they are missing, and the master key where there is none.

    Raises Fixable for another file, another passphrase, and where keys here are under another master key.
    """
    master, keys = _read(file, passphrase)
    if master_key.given(settings):
        here = master_key.master_key(settings, lambda: True)
        if here != master:
            fix = f"if nothing was kept under it, move {master_key.place(settings)} away, and try again"
            raise Fixable("the backup is of another master key than the one here", fix)
    else:
        master_key.keep(settings, master)
    erased = {stone.subject: stone.at.isoformat() for stone in control.facts("tombstone", Tombstone)}
    gone = {key.id for key in keys if key.secret is not None and erased.get(key.subject, "") > key.made}
    back = [key._replace(secret=None, destroyed=erased[key.subject]) if key.id in gone else key for key in keys]
    count = Subjects(settings).add(back)
    moved = KeysMoved(at=now, by=by, action="restored", keys=count, kept_destroyed=len(gone))
    control.put("keys_moved", f"{model}/{now.isoformat()}", moved)
    return moved


def _read(file: Path, passphrase: str) -> tuple[bytes, list[StoredKey]]:
    try:
        content = json.loads(file.read_text())
        if content["format"] != _FORMAT:
            raise ValueError(content["format"])
        cost = {name: min(int(content["scrypt"][name]), _COST[name] * 16) for name in _COST}
        opening = _opening(passphrase, _bytes(content["scrypt"]["salt"]), cost)
        data = _bytes(content["keys"])
        body = json.loads(AESGCM(opening).decrypt(data[:12], data[12:], _FORMAT.encode()))
    except OSError as error:
        raise Fixable(f"cannot read {file}: {error.strerror}", "name a file of `trimtab subjects backup`") from None
    except InvalidTag:
        raise Fixable(f"{file} does not open: another passphrase, or it was changed", "give its passphrase") from None
    except (ValueError, KeyError, TypeError):
        raise Fixable(f"{file} is no backup of keys", "name a file of `trimtab subjects backup`") from None
    keys = [StoredKey(id_, whose, key and _bytes(key), made, gone) for id_, whose, key, made, gone in body["keys"]]
    return _bytes(body["master"]), keys


def _opening(passphrase: str, salt: bytes, cost: dict[str, int]) -> bytes:
    return Scrypt(salt=salt, length=32, **cost).derive(passphrase.encode())


def _plain(key: StoredKey) -> list[str | None]:
    return [key.id, key.subject, None if key.secret is None else _text(key.secret), key.made, key.destroyed]


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
