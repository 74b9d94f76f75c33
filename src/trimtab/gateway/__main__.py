"""The gateway process: `python -m trimtab.gateway --routes FILE --journal DIR [--host H] [--port P] [--dashboard URL]
[--keys FILE] [--ledger FILE]`.

Prints {"address": "host:port"} on one line when it listens. On SIGTERM, or when the process that holds its standard
input's pipe is gone: stop accepting, finish what is being answered (bounded), close the journal, exit 0.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import signal
import stat
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import uvloop

from trimtab import logs
from trimtab.gateway import fast_path, watching
from trimtab.gateway.answer import follow
from trimtab.gateway.app import answer, left
from trimtab.gateway.deadline import TICK
from trimtab.gateway.fast_path import FastPath
from trimtab.gateway.keys import KeysFile
from trimtab.gateway.ledger import Ledger
from trimtab.gateway.meter import Meter
from trimtab.gateway.pool import Pool
from trimtab.gateway.routes import RoutesFile
from trimtab.gateway.rows import Gateway
from trimtab.gateway.server import Server
from trimtab.gateway.shadow import Shadows
from trimtab.gateway.tls import Certificate
from trimtab.store.journal import Journal

POLL_SECONDS, WATCHED_SECONDS = 0.05, 1.0
"""Between looks at the files that are followed; and where changes are told."""


async def serve(options: argparse.Namespace) -> None:
    """Run until told to stop. Raises OSError when the journal, the address or the certificate cannot be had."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    certificate = Certificate(options.tls_cert, options.tls_key) if options.tls_cert else None
    if certificate is not None:
        loop.add_signal_handler(signal.SIGHUP, certificate.refresh, True)
    gateway = Gateway(
        RoutesFile(options.routes),
        Pool(),
        Journal(options.journal),
        options.journal,
        Shadows(options.journal),
        deadline=options.deadline,
        dashboard=options.dashboard,
        keys=KeysFile(options.keys) if options.keys else None,
        ledger=Ledger(options.ledger) if options.ledger else None,
        meter=Meter(options.metrics, options.worker),
    )
    try:
        follow(gateway)
        server = Server(partial(answer, gateway), partial(left, gateway))
        library = fast_path.load() if certificate is None else None
        fast = None if library is None else FastPath(library, gateway, server)
        following = asyncio.create_task(_follow(gateway, server, certificate, fast))
        tls = certificate and certificate.context
        address = await server.listen(options.host, options.port, tls, options.share_port)
        print(json.dumps({"address": address}), flush=True)
        _stop_with_parent(stopping)
        gc.freeze()  # what lives as long as the process need not be looked at again
        await stopping.wait()
        await server.drain(options.drain)
        following.cancel()
        if fast is not None:
            fast.close()
    finally:
        await gateway.shadows.stop()
        gateway.journal.close()
        if gateway.ledger is not None:
            gateway.ledger.close()


async def _follow(gateway: Gateway, server: Server, certificate: Certificate | None, fast: FastPath | None) -> None:
    keys = [] if gateway.keys is None else [gateway.keys.path]
    changed = asyncio.Event()
    pause = WATCHED_SECONDS if watching.watch([gateway.routes.path, *keys], changed.set) else POLL_SECONDS
    while True:
        changed.clear()
        follow(gateway)
        if fast is not None:
            fast.tick()
        lent = 0 if fast is None else fast.connections
        gateway.meter.sync(len(server.connections) + lent, gateway.journal.written, gateway.journal.refused)
        if certificate is not None:
            certificate.refresh()
        seconds = TICK if fast is not None and fast.unwatched else pause
        with suppress(TimeoutError):
            await asyncio.wait_for(changed.wait(), seconds)


def _stop_with_parent(stopping: asyncio.Event) -> None:
    """A pipe on standard input is held by the process that started this one: its end is that process's end."""
    if not stat.S_ISFIFO(os.fstat(0).st_mode):
        return
    loop = asyncio.get_running_loop()

    def heard() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            stopping.set()

    loop.add_reader(0, heard)


def main() -> None:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(prog="python -m trimtab.gateway", description=__doc__)
    parser.add_argument("--routes", type=Path, required=True, help="routes file, replaced by the supervisor")
    parser.add_argument("--journal", type=Path, required=True, help="folder of the request journal")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080, help="0 takes any free one")
    parser.add_argument("--dashboard", help="URL that / redirects to")
    parser.add_argument("--keys", type=Path, help="file of the live keys, replaced by the supervisor; without: no keys")
    parser.add_argument("--ledger", type=Path, help="file of what keys have used, shared by all gateways")
    parser.add_argument("--deadline", type=float, help="seconds for one answer; default: as the routes file says")
    parser.add_argument("--drain", type=float, default=10.0, help="seconds for answers in progress when stopping")
    parser.add_argument("--worker", type=int, default=0, help="number of this worker among those of the port")
    parser.add_argument("--share-port", action="store_true", help="other workers listen on the same port")
    parser.add_argument("--metrics", type=Path, help="folder where the workers of the port keep their counts")
    parser.add_argument("--tls-cert", type=Path, help="PEM certificate chain; reloaded on SIGHUP and when it changes")
    parser.add_argument("--tls-key", type=Path, help="PEM key of the certificate")
    parser.add_argument("--log-format", choices=["text", "json"], help=f"default: ${logs.VARIABLE}, else text")
    options = parser.parse_args()
    if bool(options.tls_cert) != bool(options.tls_key):
        parser.error("--tls-cert and --tls-key belong together: give both or none")
    logs.configure(options.log_format)
    gc.set_threshold(50_000, 20, 20)
    try:
        uvloop.run(serve(options))
    except OSError as error:
        sys.exit(f"the gateway cannot start: {error}")


if __name__ == "__main__":
    main()
