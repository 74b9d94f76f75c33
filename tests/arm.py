"""Azure Resource Manager at the HTTP border: Microsoft's own client talks to it; it records and plays deployments."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
import urllib3
from azure.core.credentials import AccessToken
from azure.core.pipeline.transport import RequestsTransport  # pyright: ignore[reportAttributeAccessIssue]
from azure.mgmt.cognitiveservices import CognitiveServicesManagementClient

TOKEN = "entra-token-of-the-test"
ACCOUNT = "/subscriptions/sub-1/resourceGroups/rg-1/providers/Microsoft.CognitiveServices/accounts/acct-1"


class Login:
    """A credential of azure-core's protocol."""

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        assert scopes == ("https://management.azure.com/.default",)
        return AccessToken(TOKEN, 4_000_000_000)


class Arm(requests.adapters.BaseAdapter):
    """Deployments by path. One that is new is Creating, and Succeeded once it was looked at twice.

    One that is deleted is gone once its operation was looked at (202 with Location, as ARM's long-running ones do).
    """

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[str, str, Any]] = []
        self.deployments: dict[str, dict[str, Any]] = {}
        self.looks: dict[str, int] = {}
        self.faults: list[int] = []
        """Statuses to answer with before anything else."""

    def send(self, request: requests.PreparedRequest, **_: Any) -> requests.Response:
        path = str(request.path_url).partition("?")[0]
        body = json.loads(request.body) if request.body else None
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        self.heard.append((str(request.method), path, body))
        if self.faults:
            return _response(request, self.faults.pop(0), {"error": {"code": "Fault", "message": "as the test says"}})
        if request.method == "PUT":
            self.looks[path] = 0
            self.deployments[path] = {"id": path, "name": path.rpartition("/")[2], **body}
            return _response(request, 201, self._as_it_is(path))
        if path.startswith("/operations"):
            return _response(request, 204, None)
        if request.method == "DELETE":
            there = self.deployments.pop(path, None)
            accepted = _response(request, 202 if there else 204, None)
            accepted.headers["location"] = f"https://management.azure.com/operations{path}"
            return accepted
        if path not in self.deployments:
            return _response(request, 404, {"error": {"code": "ResourceNotFound", "message": "no such deployment"}})
        self.looks[path] += 1
        return _response(request, 200, self._as_it_is(path))

    def close(self) -> None:
        pass

    def puts(self) -> list[tuple[str, Any]]:
        """What was put: path, body."""
        return [(path, body) for method, path, body in self.heard if method == "PUT"]

    def deletes(self) -> list[str]:
        """Names of the deployments that were to be deleted, in order."""
        return [path.rpartition("/")[2] for method, path, _ in self.heard if method == "DELETE"]

    def _as_it_is(self, path: str) -> dict[str, Any]:
        there = self.deployments[path]
        state = "Succeeded" if self.looks[path] >= 2 else "Creating"
        return there | {"properties": there["properties"] | {"provisioningState": state}}

    @contextmanager
    def client(self) -> Iterator[CognitiveServicesManagementClient]:
        """Microsoft's client, whose requests end here."""
        with requests.Session() as session:
            session.mount("https://management.azure.com", self)
            transport = RequestsTransport(session=session, session_owner=False)
            with CognitiveServicesManagementClient(Login(), "sub-1", transport=transport, retry_total=0) as client:
                yield client


def _response(request: requests.PreparedRequest, status: int, body: Any) -> requests.Response:
    response = requests.Response()
    response.status_code, response.url, response.request = status, str(request.url), request
    response.headers["content-type"] = "application/json"
    content = b"" if body is None else json.dumps(body).encode()
    response.raw = urllib3.HTTPResponse(io.BytesIO(content), preload_content=False)
    return response
