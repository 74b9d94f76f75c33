"""Which version answers whom: snapshots of the routes file, and the split between champion and canary.

The boundary: reads the file that the supervisor replaces (`records.gateway.Routes` as JSON); opens no connection.
A request takes one `Snapshot` and keeps it to its end.
"""

from __future__ import annotations

import logging
import os
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import msgspec

Route = Literal["champion", "canary"]

log = logging.getLogger("trimtab.gateway")


class Template(msgspec.Struct, frozen=True):
    """The engine request without the user's messages, kept as the JSON it came in: it is only ever copied."""

    messages: list[msgspec.Raw] = []
    params: dict[str, msgspec.Raw] = {}


class Entity(msgspec.Struct, frozen=True):
    """One version on one engine; mirrors `records.gateway.ServedEntity`."""

    model: str
    version: int
    address: str
    template: Template
    api_key: str = ""

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError(f"address must be host:port, not {self.address!r}")


class Snapshot(msgspec.Struct, frozen=True):
    """Everything one request needs to know about routing; mirrors `records.gateway.Routes`."""

    model: str
    revision: str
    champion: Entity | None
    canary: Entity | None = None
    canary_percent: float = 0.0

    def entities(self) -> list[Entity]:
        """The versions that may be asked."""
        return [entity for entity in (self.champion, self.canary) if entity is not None]


_decode = msgspec.json.Decoder(Snapshot).decode


class RoutesFile:
    """The newest good snapshot of a routes file. A missing or broken file changes nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self.snapshot: Snapshot | None = None

    def refresh(self) -> bool:
        """Look at the file again; True when it brought a new snapshot. Costs one stat when nothing changed."""
        try:
            status = os.stat(self._path)  # noqa: PTH116 (20 times a second, for as long as the process lives)
            seen = (status.st_mtime_ns, status.st_ino, status.st_size)
            if seen == self._seen:
                return False
            self._seen = seen
            self.snapshot = _decode(self._path.read_bytes())
        except FileNotFoundError:
            return False
        except (OSError, msgspec.MsgspecError) as error:
            log.error("routes file %s ignored: %s", self._path, error)
            return False
        return True


def bucket(model: str, caller: str) -> float:
    """Where a caller stands between 0 and 100, evenly spread and for ever the same for this model."""
    digest = blake2b(caller.encode(errors="surrogatepass"), digest_size=8, salt=_salt(model)).digest()
    return int.from_bytes(digest) / 2**64 * 100


def choose(snapshot: Snapshot, caller: str) -> tuple[Entity, Route] | None:
    """The version for a caller, or None without a champion. A growing percentage only ever adds callers."""
    if snapshot.champion is None:
        return None
    if snapshot.canary is not None and bucket(snapshot.model, caller) < snapshot.canary_percent:
        return snapshot.canary, "canary"
    return snapshot.champion, "champion"


def find(snapshot: Snapshot, entity: Entity) -> tuple[Entity, Route] | None:
    """Where the same version is served now, if it still is."""
    served: list[tuple[Entity | None, Route]] = [(snapshot.champion, "champion"), (snapshot.canary, "canary")]
    for now, route in served:
        if now is not None and (now.model, now.version) == (entity.model, entity.version):
            return now, route
    return None


def _salt(model: str) -> bytes:
    """Two models with the same callers must not try their canaries on the same people."""
    return blake2b(model.encode(), digest_size=16).digest()
