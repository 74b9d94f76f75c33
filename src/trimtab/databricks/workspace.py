"""The door to a workspace: databricks-sdk's own client, with every write on a Wire."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.config import Config
from databricks.sdk.errors import NotFound

from trimtab import __version__
from trimtab.databricks import faults
from trimtab.databricks.wire import Request, Wire, blotted
from trimtab.records.databricks import DatabricksTarget

DISCOVERY_SECONDS = 3
"""How long databricks-sdk tries to find out about a host before it goes on without."""

RETRY_SECONDS = 300
"""How long databricks-sdk tries again on 429, 503 and broken connections before it gives up."""


def connect(target: DatabricksTarget, wire: Wire, **config: Any) -> WorkspaceClient:
    """A client of the workspace that the file and the environment name. Raises WorkspaceError without a login.

    `config` goes to databricks-sdk's Config, over what the file says.
    """
    logging.getLogger("databricks.sdk").setLevel(logging.ERROR)  # what matters arrives as an error
    given = {"profile": target.profile, "host": target.host, "retry_timeout_seconds": DISCOVERY_SECONDS} | config
    with faults.translated("logging in to the workspace"):
        settings = Config(product="trimtab", product_version=__version__, **{k: v for k, v in given.items() if v})
        requests.head(f"{settings.host}/.well-known/databricks-config", timeout=20)  # the SDK would try for minutes
        settings.retry_timeout_seconds = RETRY_SECONDS
        settings.files_ext_multipart_upload_max_retries = 0
        client = WorkspaceClient(config=settings)
    send = client.api_client.do

    def do(method: str, path: str | None = None, url: str | None = None, **more: Any) -> Any:
        if method not in ("GET", "HEAD"):
            wire.write(Request(method, path or urlsplit(url or "").path, _carried(more)))
        return send(method, path, url, **more)

    client.api_client.do = do  # pyright: ignore[reportAttributeAccessIssue] (of this one instance)
    return client


@contextmanager
def whole_parts() -> Iterator[None]:
    """While the body runs, no client of this process uploads a file by halves.

    databricks-sdk 0.156 sends a part whose address expired again, from where it stopped reading: empty. Without that
    second try the upload is aborted and ends in an error. (Our own client is told so in `connect`; this is MLflow's.)
    """
    before = Config.files_ext_multipart_upload_max_retries
    Config.files_ext_multipart_upload_max_retries = 0
    try:
        yield
    finally:
        Config.files_ext_multipart_upload_max_retries = before


def found(read: Callable[[], Any]) -> dict[str, Any] | None:
    """What a read of databricks-sdk gives, as the API's JSON; None when it is not there."""
    try:
        return read().as_dict()
    except NotFound:
        return None


def _carried(more: dict[str, Any]) -> Any:
    if more.get("body") is not None:
        return blotted(more["body"])
    if more.get("data") is not None:
        data = more["data"]
        at = data.tell()
        size = data.seek(0, 2)
        data.seek(at)
        return f"{size} bytes"
    return blotted(more["query"]) if more.get("query") else None
