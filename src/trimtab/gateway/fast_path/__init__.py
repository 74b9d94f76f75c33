"""The fast path: connections whose requests are plain are lent to a loop in C, and come back when one is not.

The boundary: what may be lent, and what happens to what comes back, is here; the loop itself is `fast_path.c`, which
says what it does. It is optional: where it was not compiled, or `TRIMTAB_FAST_PATH=off` is set, `load` returns None and
everything is answered by the rest of this room, to the same effect. It decides nothing: limits, routes, prices and
cells are worked out by their own rooms and handed over as numbers and bytes; a change of routes or keys ends the loan.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import math
import os
import socket
import time
from pathlib import Path
from typing import Any

from trimtab import native
from trimtab.errors import TrimtabError
from trimtab.gateway import limits, rows
from trimtab.gateway.answer import abandon, resume
from trimtab.gateway.exchange import Exchange, Head
from trimtab.gateway.fast_path import layout, terms
from trimtab.gateway.fast_path.terms import CHAT, PATHS, Lent, Terms, pack
from trimtab.gateway.framing import BODY_BYTES
from trimtab.gateway.heads import MOST_KNOWN
from trimtab.gateway.meter import FAST_PATH, OVERHEAD_SECONDS, SECONDS
from trimtab.gateway.routes import Entity, Route, Snapshot
from trimtab.gateway.rows import Gateway, Row
from trimtab.gateway.server import IDLE_SECONDS, READ_SECONDS, WRITE_BUFFER, Connection, Server
from trimtab.gateway.shapes import scoring
from trimtab.gateway.turnstile import Turnstile
from trimtab.gateway.upstream import UNLIMITED, EngineConnection, head_of
from trimtab.store.journal import Opened

LIBRARY = Path(__file__).with_name("fast_path.so")
MOST_CREDIT, EARNED_HERE, EARNED_THERE, LOST = 4096, 1, 16, 64
"""Of a head: what a request costs that was tried and was not plain, and what one earns that was answered, here or
there. So a client who never asks plainly is tried once in 64 requests, and one who does so now and then mostly."""
LINGER_SECONDS = 1.0
"""How long the loop may go on while Python has nothing to do: until the next tick. It looks for what is late itself."""
_DEMOTED, _ENDED, _HEARD, _LATE, _CANCELLED, _CUT = range(6)

log = logging.getLogger("trimtab.gateway")


def load() -> ctypes.CDLL | None:
    """The compiled loop; None: there is none, or it is switched off. Raises TrimtabError for one that is not ours."""
    said = os.environ.get(native.SWITCH, "on")
    path = Path(said) if "/" in said else LIBRARY
    if native.off() or not path.exists():
        return None
    library = layout.declared(ctypes.CDLL(str(path)))
    sizes = [library.fast_size(which) for which in range(len(layout.MIRRORED))]
    if sizes != [ctypes.sizeof(one) for one in layout.MIRRORED]:
        raise TrimtabError(f"{path} was built from other sources: install trimtab again, or set {native.SWITCH}=off")
    return library


class FastPath:
    """The loop in C, as the event loop sees it. Call it from the event loop's thread."""

    def __init__(self, library: ctypes.CDLL, gateway: Gateway, server: Server) -> None:
        self._c, self._gateway, self._server = library, gateway, server
        self._shared = layout.Shared()
        self._f: int = library.fast_new(ctypes.byref(self._shared))
        self._lent: dict[int, Lent] = {}
        self._terms: dict[int, Terms] = {}
        self._refused: set[Head] = set()  # heads of what is not lent as things are: a version with guards, …
        self._places: dict[tuple[str, str], int] = {}
        self._turnstiles: list[tuple[int, Turnstile]] = []
        self._routes: dict[tuple[int, Route, str], int] = {}
        self._snapshot, self._keys = gateway.routes.snapshot, gateway.keys and gateway.keys.live
        self._book: Any = None
        self._returning: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._succeeded = ctypes.c_int64()
        self._shared.most_body, self._shared.behind = BODY_BYTES, WRITE_BUFFER
        self._shared.read_seconds, self._shared.idle_seconds = READ_SECONDS, IDLE_SECONDS
        self._shared.seconds.take(SECONDS)
        self._shared.overhead_seconds.take(OVERHEAD_SECONDS)
        self._shared.cells = gateway.meter.address
        self._shared.counted = gateway.meter.cell(FAST_PATH)
        gateway.journal.lent_open = lambda number: self._shared.open_rows[number % layout.SEGMENTS]
        server.lender = self
        self.tick()
        described = getattr(self._loop, "_get_backend_id", None)  # uvloop's, for its own tests: we can do without
        self._others: int | None = None if described is None else described()
        self._loop.add_reader(library.fast_fd(self._f), self._poll)

    @property
    def connections(self) -> int:
        """Connections that are lent now, or on their way back."""
        return self._shared.connections + len(self._returning)

    @property
    def unwatched(self) -> bool:
        """Whether requests are in progress there while it does not wait by itself, which is when it looks for what is
        late."""
        return self._shared.in_flight > 0 and not (self._others is not None and self._alone())

    # Lending

    def offer(self, connection: Connection, head: Head) -> None:
        """A request was answered well whose head is remembered: lend its connection, if more like it may be plain."""
        head.credit = min(MOST_CREDIT, head.credit + EARNED_HERE)
        if head.path in PATHS and head.credit > 0 and head not in self._refused:
            self._loop.call_soon(self._lend_idle, connection, head, 3)

    def begin(self, connection: Connection, head: Head, data: bytes) -> bool:
        """Take a connection with a whole request on it that nobody has looked at, if it may be plain."""
        if head.path not in PATHS or head.credit <= 0 or head in self._refused or not connection.idle(head):
            return False
        return self._lend(connection, head, data)

    def _lend_idle(self, connection: Connection, head: Head, times: int) -> None:
        if connection.idle(head):
            self._lend(connection, head, b"")
        elif times and connection.unsent:  # the answer has not left yet
            self._loop.call_soon(self._lend_idle, connection, head, times - 1)

    def _lend(self, connection: Connection, head: Head, data: bytes) -> bool:
        self._follow()
        known, snapshot = head.known, self._gateway.routes.snapshot
        if known is None or snapshot is None or not known.good():
            return False
        agreed = self._terms.get(id(head))
        if agreed is None or agreed.lent.head is not head or 0 <= agreed.caller.until_ms <= time.time() * 1000:
            agreed = self._agreed(snapshot, head, connection)
        if agreed is None:
            return False
        try:
            fd = connection.detach()
        except OSError:
            return False
        number = self._c.fast_adopt(self._f, fd, agreed.route, ctypes.byref(agreed.caller), data, len(data))
        self._lent[number] = agreed.lent
        if data:
            self._hear(self._turn())
        return True

    def _agreed(self, snapshot: Snapshot, head: Head, connection: Connection) -> Terms | None:
        """On what terms connections with a head are lent; None: they are not."""
        if len(self._terms) + len(self._refused) >= MOST_KNOWN:
            self._terms.clear()
            self._refused.clear()
        lent = terms.plain(self._gateway, snapshot, head, connection.peer)
        route = None if lent is None else self._route(lent)
        if lent is None or route is None:
            self._refused.add(head)
            return None
        made = self._terms[id(head)] = Terms(lent, route, terms.caller_spec(lent, *connection.head_around))
        return made

    def _route(self, lent: Lent) -> int | None:
        """The version as the loop knows it; None when its engine has no numeric address."""
        entity, route, snapshot = lent.entity, lent.route, lent.snapshot
        path = lent.path
        found = self._routes.get((id(entity), route, path))
        if found is not None:
            return found
        place = self._place(entity)
        if place is None:
            return None
        cells, at = self._gateway.meter.cells_of((path, 200, entity.model, entity.version, route, "ok"))
        http = self._gateway.meter.http_cell(path, 200)
        spec = layout.RouteSpec()
        spec.asks, spec.place, spec.named = PATHS[path], place, bool(entity.name)
        if (price := entity.price) is not None:
            spec.priced, spec.price[:] = 1, [price.input, price.cached_input, price.cache_write, price.output]
        spec.demanded = len(snapshot.demands)
        for number, demand in enumerate(snapshot.demands):
            longest = limits.UNBOUNDED_OUTPUT if demand.longest is None else demand.longest
            spec.demands[number] = layout.Demand(
                *(-1 if one is None else one for one in demand._replace(longest=longest))
            )
        spec.cells = layout.Cells(
            cells, http, at.duration, at.first_token, at.overhead, at.input_tokens, at.output_tokens, at.attempts
        )
        first = entity.first_byte_seconds
        spec.first_byte_seconds = first if first < UNLIMITED else math.inf
        spec.connect_seconds = entity.connect_seconds
        names = ["", snapshot.model, f"{snapshot.model}@champion"]
        params = [text for name, raw in entity.template.params.items() for text in (name.encode(), bytes(raw))]
        spec.hold("head", head_of(entity, "chat/completions" if path == CHAT else scoring.BATCH))
        spec.hold("messages", b",".join(bytes(raw) for raw in entity.template.messages))
        spec.hold("row", b"".join(map(pack, (entity.model, entity.version, route))))
        spec.hold("shown", entity.shown[route] + snapshot.disclosed(path))
        spec.hold("version", str(entity.version).encode())
        spec.hold_names([name.encode() for name in names])
        spec.hold_params(params)
        made = self._routes[(id(entity), route, path)] = self._c.fast_route(self._f, ctypes.byref(spec))
        return made

    def _place(self, entity: Entity) -> int | None:
        place = self._places.get((entity.place, entity.address))
        if place is None:
            packed = terms.socket_address(entity.address)
            if packed is None:
                return None
            place = self._places[(entity.place, entity.address)] = self._c.fast_place(self._f, packed, len(packed))
        turnstile = self._gateway.pool.turnstile(entity)
        if not any(one is turnstile for _, one in self._turnstiles):
            self._turnstiles.append((place, turnstile))
        return place

    # Polling

    def _poll(self) -> None:
        something = self._turn()
        if not something and self._others is not None and self._alone():
            something = self._linger(self._others)
        self._hear(something)

    def _turn(self) -> bool:
        """Let the loop do what there is to do; whether it has something to tell then."""
        self._follow()
        self._say()
        something = self._c.fast_poll(self._f)
        self._account()
        return something

    def _linger(self, others: int) -> bool:
        """Let the loop go on while nothing else has to be done; whether it has something to tell then."""
        descriptor = self._c.fast_fd(self._f)
        self._loop.remove_reader(descriptor)
        until = self._ticked + LINGER_SECONDS
        while (found := self._c.fast_linger(self._f, others, until)) == layout.WRITTEN:
            self._account()
            self._say()  # whether the journal still takes anything
        self._account()
        self._loop.add_reader(descriptor, self._poll)
        return found == layout.HANDED

    def _alone(self) -> bool:
        """Whether nothing in Python waits for its turn but what the event loop's descriptor tells of."""
        gateway = self._gateway
        busy = gateway.meter.busy or gateway.shadows.busy or self._returning
        return self._shared.connections > 0 and not busy

    def _account(self) -> None:
        """Let those know whose files were written."""
        shared, journal, ledger = self._shared, self._gateway.journal, self._gateway.ledger
        if shared.written:
            journal.appended(shared.written)
            shared.written = 0
        if shared.blocked == layout.SPOILED:
            journal.spoiled()
        if shared.touched and ledger is not None:
            ledger.changed()
            shared.touched = 0

    def tick(self) -> None:
        """What has to be looked at many times a second: deadlines, the clock, the month of budgets."""
        self._follow()
        self._ticked = time.monotonic()
        if self._shared.date != self._server.date:  # once a second
            self._shared.book.month, self._shared.book.month_ends = terms.month_of(time.time_ns())
        self._shared.date = self._server.date
        self._say()
        self._c.fast_tick(self._f)
        self._hear(True)
        if self._shared.in_flight:
            self._loop.call_soon(self._poll)

    def drain(self) -> None:
        """Answer what is in progress, and nothing more."""
        self._c.fast_drain(self._f)
        self._poll()

    def cut(self) -> None:
        """Stop what is in progress."""
        self._c.fast_cut(self._f)
        self._hear(True)

    def close(self) -> None:
        """Release everything. Nothing may be in progress."""
        self._loop.remove_reader(self._c.fast_fd(self._f))
        self._c.fast_free(self._f)

    def _follow(self) -> None:
        """End the loan of every connection when routes or keys have changed."""
        keys = self._gateway.keys and self._gateway.keys.live
        if self._gateway.routes.snapshot is self._snapshot and keys is self._keys:
            return
        self._snapshot, self._keys = self._gateway.routes.snapshot, keys
        known = (ctypes.c_void_p * max(1, len(self._routes)))(*self._routes.values())
        self._c.fast_change(self._f, known, len(self._routes))
        self._routes.clear()
        self._terms.clear()
        self._refused.clear()
        self._hear(True)
        known_now = self._gateway.pool.turnstiles
        self._turnstiles = [(place, one) for place, one in self._turnstiles if any(one is now for now in known_now)]

    def _say(self) -> None:
        """Tell the loop what it may do now."""
        shared, gateway = self._shared, self._gateway
        shared.blocked = 0
        try:
            shared.journal_fd, shared.journal_size, shared.segment = gateway.journal.lend()
        except OSError:
            shared.blocked = 1
        if gateway.owed:
            shared.blocked = 1
        if gateway.ledger is not None and gateway.ledger.mapped is not self._book:
            self._book = gateway.ledger.mapped
            shared.book.words, shared.book.size, shared.book.fd = gateway.ledger.words()
        for place, turnstile in self._turnstiles:
            self._c.fast_allow(self._f, place, turnstile.spare(), ctypes.byref(self._succeeded))

    def _hear(self, something: bool) -> None:
        """Take over what the loop gives back."""
        while something and (told := self._c.fast_next(self._f)):
            self._take_back(told.contents)
        for place, turnstile in self._turnstiles:
            turnstile.lend(
                self._c.fast_allow(self._f, place, turnstile.spare(), ctypes.byref(self._succeeded)),
                bool(self._succeeded.value),
            )
        self._gateway.journal.settle_lent()
        self._gateway.meter.lent = self._shared.in_flight

    # Taking back

    def _take_back(self, told: layout.Handed) -> None:
        lent = self._lent.pop(told.id)
        head = lent.head
        head.credit = min(MOST_CREDIT, head.credit + EARNED_THERE * told.answered)
        if told.kind == _ENDED:
            return
        if told.kind == _DEMOTED and lent.snapshot is self._snapshot:
            head.credit = max(-LOST, head.credit - LOST)
        sock = socket.socket(fileno=told.fd) if told.fd >= 0 else None
        connection = Connection(self._server)
        connection.peer, connection.early = lent.peer, bytearray()
        row = self._row(lent, told, connection) if told.requested else None
        unread, unsent = told.unread.bytes(), told.unsent.bytes()
        engine = terms.heard_of(lent.entity, told)
        if told.kind in (_CANCELLED, _CUT) or sock is None:
            connection.lost = told.kind == _CANCELLED
            if row is not None:
                self._end(row, engine)
            if sock is not None:
                sock.close()
            return
        returning = self._return(sock, connection, unsent, unread, row, engine, told.kind == _LATE)
        task = self._loop.create_task(returning)
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _return(
        self,
        sock: socket.socket,
        connection: Connection,
        unsent: bytes,
        unread: bytes,
        row: Row | None,
        engine: EngineConnection,
        late: bool,
    ) -> None:
        """Make a connection of the event loop's of what was lent, and go on with what was in progress."""
        try:
            await self._loop.connect_accepted_socket(lambda: connection, sock)
        except OSError:
            connection.lost = True
            sock.close()
            if row is not None:
                self._end(row, engine)
            return
        if connection.lost:  # meanwhile
            if row is not None:
                self._end(row, engine)
            return
        connection.taken_back(unsent, None if row is None else row.exchange)
        if row is not None:
            resume(row, engine, late)
        connection.go_on_reading(unread)

    def _end(self, row: Row, engine: EngineConnection) -> None:
        """Nobody waits for the answer any more."""
        self._server.ended(row.exchange)
        abandon(row, engine)

    def _row(self, lent: Lent, told: layout.Handed, connection: Connection) -> Row:
        """The row of a request in progress, as it would stand here."""
        gateway, entity, caller = self._gateway, lent.entity, lent.caller
        body, request_id = told.body.bytes(), told.request_id.bytes().decode()
        exchange = Exchange(connection, lent.head, body, True, at=told.at, key=lent.key)
        asked = lent.read(body)
        opened = Opened(
            request_id, None, caller.id, caller.requester, entity.model, entity.version, lent.route, lent.path,
            told.at_ms, body, None,
        )  # fmt: skip
        row = Row(
            gateway, exchange, asked, opened, lent.snapshot, entity, lent.route, lent.patience, told.until,
            rows.NOT_COUNTED,
        )  # fmt: skip
        reserved = layout.reserved_of(told.reserved, lent.key) if told.is_reserved else None
        row.admitted = limits.readmitted(lent.key, reserved, told.prompt, told.admitted_ns)
        row.began, row.journal_seconds, row.recorded = told.began, told.journal_seconds, True
        if asked.stream:
            row.relay = asked.tell(request_id, entity)
            row.relay.restore(told.rest.bytes(), terms.usage_of(told), bool(told.done))
            row.sent = [told.sent.bytes()] if told.started else []
        if told.started:
            exchange.started, exchange.status = True, 200
            row.first_byte, row.engine_seconds = told.first_byte, told.engine_seconds
        gateway.journal.hand_back(told.segment, request_id)
        gateway.meter.arrived()
        return row
