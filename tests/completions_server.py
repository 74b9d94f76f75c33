"""A model on a port that speaks OpenAI's chat completions; what it says is the test's."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Said = tuple[str, dict[str, Any]]
"""An answer's text, and what its choice has besides."""


class _Server(ThreadingHTTPServer):
    """Takes as many connections at once as an evaluation of a version that votes opens."""

    request_queue_size = 128


@contextmanager
def completions(say: Callable[[dict[str, Any]], Said]) -> Iterator[int]:
    """The port of a model that answers each request, as a dictionary, as `say` does."""

    class Model(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            text, more = say(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "finish_reason": "stop", "message": message, **more}
            usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
            told = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
            body = json.dumps(told | {"choices": [choice], "usage": usage}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a test has no log."""

    server = _Server(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
