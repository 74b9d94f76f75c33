"""Azurite: Microsoft's emulator of Azure's blob storage, as a process. Not a test."""

from __future__ import annotations

import base64
import hashlib
import hmac
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's own account: the same on every machine, and no secret."""
INSTALLED = Path(__file__).parents[2] / ".venv" / "azurite" / "node_modules" / ".bin" / "azurite-blob"


def program() -> str | None:
    """Where Azurite is: where `make` puts it, or on the path."""
    return str(INSTALLED) if INSTALLED.exists() else shutil.which("azurite-blob")


@contextmanager
def running(port: int) -> Iterator[str]:
    """Azurite on a port, in memory; its address."""
    found = program()
    assert found is not None
    options = ["--silent", "--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck"]
    with subprocess.Popen([found, "--blobPort", str(port), *options], stdout=subprocess.DEVNULL) as process:
        try:
            while process.poll() is None and not _listens(port):
                time.sleep(0.05)
            assert process.poll() is None, "Azurite ended"
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def make_container(address: str, name: str) -> None:
    """Create a container (Put Blob's REST API, Shared Key authorization)."""
    now = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    headers = f"x-ms-date:{now}\nx-ms-version:2021-12-02"
    text = f"PUT\n\n\n\n\n\n\n\n\n\n\n\n{headers}\n/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    signature = base64.b64encode(hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()
    request = urllib.request.Request(  # noqa: S310 (our own port)
        f"{address}/{ACCOUNT}/{name}?restype=container",
        method="PUT",
        headers={
            "x-ms-date": now,
            "x-ms-version": "2021-12-02",
            "Authorization": f"SharedKey {ACCOUNT}:{signature}",
            "Content-Length": "0",
        },
    )
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        assert answer.status == 201


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
