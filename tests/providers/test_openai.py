"""Where hosted models are asked, with which key, and what `ask` makes of their answers; the emulator is independent:
rung 5 of the ladder (somebody else read the same API), not the provider itself.
"""

from __future__ import annotations

import base64
import json
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs

import pytest
import trustme

from emulator import KEY, Emulator, emulator
from trimtab import settings
from trimtab.errors import EngineError, Fixable
from trimtab.providers import ask, engine, openai
from trimtab.records.endpoint import ProviderSection
from trimtab.records.project import LocalTarget
from trimtab.records.registry import Decoding, Prompt, VersionSpec, Weights

AZURE_V1 = {"base_url": "https://here.openai.azure.com/openai/v1", "kind": "azure"}


def spec(base: str, **decoding: float | None) -> VersionSpec:
    weights = Weights(name=base, sha256="", format="hosted")
    return VersionSpec(model="desk", base=weights, prompt=Prompt(system="Sort."), decoding=Decoding(**decoding))


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with emulator(tmp_path_factory.mktemp("emulator")) as running:
        yield running


@pytest.mark.parametrize(
    ("base", "path", "section", "asked"),
    [
        ("openai:gpt-5-mini", "/v1", {}, "/v1/chat/completions"),
        ("azure:d", "", {"api_version": "2024-10-21"}, "/openai/deployments/d/chat/completions?api-version=2024-10-21"),
        ("azure:d", "/openai/v1", {}, "/openai/v1/chat/completions"),
        ("databricks:endpoint", "/serving-endpoints", {}, "/serving-endpoints/chat/completions"),
    ],
)
def test_an_evaluation_of_a_hosted_base_works(
    emulated: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str, path: str, section: dict, asked: str
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    name = base.partition(":")[0]
    provider = ProviderSection(base_url=emulated.url + path, key_env="SOME_KEY", **section)
    opened = engine.start(settings.load(tmp_path), spec(base), tmp_path / "log", LocalTarget(), {name: provider})
    replies = ask.ask(opened.upstream, opened.template, ["a refund", "my password"], parallel=2)
    assert [json.loads(reply.text)["intent"] for reply in replies] == ["refund", "login"]
    heard = emulated.heard()[-1]
    assert heard["path"] == asked
    assert heard["body"]["model"] == base.partition(":")[2]
    assert not {"lora", "cache_prompt"} & heard["body"].keys()


def test_a_wrong_key_is_an_error_that_says_so_without_the_key(
    emulated: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-wrong")
    provider = ProviderSection(base_url=f"{emulated.url}/v1", key_env="SOME_KEY")
    where = settings.load(tmp_path)
    opened = engine.start(where, spec("openai:x"), tmp_path / "log", LocalTarget(), {"openai": provider})
    with pytest.raises(EngineError, match="openai:x answered 401") as refused:
        ask.ask(opened.upstream, opened.template, ["hello"])
    assert "sk-wrong" not in str(refused.value)


@pytest.mark.filterwarnings("default")  # MLflow's own
def test_a_busy_provider_is_waited_for(emulated: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    provider = ProviderSection(base_url=f"{emulated.url}/v1", key_env="SOME_KEY")
    where = settings.load(tmp_path)
    opened = engine.start(where, spec("openai:x"), tmp_path / "log", LocalTarget(), {"openai": provider})
    emulated.misbehave(rateLimitRate=1)
    slept: list[float] = []
    monkeypatch.setattr(ask.time, "sleep", lambda seconds: (slept.append(seconds), emulated.misbehave()))
    assert ask.ask(opened.upstream, opened.template, ["a refund"])[0].text
    assert slept == [1.0]  # as its Retry-After says


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"base_url": "https://api.openai.com/v1"}, ("api.openai.com:443", True, "/v1", "", "authorization")),
        (AZURE_V1, ("here.openai.azure.com:443", True, "/openai/v1", "", "api-key")),
        (
            {"base_url": "https://here.openai.azure.com/", "kind": "azure", "api_version": "2024-10-21"},
            ("here.openai.azure.com:443", True, "/openai/deployments/a%2Fb", "?api-version=2024-10-21", "api-key"),
        ),
        ({"base_url": "http://127.0.0.1:8000/v1"}, ("127.0.0.1:8000", False, "/v1", "", "authorization")),
    ],
)
def test_where_a_base_is_asked(monkeypatch: pytest.MonkeyPatch, section: dict, expected: tuple) -> None:
    monkeypatch.setenv("SOME_KEY", "k")
    found = openai.upstream("far:a/b", ProviderSection(key_env="SOME_KEY", **section), Path())
    assert (found.address, found.tls, found.path, found.query, found.key_header) == expected


def test_parameters_are_the_ones_the_provider_takes() -> None:
    current = openai.params(spec("azure:d", temperature=None), ProviderSection(**AZURE_V1))
    assert current == {"model": "d", "max_completion_tokens": 48}
    vllm = openai.params(spec("vllm:org/model"), ProviderSection(base_url="http://127.0.0.1:8000/v1"))
    assert vllm == {"model": "org/model", "max_tokens": 48, "temperature": 0.0, "seed": 0}


def test_a_key_that_is_not_there_is_the_readers_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    url = "https://models.example.com/v1"
    for section, fix in [
        ({"key_env": "NO_SUCH_KEY"}, "export NO_SUCH_KEY"),
        ({"token_file": "nowhere"}, "providers.far.token_file"),
        ({"token_command": ("false",)}, "run it by hand: false"),
    ]:
        with pytest.raises(Fixable) as missing:
            openai.key("far:x", ProviderSection(base_url=url, **section), tmp_path)
        assert fix in missing.value.fix


def test_a_tokens_command_runs_again_shortly_before_the_token_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `az account get-access-token` prints it: JSON with a JSON Web Token, here good for an hour."""
    runs, now = tmp_path / "runs", time.time()
    claims = base64.urlsafe_b64encode(json.dumps({"exp": now + 3600}).encode()).decode().rstrip("=")
    program = (
        f"import json, pathlib; runs = pathlib.Path({str(runs)!r});"
        "n = len(runs.read_text()) if runs.exists() else 0; runs.write_text('x' * (n + 1));"
        f"print(json.dumps({{'accessToken': f'header.{claims}.{{n}}'}}))"
    )
    command = (sys.executable, "-c", program)
    provider = ProviderSection(base_url="https://here.openai.azure.com/openai/v1", token_command=command)
    tokens = []
    for later in (0, 3000, 3400):
        monkeypatch.setattr(openai.time, "time", lambda later=later: now + later)
        tokens.append(openai.key("azure:x", provider, tmp_path)[-2:])
    assert tokens == [".0", ".0", ".1"]
    assert openai.upstream("azure:x", provider, tmp_path).key_header == "authorization"  # Entra: a bearer token


class Entra(BaseHTTPRequestHandler):
    """Microsoft's login: OAuth 2.0's client credentials flow (RFC 6749, 4.4), with its discovery document."""

    asked: ClassVar[list[dict[str, list[str]]]] = []

    def do_GET(self) -> None:
        here = f"https://{self.headers['host']}/tenant"
        paths = {"authorization_endpoint": "authorize", "token_endpoint": "token", "device_authorization_endpoint": "d"}
        found = {name: f"{here}/oauth2/v2.0/{path}" for name, path in paths.items()}
        self._send(200, found | {"issuer": f"{here}/v2.0"})

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        self.asked.append(form)
        if form["client_secret"] != ["s3cret"]:
            said = {"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret provided."}
            self._send(401, said)
            return
        self._send(200, {"token_type": "Bearer", "expires_in": 3600, "access_token": f"entra-{len(self.asked)}"})

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, status: int, body: dict[str, object]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def test_azure_identity_logs_in_with_a_client_secret_outside_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("azure.identity")
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Entra)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    identity = {"AZURE_TENANT_ID": "tenant", "AZURE_CLIENT_ID": "client", "AZURE_CLIENT_SECRET": "wrong"}
    where = {"AZURE_AUTHORITY_HOST": f"https://localhost:{server.server_port}"}
    for name, value in (identity | where | {"REQUESTS_CA_BUNDLE": str(tmp_path / "ca.pem")}).items():
        monkeypatch.setenv(name, value)
    provider = ProviderSection(**AZURE_V1, credential="entra")
    try:
        with pytest.raises(Fixable, match="token command") as refused:
            openai.key("azure:d", provider, tmp_path)
        assert "az login" in refused.value.fix
        monkeypatch.setenv("AZURE_CLIENT_SECRET", "s3cret")
        asked = len(Entra.asked)
        found = openai.upstream("azure:d", provider, tmp_path)
        again = openai.upstream("azure:d", provider, tmp_path)
        foundry = provider.model_copy(update={"scope": "https://ai.azure.com/.default"})
        other = openai.key("azure:d", foundry, tmp_path)
    finally:
        server.shutdown()
        server.server_close()
        openai._tokens.clear()
    assert (found.api_key, found.key_header) == (f"entra-{asked + 1}", "authorization")
    assert again.api_key == found.api_key  # good for an hour: not asked again
    form, another = Entra.asked[asked:]
    assert other == f"entra-{asked + 2}"
    assert another["scope"][0].startswith("https://ai.azure.com/.default")
    assert (form["grant_type"], form["client_id"]) == (["client_credentials"], ["client"])
    assert form["scope"][0].startswith("https://cognitiveservices.azure.com/.default")
