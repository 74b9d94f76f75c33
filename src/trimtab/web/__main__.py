"""The control process: `python -m trimtab.web --project FOLDER [--open] [--page-only]`.

It keeps the loop turning (drain, monitors, cycles, schedule) and serves the dashboard and the control API. Prints
{"address": "host:port"} on one line when it listens; what it has to say after that goes to standard error. On SIGTERM,
or when the process that started it is gone, it ends with 0: a cycle in progress resumes at the next start.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from trimtab import logs, processes, project, settings
from trimtab.errors import TrimtabError
from trimtab.lifecycle import loop
from trimtab.store.control import Control
from trimtab.store.lake import Lake
from trimtab.web import api, page
from trimtab.web.guard import Guard
from trimtab.web.place import Place


def main() -> None:
    """Entry point of the process."""
    processes.exit_with_parent()
    os.nice(5)  # monitors and cycles do not take a core from what answers
    parser = argparse.ArgumentParser(prog="python -m trimtab.web", description=__doc__)
    parser.add_argument("--project", type=Path, required=True, help="folder of trimtab.yaml")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument("--page-only", action="store_true", help="only look: no drain, no monitors, no cycles")
    options = parser.parse_args()
    logs.configure()
    for name in ("apscheduler", "httpx", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for number in (signal.SIGTERM, signal.SIGINT):  # the server stops on these, and then raises them once more
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        where, loaded = settings.load(options.project), project.load(options.project)
        listening = socket.create_server((where.host, where.dashboard_port))
    except (TrimtabError, OSError) as error:
        sys.exit(f"the control process cannot start: {error}")
    place = Place(where, loaded, Control(where), Lake(where))
    serve(place, listening, run_loop=not options.page_only, open_browser=options.open)


def serve(place: Place, listening: socket.socket, *, run_loop: bool, open_browser: bool) -> None:
    """Serve on a listening socket until told to stop."""
    address = "{}:{}".format(*listening.getsockname()[:2])

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        stop = loop.start(place.settings, place.loaded) if run_loop else None
        _announce(address)
        if open_browser:
            threading.Thread(target=webbrowser.open, args=(f"http://{address}",), daemon=True).start()
        yield
        if stop:
            stop()

    # FastAPI's own pages of documentation would load their scripts from a CDN.
    app = FastAPI(title="Trimtab", lifespan=running, docs_url=None, redoc_url=None)
    api.add(app, place)
    page.mount(app, place)
    app.add_middleware(Guard, settings=place.settings)
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=3)
    uvicorn.Server(config).run([listening])


def _announce(address: str) -> None:
    """Say that we listen. Nobody reads this pipe any further, so what libraries print must go elsewhere."""
    print(json.dumps({"address": address}), flush=True)
    os.dup2(2, 1)


if __name__ == "__main__":
    main()
