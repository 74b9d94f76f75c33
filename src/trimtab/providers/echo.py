"""An engine without a model: llama.cpp's HTTP API on loopback, answering with what it was asked.

It is a real server for real clients, for trying a set-up and for tests that are not about the language model. It
calls the first tool with the text when `tool_choice` demands a call, and embeds a text as the counts of its letters.
Run: python -m trimtab.providers.echo [--delay-ms N] [--chunk-ms N] [--reply TEXT]; prints {"address": …} when ready.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import signal
import struct
from collections.abc import AsyncIterator
from typing import Any

from trimtab import processes


def reply(request: dict[str, Any], fixed: str | None) -> str:
    """The answer: `fixed`, else the first allowed value of each field of a JSON schema, else the last user text."""
    if fixed is not None:
        return fixed
    schema = request.get("response_format", {}).get("json_schema", {}).get("schema")
    if schema:
        values = {name: field.get("enum", [""])[0] for name, field in schema.get("properties", {}).items()}
        return json.dumps(values, separators=(",", ":"))
    texts = [message["content"] for message in request["messages"] if message["role"] == "user"]
    last = texts[-1] if texts else ""
    return last if isinstance(last, str) else "".join(part.get("text") or "" for part in last)


def _completion(text: str, request: dict[str, Any]) -> dict[str, Any]:
    prompt_tokens = sum(len(str(message.get("content", "")).split()) for message in request["messages"])
    count = request.get("n") or 1
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": count * len(text.split())}
    usage["total_tokens"] = sum(usage.values())
    choice: dict[str, Any] = {"finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    if call := _call(text, request):
        choice = {
            "finish_reason": "tool_calls",
            "message": {"role": "assistant", "content": None, "tool_calls": [call]},
        }
    if request.get("logprobs"):
        choice["logprobs"] = {"content": [_logprob(piece) for piece in _pieces(text)]}
    return {
        "id": "chatcmpl-echo",
        "object": "chat.completion",
        "created": 0,
        "model": "echo",
        "choices": [{"index": index, **choice} for index in range(count)],
        "usage": usage,
    }


def _call(text: str, request: dict[str, Any]) -> dict[str, Any] | None:
    if not request.get("tools") or request.get("tool_choice") in (None, "auto", "none"):
        return None
    name = request["tools"][0].get("function", {}).get("name", "")
    function = {"name": name, "arguments": json.dumps({"text": text})}
    return {"id": "call-echo", "type": "function", "function": function}


def _pieces(text: str) -> list[str]:
    return [word if index == 0 else f" {word}" for index, word in enumerate(text.split(" "))]


def _logprob(piece: str) -> dict[str, Any]:
    return {"token": piece, "logprob": 0.0, "bytes": list(piece.encode(errors="replace")), "top_logprobs": []}


def _deltas(choice: dict[str, Any]) -> list[dict[str, Any]]:
    """A choice in pieces: its words with their log-probabilities, or its call's name, then halves of its arguments."""
    if calls := choice["message"].get("tool_calls"):
        arguments = calls[0]["function"]["arguments"]
        halves = arguments[: len(arguments) // 2], arguments[len(arguments) // 2 :]
        first = {"index": 0, **calls[0], "function": calls[0]["function"] | {"arguments": ""}}
        told = [first, *({"index": 0, "function": {"arguments": half}} for half in halves)]
        return [{"delta": {"tool_calls": [call]}} for call in told]
    deltas = [{"delta": {"content": piece}} for piece in _pieces(choice["message"]["content"])]
    if logprobs := choice.get("logprobs"):
        return [d | {"logprobs": {"content": [one]}} for d, one in zip(deltas, logprobs["content"], strict=True)]
    return deltas


async def _chunks(text: str, request: dict[str, Any], pause: float) -> AsyncIterator[bytes]:
    whole = _completion(text, request)
    head = {key: whole[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    for told in zip(*(_deltas(choice) for choice in whole["choices"]), strict=True):
        await asyncio.sleep(pause)
        choices = [{"index": index, "finish_reason": None, **delta} for index, delta in enumerate(told)]
        yield b"data: " + json.dumps(head | {"choices": choices}).encode() + b"\n\n"
    last = [{"index": c["index"], "finish_reason": c["finish_reason"], "delta": {}} for c in whole["choices"]]
    yield b"data: " + json.dumps(head | {"choices": last}).encode() + b"\n\n"
    if request.get("stream_options", {}).get("include_usage"):
        yield b"data: " + json.dumps(head | {"choices": [], "usage": whole["usage"]}).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


def _embeddings(request: dict[str, Any]) -> dict[str, Any]:
    given = request["input"]
    texts = [str(text) for text in ([given] if isinstance(given, str) else given)]
    vectors = [[float(text.count(letter)) for letter in "aeiou"] for text in texts]
    packed = [base64.b64encode(struct.pack("<5f", *vector)).decode() for vector in vectors]
    told = packed if request.get("encoding_format") == "base64" else vectors
    data = [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(told)]
    tokens = sum(len(text.split()) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": "echo", "data": data, "usage": usage}


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
        elif (method, path) == ("POST", "/v1/embeddings") and not options.chat_only:
            writer.write(_response("200 OK", _embeddings(json.loads(body))))
        elif (method, path) == ("POST", "/v1/embeddings"):
            message = "This server does not support embeddings."
            writer.write(_response("501 Not Implemented", {"error": {"message": message, "code": 501}}))
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
    parser.add_argument(
        "--chat-only", action="store_true", help="refuse embeddings, as llama.cpp does with most models"
    )
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
