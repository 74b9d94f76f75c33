"""Plain HTTP, a new connection for each request: httpx's own functions read all certificates first, 30 ms each time."""

from __future__ import annotations

import ssl

import httpx

_client = httpx.Client(
    verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # which trusts nobody
    limits=httpx.Limits(max_keepalive_connections=0),
)
get, post, request = _client.get, _client.post, _client.request
