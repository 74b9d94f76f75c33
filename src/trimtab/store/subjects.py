"""A key for each subject: what destroys it makes every copy of their payloads unreadable, backups included.

A file of its own, `.trimtab/subjects.db`, so that a backup of the lake holds no key. Each subject has 32 random bytes,
wrapped (AES key wrap, RFC 3394) under the master key; from them come, by HKDF, the key that encrypts payloads (AES-256
in GCM) and the one under which the audit log commits to them (HMAC-SHA-256). Who a subject is, is kept as a keyed
hash. The master key is the file `.trimtab/master.key`, made on first use, or what a command prints
(TRIMTAB_MASTER_KEY_COMMAND), in base64.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import os
import secrets
import shlex
import sqlite3
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from trimtab.errors import Corrupt, Fixable
from trimtab.records.erasure import SubjectField
from trimtab.settings import Settings
from trimtab.store import key_file

MARK = "enc:v1:"
"""How an encrypted value begins; then the key's id, a colon, and base64 of nonce and ciphertext."""
FIELD: SubjectField = "caller"
"""What a subject is where the file says nothing."""
_AT_ONCE = 500
"""Values of one query, at most: SQLite has a limit."""

_TABLES = """
CREATE TABLE IF NOT EXISTS keys (id TEXT PRIMARY KEY, subject BLOB NOT NULL, wrapped BLOB, made TEXT, destroyed TEXT);
CREATE INDEX IF NOT EXISTS by_subject ON keys (subject);
CREATE TABLE IF NOT EXISTS choices (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class Subjects:
    """The keys of one project's subjects. Cheap to make; keys that were read stay in this object."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.home / "subjects.db"
        self._master = functools.cache(lambda: master_key(settings))
        self._of: dict[str, tuple[str, bytes]] = {}
        self._by_id: dict[str, bytes | None] = {}

    @property
    def exist(self) -> bool:
        """Whether any key was ever made here."""
        return self._path.exists()

    def choose(self, *, encrypt: bool, field: SubjectField) -> None:
        """Keep what the file decides for those who write without reading it: the drain."""
        wanted = {"encrypt": "1" if encrypt else "", "field": field}
        if not self.exist and wanted == {"encrypt": "", "field": FIELD}:
            return
        with self._open() as db:
            db.executemany("INSERT OR REPLACE INTO choices VALUES (?, ?)", wanted.items())

    @property
    def encrypts(self) -> bool:
        """Whether payloads are to be written encrypted."""
        return self._chosen("encrypt") == "1"

    @property
    def field(self) -> SubjectField:
        """What tells whose a request is."""
        return self._chosen("field") or FIELD  # type: ignore[return-value]

    def pseudonym(self, subject: str) -> str:
        """The subject as records name it: a keyed hash, in hex."""
        return hmac.digest(_derived(self._master(), b"index"), subject.encode("utf-8", "replace"), "sha256").hex()

    def fingerprint(self, texts: str) -> str:
        """A keyed hash (hex) that tells one set of people's texts from another, and that no guess can be tried on."""
        return hmac.digest(_derived(self._master(), b"fingerprint"), texts.encode("utf-8", "replace"), "sha256").hex()

    def key(self, subject: str, now: datetime) -> tuple[str, bytes]:
        """Id and bytes of the subject's key, made if there is none."""
        found = self._of.get(subject)
        if found is None:
            self.prepare([subject], now)
            found = self._of[subject]
        return found

    def prepare(self, subjects: Iterable[str], now: datetime) -> None:
        """Have the keys of many subjects at hand, made where there are none: two transactions, however many."""
        wanted = sorted({subject for subject in subjects if subject not in self._of})
        there = self._stored(wanted)
        missing = [subject for subject in wanted if subject not in there]
        there |= dict(zip(missing, self._made(missing, now), strict=True))
        self._of |= there
        self._by_id |= dict(there.values())

    def encrypt(self, subject: str, text: str, about: str, now: datetime) -> str:
        """A text as it is stored. `about` says what it is, and must be said again to read it."""
        name, key = self.key(subject, now)
        nonce = os.urandom(12)
        sealed = AESGCM(_derived(key, b"payload")).encrypt(nonce, text.encode("utf-8", "surrogatepass"), about.encode())
        return f"{MARK}{name}:{base64.b64encode(nonce + sealed).decode()}"

    def decrypt(self, stored: str | None, about: str) -> str | None:
        """The text of what `encrypt` made, or None once its key is destroyed. What is not encrypted is as it is.

        Raises Fixable when its key was never here: a key store that is missing has erased nothing.
        """
        if stored is None or not stored.startswith(MARK):
            return stored
        name, _, body = stored.removeprefix(MARK).partition(":")
        if name not in self._by_id:
            self.fetch([stored])
        key = self._by_id[name]
        if key is None:
            return None
        try:
            data = base64.b64decode(body, validate=True)
            plain = AESGCM(_derived(key, b"payload")).decrypt(data[:12], data[12:], about.encode())
        except (InvalidTag, ValueError, binascii.Error):
            raise Corrupt(f"an encrypted payload ({about}) was changed") from None
        return plain.decode("utf-8", "surrogatepass")

    def fetch(self, stored: Iterable[str | None]) -> None:
        """Have the keys of many encrypted values at hand, read in one transaction. Raises Fixable as `decrypt` does."""
        names = {value.removeprefix(MARK).partition(":")[0] for value in stored if value and value.startswith(MARK)}
        wanted = sorted(name for name in names if name not in self._by_id)
        rows = self._rows("id", wanted)
        if rows.keys() != set(wanted):
            fix = f"restore {self._path}, or read it on the machine that has it and the master key"
            raise Fixable("the lake is encrypted by subject, and the keys are not here: nothing is erased", fix)
        self._by_id |= {name: self._unwrapped(wrapped) if wrapped else None for name, (_, wrapped) in rows.items()}

    def mac(self, subject: str, data: bytes, now: datetime) -> str:
        """A keyed hash of a payload (hex): it commits to it, and says nothing once the key is destroyed."""
        return hmac.digest(_derived(self.key(subject, now)[1], b"commit"), data, "sha256").hex()

    def destroy(self, subject: str, now: datetime) -> bool:
        """Destroy the subject's keys; False when there was none. Nothing brings them back."""
        self._of.clear()
        self._by_id.clear()
        if not self.exist:
            return False
        with self._open() as db:
            gone = db.execute(
                "UPDATE keys SET wrapped = NULL, destroyed = ? WHERE subject = ? AND wrapped IS NOT NULL",
                (now.isoformat(), bytes.fromhex(self.pseudonym(subject))),
            )
            return gone.rowcount > 0

    def _chosen(self, name: str) -> str:
        if not self.exist:
            return ""
        with self._open() as db:
            row = db.execute("SELECT value FROM choices WHERE name = ?", (name,)).fetchone()
        return row[0] if row else ""

    def _stored(self, subjects: list[str]) -> dict[str, tuple[str, bytes]]:
        """Id and bytes of the keys that are there, by subject."""
        of = {bytes.fromhex(self.pseudonym(subject)): subject for subject in subjects}
        rows = self._rows("subject", list(of))
        return {of[mine]: (name, self._unwrapped(wrapped)) for mine, (name, wrapped) in rows.items() if wrapped}

    def _rows(
        self, column: Literal["id", "subject"], values: Sequence[str | bytes]
    ) -> dict[Any, tuple[str, bytes | None]]:
        """Id and wrapped key by the value of a column: of a subject's keys the one that is not destroyed."""
        found: dict[Any, tuple[str, bytes | None]] = {}
        if not values or not self.exist:
            return found
        with self._open() as db:
            for first in range(0, len(values), _AT_ONCE):
                some = values[first : first + _AT_ONCE]
                marks = ", ".join("?" * len(some))
                query = (
                    f"SELECT {column}, id, wrapped FROM keys WHERE {column} IN ({marks}) ORDER BY wrapped IS NOT NULL"  # noqa: S608 (of ours alone)
                )
                found |= {value: (name, wrapped) for value, name, wrapped in db.execute(query, some)}
        return found

    def _made(self, subjects: list[str], now: datetime) -> list[tuple[str, bytes]]:
        if not subjects:
            return []
        fresh = [(secrets.token_hex(8), secrets.token_bytes(32)) for _ in subjects]
        wrapping = _derived(self._master(), b"wrap")
        rows = [
            (name, bytes.fromhex(self.pseudonym(subject)), aes_key_wrap(wrapping, key), now.isoformat())
            for subject, (name, key) in zip(subjects, fresh, strict=True)
        ]
        with self._open() as db:
            db.executemany("INSERT INTO keys VALUES (?, ?, ?, ?, NULL)", rows)
        return fresh

    def _unwrapped(self, wrapped: bytes) -> bytes:
        try:
            return aes_key_unwrap(_derived(self._master(), b"wrap"), wrapped)
        except InvalidUnwrap:
            raise Corrupt("the subjects' keys do not belong to this master key") from None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """One transaction. What is overwritten is overwritten on the disk too."""
        new = not self.exist
        if new:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o600))
        db = sqlite3.connect(self._path, timeout=15)
        try:
            db.execute("PRAGMA secure_delete = ON")
            db.execute("PRAGMA synchronous = FULL")
            db.executescript(_TABLES)
            with db:
                yield db
        finally:
            db.close()


def master_key(settings: Settings) -> bytes:
    """The master key, 32 bytes. Raises Fixable when the command or the file does not give one."""
    command = os.environ.get("TRIMTAB_MASTER_KEY_COMMAND")
    if command:
        done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False, timeout=60)
        return _parsed_key(done.stdout if done.returncode == 0 else "", "TRIMTAB_MASTER_KEY_COMMAND")
    path = Path(os.environ.get("TRIMTAB_MASTER_KEY_FILE") or settings.home / "master.key")
    if not path.exists():
        key_file.keep(path, base64.b64encode(secrets.token_bytes(32)) + b"\n")
    return _parsed_key(path.read_text(), str(path))


def _parsed_key(text: str, where: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != 32:
        raise Fixable(f"{where} gives no master key", "it must give 32 bytes in base64: `openssl rand -base64 32`")
    return key


@functools.lru_cache(maxsize=65536)
def _derived(key: bytes, purpose: bytes) -> bytes:
    """A key of its own for each purpose (HKDF, RFC 5869)."""
    return HKDF(SHA256(), 32, None, b"trimtab/" + purpose).derive(key)


def digest(parts: list[str | None]) -> bytes:
    """Texts as one unambiguous string of bytes; None is not the empty text."""
    joined = hashlib.sha256()
    for part in parts:
        data = b"" if part is None else part.encode("utf-8", "surrogatepass")
        joined.update((b"-" if part is None else b"+") + len(data).to_bytes(8, "big") + data)
    return joined.digest()


def subject_of(row: dict[str, Any], field: str) -> str:
    """Whose a row is; empty when it does not say."""
    found = dict(row["request_tags"] or ()).get("caller") if field == "caller" else row[field]
    return found or ""
