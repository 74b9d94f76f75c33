"""Who may talk to the control process: a page of its own, and programs on this machine. Nothing else is let through.

A browser sends requests for any page it has open. So a name that is not ours is refused (DNS rebinding), a page from
elsewhere may not open the live connection nor change anything (cross-site requests), and none may frame ours.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trimtab.settings import Settings


class Guard:
    """ASGI middleware; HTTP and WebSocket alike."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._host = app, settings.host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with 403 and the reason."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        problem = fault(Headers(scope=scope), self._host, scope.get("method", "GET"), scope["type"] == "websocket")
        if problem is None:
            await self._app(scope, receive, _unframed(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": problem})
        else:
            await PlainTextResponse(f"{problem}\n", 403)(scope, receive, send)


def fault(headers: Headers, served: str, method: str, live: bool) -> str | None:
    """Why a request is refused, or None. `served` is the address we listen on, `live` says it is a WebSocket."""
    host = headers.get("host", "")
    name = urlsplit(f"//{host}").hostname or ""
    if not _is_ours(name, served):
        return f"this is not {name or 'a host without a name'}: use http://127.0.0.1 or the address in TRIMTAB_HOST"
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host and (live or method not in ("GET", "HEAD", "OPTIONS")):
        return f"pages of {origin} may not do this"
    return None


def _is_ours(name: str, served: str) -> bool:
    """A name that no stranger's DNS can point at us: ours, localhost, or an address that we listen on."""
    if name in ("localhost", served):
        return True
    try:
        address = ipaddress.ip_address(name)
        return address.is_loopback or ipaddress.ip_address(served).is_unspecified
    except ValueError:
        return False


def _unframed(send: Send) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["content-security-policy"] = "frame-ancestors 'none'"
        await send(message)

    return with_headers
