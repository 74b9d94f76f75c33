"""Logs: one JSON object a line, one line for a failed request, and never a secret or what somebody wrote."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import httpx
import pytest
from gateway_place import Place, chat, entity
from hypothesis import given
from hypothesis import strategies as st

from trimtab import logs

SECRET, PAYLOAD, PARTNER = "sk-planted-0123456789abcdef", "my cat Ferdinand is ill", "engine-key-77777777"


def lines(place: Place) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (place.folder / "gateway.log").read_text().splitlines()]


def test_a_failed_request_is_one_line_with_its_id_and_nothing_of_its_contents(place: Place) -> None:
    engine = place.engine(TRIMTAB_ENGINE_KEY=PARTNER)
    place.route(entity(engine) | {"api_key": PARTNER})
    place.gateway("--log-format", "json")
    headers = {"authorization": f"Bearer {SECRET}", "x-trimtab-caller": PAYLOAD, "x-client-request-id": PAYLOAD}
    with httpx.Client(base_url=place.url, headers=headers) as http:
        http.post("/predict", json={"input": PAYLOAD})
        http.post("/predict", json={"inptu": PAYLOAD})
        http.post("/v1/chat/completions", json=chat(PAYLOAD, model=PAYLOAD))
        http.get(f"/{PAYLOAD}/{SECRET}")
        place.route(entity(engine) | {"api_key": "wrong"})
        failed = []
        while len(failed) < 3:
            said = http.post("/predict", json={"input": PAYLOAD})
            failed += [said.headers["x-request-id"]] if said.status_code == 502 else []
        place.route(None)
        while (said := http.post("/predict", json={"input": PAYLOAD})).status_code != 503:
            failed += [said.headers["x-request-id"]]
        refused = said.headers["x-request-id"]
    said_lines = lines(place)
    assert [line["request_id"] for line in said_lines] == [*failed, refused]
    assert all({"time", "level", "logger", "message", "path", "status"} <= line.keys() for line in said_lines)
    assert said_lines[0]["version"] == "m/1"
    assert said_lines[-1]["code"] == "no_champion"
    for log in place.folder.glob("*.log"):
        for planted in (SECRET, PAYLOAD, PARTNER, "Ferdinand"):
            assert planted not in log.read_text()


def record(message: str, *args: object, error: Exception | None = None, **extra: Any) -> logging.LogRecord:
    try:
        raise error or ValueError
    except Exception:
        info = sys.exc_info() if error else None
    made = logging.getLogger("x").makeRecord("x", logging.ERROR, "f.py", 1, message, args, info, extra=extra or None)
    assert isinstance(made, logging.LogRecord)
    return made


@pytest.mark.parametrize("form", [logs.JsonLines(), logs.TextLines()])
@given(st.text("abcdefghijkXYZ0123456789+/=_-", min_size=12, max_size=60), st.text(max_size=20))
def test_a_credential_is_struck_out_wherever_it_stands(form: logging.Formatter, secret: str, around: str) -> None:
    for shape in (
        f"authorization: Bearer {secret}",
        f"https://user:{secret}@host/path",
        f'{{"api_key": "{secret}"}}',
        f"MY_TOKEN={secret}",
        f"password='{secret}'",
        f"https://account.blob.core.windows.net/c/b?sp=r&sig={secret}",
        f"sk-{secret.strip('+/=')}x12345678".replace("+", "a").replace("/", "a").replace("=", "a"),
    ):
        kept = "sk-" if shape.startswith("sk-") else secret
        line = form.format(record("%s", f"{around} {shape}"))
        assert kept not in line or kept in around
        assert kept not in form.format(record("went wrong", request_id=shape))
        assert kept not in form.format(record("went wrong", error=RuntimeError(shape)))
        assert "\n" not in line


def test_an_error_is_told_by_its_kind_and_place_not_by_its_words() -> None:
    line = json.loads(logs.JsonLines().format(record("failed", error=KeyError(PAYLOAD), request_id="7")))
    assert (line["error"], line["request_id"]) == ("KeyError", "7")
    assert line["at"][0].startswith("test_logs.py:")
    assert line["at"][0].endswith(" record")
    assert PAYLOAD not in logs.TextLines().format(record("failed", error=KeyError(PAYLOAD)))
