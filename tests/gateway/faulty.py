"""A server of chat completions that does as it is told: answers, refuses, hangs, resets, cuts a stream; TLS too."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Deed = str | tuple[int, dict[str, str], str] | tuple[int, dict[str, str], str, dict[str, int]]
"""ok, odd (tokens, and no answer), hang, reset, cut (a stream after its first event), early (a stream before it); or
status, headers, message and perhaps tokens."""


@dataclass
class Heard:
    """One request as it came."""

    path: str
    headers: Message
    body: dict[str, Any]
    at: float = field(default_factory=time.monotonic)


class Faulty:
    """Does one deed of the script for each request, then `then` for ever. `free` lets the hanging ones answer."""

    def __init__(self, *script: Deed, then: Deed = "ok", tls: ssl.SSLContext | None = None) -> None:
        self.script, self.then, self.heard = list(script), then, list[Heard]()
        self.free, self._lock = threading.Event(), threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(handler) -> None:
                self._hear(handler)

            def log_message(handler, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # a client that hangs up is part of the play
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_address[1]
        self.address = f"127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        self.free.set()
        self.server.shutdown()
        self.server.server_close()

    def _hear(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self._lock:
            self.heard.append(Heard(handler.path, handler.headers, body))
            deed = self.script.pop(0) if self.script else self.then
        if deed == "hang":
            self.free.wait()
            deed = "ok"
        if isinstance(deed, tuple):
            usage = {"usage": deed[3]} if len(deed) == 4 else {}
            _send(handler, deed[0], deed[1], {"error": {"message": deed[2]}} | usage)
        elif deed == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
            handler.close_connection = True
        elif deed in ("cut", "early"):
            _begin_stream(handler, events=deed == "cut")
        else:
            message = {"role": "assistant", "content": "fine"}
            usage = {"prompt_tokens": 3, "completion_tokens": 1}
            choices = [{"index": 0, "message": message}] if deed == "ok" else []
            _send(handler, 200, {}, {"choices": choices, "usage": usage})


def _send(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    with suppress(OSError):
        handler.send_response(status)
        for name, value in {**headers, "content-type": "application/json", "content-length": str(len(data))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)


def _begin_stream(handler: BaseHTTPRequestHandler, events: bool) -> None:
    handler.send_response(200)
    handler.send_header("content-type", "text/event-stream")
    handler.send_header("transfer-encoding", "chunked")
    handler.end_headers()
    if events:
        event = b'data: {"choices":[{"index":0,"delta":{"content":"half"}}]}\n\n'
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
    handler.close_connection = True


def hosted(server: Faulty, version: int = 1, **more: Any) -> dict[str, Any]:
    """A served entity at a provider, as the supervisor writes it."""
    template = {"messages": [], "params": {"model": "gpt-x", "max_completion_tokens": 9}}
    where = {"address": server.address, "name": f"far:{version}", "api_key": "sk-very-secret", "path": "/v1"}
    return {"model": "m", "version": version, "template": template} | where | more
