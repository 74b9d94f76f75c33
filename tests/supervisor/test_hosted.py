"""Hosted models through `trimtab up`, against an independent emulator of OpenAI and Azure OpenAI: rung 5 of the ladder
(somebody else read the same API), not the provider itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import openai
import pytest

from emulator import KEY, Emulator, emulator
from running import Desk, desk, until
from trimtab import registry
from trimtab.store.drain import drain
from trimtab.store.lake import Lake

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(180)]  # MLflow warns about itself

FILE = """\
name: desk
model: {{base: 'azure:triage', prompt: prompt.md}}
task: {{kind: classification, labels: labels.yaml}}
providers:
  azure: {{base_url: '{url}', api_version: 2024-10-21, key_env: EMULATED_AZURE_KEY}}
  openai: {{base_url: '{second}/v1', token_file: token}}
endpoint: {{fallback: ['openai:gpt-5-mini'], attempts: 1, breaker_failures: 1000}}
"""


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with emulator(tmp_path_factory.mktemp("azure")) as running:
        yield running


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with emulator(tmp_path_factory.mktemp("other")) as running:
        yield running


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, azure: Emulator, other: Emulator) -> Iterator[Desk]:
    """The champion at Azure (classic paths, a key), the fallback at OpenAI (a token from a file)."""
    os.environ["EMULATED_AZURE_KEY"] = KEY
    folder = tmp_path_factory.mktemp("served")
    (folder / "token").write_text(KEY + "\n")
    try:
        with desk(folder, FILE.format(url=azure.url, second=other.url)) as one:
            until(lambda: one.state(2) == "ready")
            yield one
    finally:
        del os.environ["EMULATED_AZURE_KEY"]


def test_a_hosted_champion_answers_plain_and_streamed_with_the_same_tokens(served: Desk, azure: Emulator) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="k", max_retries=0) as client:
        said = {"model": "desk", "messages": [{"role": "user", "content": "I want a refund"}]}
        plain = client.chat.completions.create(**said)
        events = list(client.chat.completions.create(**said, stream=True, stream_options={"include_usage": True}))
    text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    assert text == plain.choices[0].message.content == '{"intent":"refund","urgency":"low"}'
    assert plain.usage
    assert plain.usage.total_tokens == 18
    assert [event.usage.total_tokens for event in events if event.usage] == [18]
    asked = azure.heard()[-1]
    assert asked["path"] == "/openai/deployments/triage/chat/completions?api-version=2024-10-21"
    assert {"api-key"} == {"api-key", "authorization"} & asked["headers"].keys()
    body = asked["body"]
    assert (body["model"], body["max_completion_tokens"], body["temperature"]) == ("triage", 48, 0)
    assert body["response_format"]["type"] == "json_schema"
    assert not {"lora", "cache_prompt", "max_tokens"} & body.keys()
    drain(served.settings)
    lake = Lake(served.settings)
    rows = lake.sample(lake.count() - 2, lake.count())
    assert rows.select("input_tokens", "output_tokens", "output_text").rows() == [(11, 7, text)] * 2


def test_a_rate_limited_champion_is_covered_by_the_fallback_and_no_key_is_written_anywhere(
    served: Desk, azure: Emulator, other: Emulator
) -> None:
    azure.misbehave(rateLimitRate=1)
    try:
        reply = served.ask("I want a refund", "someone")
    finally:
        azure.misbehave()
    assert (reply.status_code, reply.headers["x-trimtab-version"]) == (200, "desk/2")
    asked = other.heard()[-1]
    assert (asked["path"], asked["body"]["model"]) == ("/v1/chat/completions", "gpt-5-mini")
    drain(served.settings)
    lake = Lake(served.settings)
    (row,) = lake.sample(lake.count() - 1, lake.count()).to_dicts()
    assert (row["route"], row["model_version"], row["outcome"]) == ("fallback", "2", "ok")
    tried = row["request_tags"]["attempts"]
    assert [(one["upstream"], one["status"]) for one in json.loads(tried)] == [
        ("azure:triage", 429),
        ("openai:gpt-5-mini", 200),
    ]
    keepers = {served.settings.routes_file, served.settings.root / "token"}
    files = [path for path in served.settings.root.rglob("*") if path.is_file() and path not in keepers]
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert served.settings.routes_file.stat().st_mode & 0o077 == 0


def test_a_renewed_token_reaches_the_routes_and_a_bad_one_is_an_error_that_says_so(
    served: Desk, tmp_path: Path
) -> None:
    token, routes = served.settings.root / "token", served.settings.routes_file
    token.write_text("sk-renewed")
    until(lambda: json.loads(routes.read_text())["fallback"][0]["api_key"] == "sk-renewed")
    token.unlink()  # being replaced: the last one stays in use
    until(lambda: "the last key stays in use" in (served.settings.root / "up.log").read_text())
    assert json.loads(routes.read_text())["fallback"][0]["api_key"] == "sk-renewed"
    token.write_text(KEY)
    until(lambda: json.loads(routes.read_text())["fallback"][0]["api_key"] == KEY)


def test_the_same_base_is_the_same_version_wherever_its_provider_is(served: Desk) -> None:
    version = registry.get(served.control, "desk", 1)
    assert (version.spec.base.name, version.spec.base.format) == ("azure:triage", "hosted")
    assert registry.register_base(served.settings, served.loaded).version == 1
    providers = {"azure": served.loaded.project.providers["openai"]}
    moved = replace(served.loaded, project=served.loaded.project.model_copy(update={"providers": providers}))
    again = registry.register_on(served.settings, moved, served.control, "azure:triage", "elsewhere")
    assert again.version == 1
