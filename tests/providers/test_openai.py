"""Where hosted models are asked, with which key, and what `ask` makes of their answers; the emulator is independent."""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

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
