"""`trimtab keys`: the secret is alone on standard output and shown once; every refusal says what to write instead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("TRIMTAB_DATABASE_URL", "TRIMTAB_HOST"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "trimtab.yaml").write_text(
        "name: desk\nmodel: {base: echo, prompt: prompt.md, price: {input: 1, output: 2}}\n"
        "endpoint: {auth: keys, rate_limit: 600/min}\ntask: {kind: chat}\n"
    )
    (tmp_path / "prompt.md").write_text("Answer.\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_key_through_its_life(run, folder: Path) -> None:
    limits = ["--rate", "5/s", "--tokens", "100k/min", "--budget", "50 USD/day", "--budget", "3 USD/hour"]
    code, secret, err = run(
        "keys", "create", "ci", "--scope", "predict", "--scope", "models", "--expires", "90d", *limits
    )
    assert code == 0
    assert re.fullmatch(r"tt-[0-9a-f]{12}-[0-9a-f]{48}\n", secret)
    (key,) = set(re.findall(r"key-[0-9a-f]{12}", err))
    code, listed, err = run("keys", "list")
    (line,) = [line for line in listed.splitlines() if key in line]
    for words in ("ci", "live", "predict, models", "5/s requests", "100000/min tokens", "50 USD/day, 3 USD/hour"):
        assert words in line
    code, rotated, _ = run("keys", "rotate", key, "--grace", "1h")
    assert code == 0
    assert rotated[:16] == secret[:16]
    assert rotated != secret
    assert run("keys", "revoke", key)[:2] == (0, f"{key} is revoked\n")
    assert "revoked" in run("keys", "list")[1]
    for again in ("rotate", "revoke"):
        code, out, err = run("keys", again, key)
        assert (code, out) == (2, "")
        assert "is revoked" in err
    assert run("audit", "verify")[0] == 0
    files = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
    for shown in (secret, rotated):
        assert not [file for file in files if shown.strip().encode() in file]


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (("--scope", "everything"), "predict, feedback, models, metrics, admin"),
        (("--rate", "600"), "600/min"),
        (("--tokens", "many"), "100k/min"),
        (("--budget", "50 EUR/day"), "50 USD/day"),
        (("--budget", "5 USD/day", "--budget", "6 USD/day"), "one for each"),
        (("--expires", "soon"), "90d"),
    ],
)
def test_what_cannot_be_meant_is_refused(words: tuple[str, ...], fix: str, run, folder: Path) -> None:
    code, out, err = run("keys", "create", "ci", *words)
    assert (code, out) == (2, "")
    assert fix in err
    assert "Traceback" not in err


def test_a_budget_without_a_price_is_refused(run, folder: Path) -> None:
    file = folder / "trimtab.yaml"
    file.write_text(file.read_text().replace(", price: {input: 1, output: 2}", ""))
    code, _, err = run("keys", "create", "ci", "--budget", "50 USD/day")
    assert code == 2
    assert "model.price" in err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "gateway.example"])  # noqa: S104
def test_up_serves_no_other_machine_without_keys(host: str, run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_HOST", host)
    started: list[str] = []
    monkeypatch.setattr("trimtab.supervisor.up", lambda settings, *_, **__: started.append(settings.host) or 0)
    assert run("up")[0] == 0
    file = folder / "trimtab.yaml"
    file.write_text(file.read_text().replace("{auth: keys, rate_limit: 600/min}", "{auth: none}"))
    code, _, err = run("up")
    assert (code, started) == (2, [host])
    assert "auth: keys" in err
    assert run("up", "--anybody")[0] == 0
    for this_machine in ("127.0.0.1", "::1", "localhost"):
        monkeypatch.setenv("TRIMTAB_HOST", this_machine)
        assert run("up")[0] == 0
    assert started == [host, host, "127.0.0.1", "::1", "localhost"]
