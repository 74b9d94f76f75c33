"""An engine without a model: llama.cpp's HTTP API on loopback, answering with what it was asked.

It is a real server for real clients, for trying a set-up and for tests that are not about the language model.
Run: python -m trimtab.providers.echo [--delay-ms N] [--chunk-ms N] [--reply TEXT]; prints {"address": …} when ready.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

from trimtab import processes


def reply(request: dict[str, Any], fixed: str | None) -> str:
    """The answer: `fixed`, else the first allowed value of each field of a JSON schema, else the last user text."""
    if fixed is not None:
        return fixed
    schema = request.get("response_format", {}).get("json_schema", {}).get("schema")
    if schema:
        values = {name: field["enum"][0] for name, field in schema["properties"].items()}
        return json.dumps(values, separators=(",", ":"))
    texts = [message["content"] for message in request["messages"] if message["role"] == "user"]
    last = texts[-1] if texts else ""
    return last if isinstance(last, str) else "".join(part.get("text", "") for part in last)


def _completion(text: str, request: dict[str, Any]) -> dict[str, Any]:
    prompt_tokens = sum(len(str(message.get("content", "")).split()) for message in request["messages"])
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": len(text.split())}
    usage["total_tokens"] = sum(usage.values())
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return {
        "id": "chatcmpl-echo",
        "object": "chat.completion",
        "created": 0,
        "model": "echo",
        "choices": [choice],
        "usage": usage,
    }


async def _chunks(text: str, request: dict[str, Any], pause: float) -> AsyncIterator[bytes]:
    whole = _completion(text, request)
    head = {key: whole[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    words = text.split(" ")
    pieces = [word if i == 0 else f" {word}" for i, word in enumerate(words)]
    for piece in pieces:
        await asyncio.sleep(pause)
        choice = {"index": 0, "finish_reason": None, "delta": {"content": piece}}
        yield b"data: " + json.dumps(head | {"choices": [choice]}).encode() + b"\n\n"
    last = {"index": 0, "finish_reason": "stop", "delta": {}}
    yield b"data: " + json.dumps(head | {"choices": [last]}).encode() + b"\n\n"
    if request.get("stream_options", {}).get("include_usage"):
        yield b"data: " + json.dumps(head | {"choices": [], "usage": whole["usage"]}).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


async def _read(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes] | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head.split("\r\n")
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
    }
    method, path, _ = first.split(" ", 2)
    return method, path, headers, await reader.readexactly(int(headers.get("content-length", "0")))


def _response(status: str, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data


async def _serve(options: argparse.Namespace, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    key = os.environ.get("TRIMTAB_ENGINE_KEY")
    while (asked := await _read(reader)) is not None:
        method, path, headers, body = asked
        if method == "GET" and path == "/health":
            writer.write(_response("200 OK", {"status": "ok"}))
        elif key and headers.get("authorization") != f"Bearer {key}":
            writer.write(_response("401 Unauthorized", {"error": {"message": "Invalid API Key", "code": 401}}))
        elif (method, path) != ("POST", "/v1/chat/completions"):
            writer.write(_response("404 Not Found", {"error": {"message": "File Not Found", "code": 404}}))
        else:
            await _answer(options, json.loads(body), writer)
        await writer.drain()
    writer.close()


async def _answer(options: argparse.Namespace, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(options.delay_ms / 1000)
    text = reply(request, options.reply)
    if not request.get("stream"):
        writer.write(_response("200 OK", _completion(text, request)))
        return
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    async for chunk in _chunks(text, request, options.chunk_ms / 1000):
        writer.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        await writer.drain()
    writer.write(b"0\r\n\r\n")


async def _main(options: argparse.Namespace) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _serve(options, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", options.port)
    host, port = server.sockets[0].getsockname()[:2]
    print(json.dumps({"address": f"{host}:{port}"}), flush=True)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await stopping.wait()
    server.close()


def main() -> None:
    """Entry point of the process."""
    processes.exit_with_parent()
    parser = argparse.ArgumentParser(prog="python -m trimtab.providers.echo", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay-ms", type=float, default=0, help="wait before each answer")
    parser.add_argument("--chunk-ms", type=float, default=0, help="wait before each streamed word")
    parser.add_argument("--reply", default=None, help="always answer this")
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
