"""An engine that answers byte for byte as a script says, and a client that keeps one connection and its bytes."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

Deed = Callable[[socket.socket], bool]
"""Answers one request on a connection; returns whether the connection goes on."""

USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13, "prompt_tokens_details": {"cached_tokens": 2}}
ANSWER = {
    "id": "a",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": 'Ya "grüß" \U0001f600\n'}}],
    "usage": USAGE,
}


def plain(body: bytes | dict[str, object], status: int = 200, headers: bytes = b"", cut: int = 0) -> Deed:
    """An answer of known length, perhaps in two pieces."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    whole = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n%b"
    return pieces(whole % (status, headers, len(data), data), cut)


def event(payload: dict[str, object] | str) -> bytes:
    return b"data: %b\n\n" % (payload if isinstance(payload, str) else json.dumps(payload)).encode()


def word(text: str | None, **more: object) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": text}}], **more})


def stream(*events: bytes, cut: int = 0, end: bytes = b"0\r\n\r\n", pause: float = 0.002) -> Deed:
    """A stream, each event in a chunk of its own; `cut` breaks the bytes of the connection elsewhere."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return pieces(head + b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in events) + end, cut, end == b"", pause)


def pieces(whole: bytes, cut: int = 0, closes: bool = False, pause: float = 0.002) -> Deed:
    """These bytes, in pieces of `cut` with pauses (seconds) between them."""

    def deed(connection: socket.socket) -> bool:
        step = cut or max(1, len(whole))
        for at in range(0, len(whole), step):
            connection.sendall(whole[at : at + step])
            if cut:
                time.sleep(pause)
        return not closes

    return deed


class Engine:
    """Does the deed that the last message names; `plain` else."""

    def __init__(self, deeds: dict[str, Deed]) -> None:
        self.deeds, self.heard = deeds, list[bytes]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            for path, body in _requests(connection):
                self.heard.append(body)
                if not self.answer(connection, path, body):
                    return

    def answer(self, connection: socket.socket, path: str, body: bytes) -> bool:
        """Answer one request; returns whether the connection goes on."""
        said = json.loads(body)["messages"][-1]["content"]
        return self.deeds.get(said if isinstance(said, str) else "", self.deeds["plain"])(connection)


def _requests(connection: socket.socket) -> Iterator[tuple[str, bytes]]:
    data = b""
    while True:
        head, found, rest = data.partition(b"\r\n\r\n")
        size = re.search(rb"content-length: (\d+)", head)
        if found and size and len(rest) >= int(size.group(1)):
            yield head.split()[1].decode(), rest[: int(size.group(1))]
            data = rest[int(size.group(1)) :]
        elif more := connection.recv(65536):
            data += more
        else:
            return


class Client:
    """One connection to a gateway, whose requests all have the same head but for its length."""

    def __init__(self, url: str, headers: str = "", path: str = "/v1/chat/completions") -> None:
        self.path, self.host = path, url.removeprefix("http://")
        host, _, port = self.host.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), 20)
        self.headers, self._rest = headers, b""

    def request(self, body: bytes) -> bytes:
        head = f"POST {self.path} HTTP/1.1\r\nhost: {self.host}\r\n{self.headers}content-type: application/json"
        return f"{head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body

    def send(self, body: bytes) -> None:
        self.socket.sendall(self.request(body))

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers, body without its framing. What is cut ends with `<cut>`."""
        head = self._until(b"\r\n\r\n")
        if not head:
            return 0, {}, b"<closed>"
        lines = head.decode("latin-1").split("\r\n")
        headers = {name: value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
        if "content-length" in headers:
            return int(lines[0].split()[1]), headers, self._exactly(int(headers["content-length"]))
        body = b""
        while size := self._until(b"\r\n"):
            piece = self._exactly(int(size, 16) + 2)
            if size == b"0\r\n":
                return int(lines[0].split()[1]), headers, body
            body += piece[:-2]
        return int(lines[0].split()[1]), headers, body + b"<cut>"

    def asks(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        self.send(body)
        return self.answer()

    def close(self) -> None:
        self.socket.close()

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._rest:
            if not self._more():
                return b""
        found, _, self._rest = self._rest.partition(mark)
        return found + mark

    def _exactly(self, size: int) -> bytes:
        while len(self._rest) < size and self._more():
            pass
        found, self._rest = self._rest[:size], self._rest[size:]
        return found

    def _more(self) -> bool:
        try:
            more = self.socket.recv(65536)
        except ConnectionError:
            more = b""
        self._rest += more
        return bool(more)
