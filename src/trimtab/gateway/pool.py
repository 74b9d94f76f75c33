"""Connections to upstreams, kept alive, and the turnstile that each request to an upstream passes.

The boundary: gives out connections and takes them back; what is sent on them is not known here. TLS checks the
certificate against the host's name and the system's authorities (or those in SSL_CERT_FILE, as OpenSSL has it).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Collection
from functools import cache

from trimtab.gateway.routes import Entity, Snapshot
from trimtab.gateway.turnstile import Turnstile
from trimtab.gateway.upstream import EngineConnection, EngineGone


class Pool:
    """Idle connections by address, and a turnstile for each upstream."""

    def __init__(self) -> None:
        self._idle: dict[str, list[EngineConnection]] = {}
        self._turnstiles: dict[str, Turnstile] = {}
        self._limits = (256, 256)

    @property
    def turnstiles(self) -> Collection[Turnstile]:
        """All of them."""
        return self._turnstiles.values()

    def turnstile(self, entity: Entity) -> Turnstile:
        """The places, queue and breaker of an upstream."""
        found = self._turnstiles.get(entity.place)
        if found is None:
            found = self._turnstiles[entity.place] = Turnstile(*self._limits)
        return found

    def at_once(self, entity: Entity) -> EngineConnection | None:
        """A kept connection, when nothing speaks against asking now; None: see `acquire`."""
        turnstile, idle = self._turnstiles.get(entity.place), self._idle.get(entity.address)
        if not idle or turnstile is None or idle[-1].lost or not turnstile.free_at_once():
            return None
        connection = idle.pop()
        connection.entity, connection.turnstile, connection.since = entity, turnstile, time.perf_counter()
        return connection

    async def acquire(self, entity: Entity, fresh: bool = False) -> EngineConnection:
        """A connection with a place at its upstream, a new one if `fresh`.

        Raises EngineGone when there is none to be had, Full when too many wait for a place.
        """
        turnstile = self.turnstile(entity)
        if not turnstile.free():
            await turnstile.enter()
        since = time.perf_counter()
        try:
            connection = (not fresh and self._kept(entity.address)) or await _connected(entity)
        except BaseException:
            turnstile.leave(time.perf_counter() - since)
            raise
        connection.entity, connection.turnstile, connection.since = entity, turnstile, since
        return connection

    def release(self, connection: EngineConnection) -> None:
        """Give a connection back. It is cut when its response did not come whole or its engine is no longer routed."""
        connection.forget()
        if connection.turnstile is not None:
            connection.turnstile.leave(time.perf_counter() - connection.since)
        idle = self._idle.get(connection.address)
        if idle is not None and connection.reusable:
            connection.kept = True
            idle.append(connection)
        else:
            connection.close()

    def keep(self, snapshot: Snapshot) -> None:
        """Keep idle connections to the engines of a snapshot only, and take its limits."""
        entities = snapshot.entities()
        wanted = {entity.address for entity in entities}
        for address in self._idle.keys() - wanted:
            for connection in self._idle.pop(address):
                connection.close()
        for address in wanted - self._idle.keys():
            self._idle[address] = []
        self._limits = (snapshot.endpoint.concurrency, snapshot.endpoint.queue)
        for turnstile in self._turnstiles.values():
            turnstile.resize(*self._limits)
        for entity in entities:
            self.turnstile(entity)
        gone = self._turnstiles.keys() - {entity.place for entity in entities}
        for key in [key for key in gone if self._turnstiles[key].empty]:
            del self._turnstiles[key]

    def _kept(self, address: str) -> EngineConnection | None:
        idle = self._idle.get(address)
        while idle:
            connection = idle.pop()
            if not connection.lost:
                return connection
        return None


async def _connected(entity: Entity) -> EngineConnection:
    host, _, port = entity.address.rpartition(":")
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(entity.connect_seconds):
            tls = {"ssl": _trust(), "server_hostname": host} if entity.tls else {}
            return (await loop.create_connection(lambda: EngineConnection(entity), host, int(port), **tls))[1]
    except TimeoutError as error:
        message = f"{entity.upstream} took no connection within {entity.connect_seconds:g} s"
        raise EngineGone(message) from error
    except OSError as error:
        raise EngineGone(f"the engine at {entity.address} does not answer: {error.strerror or error}") from error


@cache
def _trust() -> ssl.SSLContext:
    """Certificates are checked, and so is the host's name (Python's defaults, TLS 1.2 at least)."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
