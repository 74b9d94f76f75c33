"""How each server of the comparison is started, and how it wants to be asked.

Peers are installed into folders of their own under build/peers on first use; what cannot be had is left out, and the
report says so.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measure import BUILD, CORES, LOAD_CORE, SERVER_CORE, pinned

PEERS = BUILD / "peers"
TEXT = (
    "My parcel was meant to arrive on Monday and the tracking page has not moved since Thursday. I have asked the "
    "carrier twice and got no answer. Could you please find out where it is, and tell me whether I can still change "
    "the address to my office, since nobody will be at home this week? %s"
)


class Absent(Exception):
    """A peer that is not to be had on this machine."""


@dataclass
class Server:
    """A server that runs. `headers` and `model` are what it wants to be asked with."""

    name: str
    process: subprocess.Popen[bytes]
    address: str
    path: str = "/v1/chat/completions"
    model: str = "mock"
    headers: dict[str, str] = field(default_factory=dict)
    version: str = ""

    def request(self, words: str = "", stream: bool = False) -> bytes:
        """One whole request: about half a kilobyte of chat."""
        messages = [{"role": "user", "content": TEXT % words}]
        body = json.dumps({"model": self.model, "messages": messages, "max_tokens": 128, "stream": stream}).encode()
        lines = [f"POST {self.path} HTTP/1.1", f"host: {self.address}", "content-type: application/json"]
        lines += [f"content-length: {len(body)}", *(f"{name}: {value}" for name, value in self.headers.items())]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def stop(self) -> None:
        """End it and what it started."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


Start = Callable[[str, Path], Server]
"""Takes the upstream's address and an empty folder; raises Absent."""


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def spawn(command: list[str], folder: Path, core: int | None = SERVER_CORE, env: dict[str, str] | None = None) -> Any:
    """Start a process on one core, or on all. What it says is in `log` in its own folder; ours end with us."""
    with pinned(*(CORES if core is None else [core])), (folder / "log").open("ab") as log:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env={**os.environ, **(env or {})}
        )


def announced(process: subprocess.Popen[bytes], folder: Path, seconds: float = 60) -> str:
    """The address in the JSON line that a server says when it is ready. Raises Absent when it says none."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        for line in (folder / "log").read_text(errors="replace").splitlines():
            if line.startswith('{"address"'):
                return str(json.loads(line)["address"])
        time.sleep(0.02)
    raise _did_not_start(process, folder)


def listening(process: subprocess.Popen[bytes], address: str, folder: Path, seconds: float = 120) -> None:
    """Wait until a server accepts. Raises Absent when it ends or takes too long."""
    host, _, port = address.rpartition(":")
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection((host, int(port)), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise _did_not_start(process, folder)


def _did_not_start(process: subprocess.Popen[bytes], folder: Path) -> Absent:
    process.kill()
    process.wait()
    tail = (folder / "log").read_text(errors="replace")[-300:]
    return Absent(f"did not start: {' '.join(tail.split())}")


def mock(folder: Path) -> Server:
    """The upstream, beside the load generator."""
    process = spawn([str(BUILD / "mock")], folder, LOAD_CORE)
    return Server("direct", process, announced(process, folder))


# Ours


SECRET = "tt-" + "0b" * 6 + "-" + "5e" * 24


def gateway(
    name: str,
    upstream: str,
    folder: Path,
    champion: dict[str, Any],
    more: dict[str, Any],
    options: Sequence[str] = (),
    env: dict[str, str] | None = None,
) -> Server:
    """One gateway that asks for a key. `champion` is added to its route, `more` to the key, `options` to the command.

    What it logs is in a folder of its own below `folder`, so that several can share the rest.
    """
    entity = {"model": "mock", "version": 1, "address": upstream, "template": {}} | champion
    routes: dict[str, Any] = {"model": "mock", "revision": "1", "champion": entity}
    if more:
        routes |= {"canary": entity | {"version": 2}, "canary_percent": 10.0}
    hashed = hashlib.sha256(SECRET.encode()).hexdigest()
    key = {
        "id": f"key-{SECRET[3:15]}",
        "slot": 0,
        "scopes": ["predict"],
        "sha256": [hashed],
        "until_ms": [None],
        **more,
    }
    (folder / "routes.json").write_text(json.dumps(routes))
    (folder / "keys.json").write_text(json.dumps({"keys": [key]}))
    command = [sys.executable, "-m", "trimtab.gateway", "--port", "0", "--journal", str(folder / "journal")]
    command += ["--routes", str(folder / "routes.json"), "--keys", str(folder / "keys.json")]
    command += ["--ledger", str(folder / "ledger.bin"), "--metrics", str(folder / "metrics")]
    own = folder / f"worker-{len(list(folder.glob('worker-*')))}"
    own.mkdir()
    process = spawn([*command, *options], own, env=env)
    headers = {"authorization": f"Bearer {SECRET}", "x-trimtab-caller": "benchmark"}
    return Server(name, process, announced(process, own), headers=headers, version="this tree")


def trimtab_relay(upstream: str, folder: Path) -> Server:
    """A key, one version, the journal: nothing is added to what the client said."""
    return gateway("trimtab relay", upstream, folder, {}, {})


def trimtab_full(upstream: str, folder: Path, options: Sequence[str] = (), env: dict[str, str] | None = None) -> Server:
    """Everything that a project's request goes through: a key with a rate and a budget, prompt and decoding of the
    version, canary split, retries and breaker armed, journal, price, metrics."""
    prompt = [{"role": "system", "content": "You answer customers of a shop. Be brief, be kind, promise nothing."}]
    price = {"input": 100, "cached_input": 10, "cache_write": 120, "output": 400}
    champion = {"template": {"messages": prompt, "params": {"temperature": 0, "max_tokens": 64}}, "price": price}
    limits = {"requests": {"count": 10**9, "seconds": 60}, "budgets": [{"nano_usd": 10**18, "per": "day"}]}
    return gateway("trimtab full", upstream, folder, champion, limits, options, env)


# Peers


def nginx(upstream: str, folder: Path) -> Server:
    """The yardstick: one worker, proxy_pass over kept-alive connections, no buffering of answers, no log."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise Absent("nginx is not installed: apt-get install nginx-light")
    port = free_port()
    (folder / "nginx.conf").write_text(f"""
user {os.environ.get("USER", "root")};
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; keepalive_requests 100000000;
  upstream mock {{ server {upstream}; keepalive 64; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} reuseport;
    location / {{
      proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
""")
    process = spawn([program, "-p", str(folder), "-c", str(folder / "nginx.conf")], folder)
    listening(process, f"127.0.0.1:{port}", folder)
    version = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr
    return Server("nginx", process, f"127.0.0.1:{port}", version=version.strip().rpartition("/")[2])


def _python(name: str, package: str, version: str) -> Path:
    """The bin folder of a virtual environment that holds a package."""
    place = PEERS / name
    if not (place / ".done").exists():
        print(f"installing {package} {version} (only the first time)", flush=True)
        pip = [str(place / "bin" / "python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        try:
            subprocess.run([sys.executable, "-m", "venv", str(place)], check=True, capture_output=True)
            subprocess.run([*pip, f"{package}=={version}"], check=True, capture_output=True)
        except subprocess.CalledProcessError as error:
            raise Absent(f"{package} {version} cannot be installed: {error.stderr.decode()[-200:]}") from error
        (place / ".done").touch()
    return place / "bin"


def vllm_router(upstream: str, folder: Path) -> Server:
    """vLLM's router, in Rust."""
    place, port = _python("vllm-router", "vllm-router", "0.1.17"), free_port()
    command = [str(place / "vllm-router"), "--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    command += ["--worker-urls", f"http://{upstream}", "--policy", "round_robin", "--prometheus-port", str(free_port())]
    process = spawn(command, folder)
    listening(process, f"127.0.0.1:{port}", folder)
    return Server("vllm-router", process, f"127.0.0.1:{port}", version="0.1.17")


def tensorzero(upstream: str, folder: Path) -> Server:
    """TensorZero's gateway, in Rust, with its observability off."""
    place = _python("tensorzero", "tensorzero", "2026.6.0")
    (folder / "tensorzero.toml").write_text(f"""
[gateway]
observability.enabled = false
[models.mock]
routing = ["mock"]
[models.mock.providers.mock]
type = "openai"
model_name = "mock"
api_base = "http://{upstream}/v1/"
api_key_location = "none"
""")
    code = (
        "import json, sys, tensorzero\n"
        "gateway = tensorzero._start_http_gateway(config_file=sys.argv[1], clickhouse_url=None, postgres_url=None,"
        " valkey_url=None, async_setup=False)\n"
        "print(json.dumps({'address': gateway.base_url.split('/')[2]}), flush=True)\n"
        "sys.stdin.read()"
    )
    process = spawn([str(place / "python"), "-c", code, str(folder / "tensorzero.toml")], folder)
    address = announced(process, folder).replace("0.0.0.0", "127.0.0.1")  # noqa: S104 (what it says, not what we bind)
    path, model = "/openai/v1/chat/completions", "tensorzero::model_name::mock"
    return Server("TensorZero", process, address, path, model, version="2026.6.0")


def litellm(upstream: str, folder: Path) -> Server:
    """LiteLLM's proxy with a master key and no database."""
    place, port = _python("litellm", "litellm[proxy]", "1.106.2"), free_port()
    settings = {"model": "openai/mock", "api_base": f"http://{upstream}/v1", "api_key": "none"}
    config = {"model_list": [{"model_name": "mock", "litellm_params": settings}]}
    (folder / "config.yaml").write_text(json.dumps(config | {"general_settings": {"master_key": "sk-benchmark"}}))
    command = [str(place / "litellm"), "--config", str(folder / "config.yaml")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    env = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PATH": f"{place}:{os.environ['PATH']}"}
    process = spawn(command, folder, env=env)
    listening(process, f"127.0.0.1:{port}", folder)
    headers = {"authorization": "Bearer sk-benchmark"}
    return Server("LiteLLM", process, f"127.0.0.1:{port}", headers=headers, version="1.106.2")


def portkey(upstream: str, folder: Path) -> Server:
    """Portkey's gateway on Node, told by headers where to go.

    On Node 20 its streams fail ("immutable": it writes into the headers of a fetched response), so a module loaded
    before it hands out responses whose headers may be written.
    """
    place, port = PEERS / "portkey", free_port()
    if shutil.which("npm") is None:
        raise Absent("there is no npm here")
    if not (place / ".done").exists():
        print("installing @portkey-ai/gateway 1.15.2 (only the first time)", flush=True)
        place.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "@portkey-ai/gateway@1.15.2"]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Absent(f"Portkey cannot be installed: {done.stderr[-200:]}")
        (place / ".done").touch()
    shim = folder / "mutable.mjs"
    shim.write_text(
        "const fetched = globalThis.fetch;\n"
        "globalThis.fetch = async (...asked) => {\n"
        "  const answer = await fetched(...asked);\n"
        "  return new Response(answer.body, answer);\n"
        "};\n"
    )
    program = place / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    command = ["node", "--import", str(shim), str(program), f"--port={port}", "--headless"]
    process = spawn(command, folder, env={"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"})
    listening(process, f"127.0.0.1:{port}", folder)
    host = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"http://{upstream}/v1"}
    headers = {"authorization": "Bearer none", **host}
    return Server("Portkey", process, f"127.0.0.1:{port}", headers=headers, version="1.15.2")


_LOOPBACK = {"ALLOWED_SCHEMES": "http,https", "ALLOW_PRIVATE_IPS": "true"}
"""What MLflow's gateway is told so that it asks an upstream on this machine."""


def mlflow_gateway(upstream: str, folder: Path) -> Server:
    """MLflow's AI Gateway as its server has it, with its default tracking of usage, one worker, SQLite."""
    port, database = free_port(), f"sqlite:///{folder}/mlflow.db"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", database, "--default-artifact-root", str(folder / "artifacts")]
    allowed = {f"MLFLOW_GATEWAY_API_BASE_{name}": value for name, value in _LOOPBACK.items()}
    process = spawn(command, folder, env={"MLFLOW_CRYPTO_KEK_PASSPHRASE": "benchmark", **allowed})
    address = f"127.0.0.1:{port}"
    listening(process, address, folder)

    def create(what: str, found: str, **fields: Any) -> str:
        body = json.dumps(fields).encode()
        asked = urllib.request.Request(
            f"http://{address}/api/3.0/mlflow/gateway/{what}/create", body, {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310 (http, to the server just started)
                told = json.load(answer)
        except urllib.error.HTTPError as error:
            process.kill()
            raise Absent(f"creates no {what}: {error.read()[:300]!r}") from error
        return str(next(iter(told.values()))[found])

    named = {
        "secret_name": "s",
        "secret_value": {"api_key": "none"},
        "auth_config": {"api_base": f"http://{upstream}/v1"},
    }
    secret = create("secrets", "secret_id", provider="openai", **named)
    model = create(
        "model-definitions", "model_definition_id", name="d", secret_id=secret, provider="openai", model_name="mock"
    )
    linked = {"model_definition_id": model, "linkage_type": "PRIMARY", "weight": 1.0}
    create("endpoints", "endpoint_id", name="mock", model_configs=[linked])
    path = "/gateway/mlflow/v1/chat/completions"
    return Server("MLflow AI Gateway", process, address, path=path, version=version("mlflow"))


def trimtab_python(upstream: str, folder: Path) -> Server:
    """The same as full, without the fast path in C."""
    server = trimtab_full(upstream, folder, env={"TRIMTAB_FAST_PATH": "off"})
    server.name = "trimtab full, Python only"
    return server


OURS: dict[str, Start] = {"relay": trimtab_relay, "full": trimtab_full, "python": trimtab_python}
OTHERS: dict[str, Start] = {
    "nginx": nginx,
    "vllm-router": vllm_router,
    "tensorzero": tensorzero,
    "litellm": litellm,
    "portkey": portkey,
    "mlflow": mlflow_gateway,
}


def works(server: Server) -> None:
    """Ask once, plain and streamed. Raises Absent when the answer is not one."""
    for stream, sign in ((False, b"The order left"), (True, b"data: ")):
        heard = _once(server, stream)
        whole = not stream or b"[DONE]" in heard or heard.endswith(b"0\r\n\r\n")  # MLflow's gateway says no [DONE]
        if b" 200 " not in heard.split(b"\r\n")[0] or sign not in heard or not whole:
            raise Absent(f"does not answer {'streams' if stream else 'requests'}: {heard[:300]!r}")


def _once(server: Server, stream: bool) -> bytes:
    host, _, port = server.address.rpartition(":")
    heard = b""
    request = server.request("chunks=3", stream).replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1)
    with socket.create_connection((host, int(port)), 60) as connection:
        connection.sendall(request)
        try:
            while data := connection.recv(65536):
                heard += data
        except OSError as error:
            raise Absent(f"does not answer: {error}") from error
    return heard
