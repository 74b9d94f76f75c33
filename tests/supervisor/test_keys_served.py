"""`trimtab up` with `endpoint.auth: keys`: what the command line says reaches the running gateway within a second."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

import place
from running import MODEL, Desk, kill, until
from trimtab import project, settings, supervisor
from trimtab.gateway import __main__ as gateway
from trimtab.records.keys import budget, rate
from trimtab.records.record import utc_now
from trimtab.store import keys
from trimtab.store.drain import drain
from trimtab.store.lake import Lake

# MLflow and its dependencies warn about themselves; what never happens is reported before the day is over.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(180)]

FILE = """\
name: desk
model: {base: echo, prompt: prompt.md, price: {input: 1, output: 4}}
endpoint: {auth: keys, rate_limit: 1000/s, budget: 1 USD/month}
task: {kind: classification, labels: labels.yaml}
"""


class Guarded(Desk):
    """A desk that asks for a key."""

    secret = ""

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.secret}"}


def test_the_two_who_look_do_so_often_enough_for_a_second() -> None:
    assert 2 * (supervisor.KEYS_SECONDS + gateway.POLL_SECONDS) < 1


def test_keys_from_their_creation_to_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRIMTAB_PORT", "TRIMTAB_DASHBOARD_PORT"):
        monkeypatch.setenv(name, str(place.free_port()))
    place.make(tmp_path)
    (tmp_path / "trimtab.yaml").write_text(FILE)
    served = Guarded(settings.load(tmp_path), project.load(tmp_path))

    def create(name: str, **limits) -> tuple[str, str]:
        return keys.create(served.control, MODEL, name=name, scopes=("predict",), by="test", now=utc_now(), **limits)

    key, served.secret = create("first")
    served.start()
    try:
        assert served.settings.keys_file.stat().st_mode & 0o777 == 0o600
        other, secret = create("second", requests=rate("2/h"), budgets=(budget("1 USD/day"),))
        first, served.secret = served.secret, secret
        until(served.answers)
        assert served.ask("two", "x").headers["x-ratelimit-remaining-requests"] == "0"
        assert served.ask("three", "x").status_code == 429
        kill(served.child("trimtab.gateway"))
        until(lambda: _status(served) == 429)  # the gateway is back, and has not forgotten
        keys.revoke(served.control, MODEL, other, "test", utc_now())
        until(lambda: _status(served) == 401)
        served.secret = first
        assert served.answers()
    finally:
        assert served.stop() == 0
    assert not served.settings.keys_file.exists()
    drain(served.settings)
    rows = Lake(served.settings).sample(
        0, 99, ["requester", "outcome", "cost_nano_usd", "input_tokens", "output_tokens"]
    )
    answered = [row for row in rows.to_dicts() if row["outcome"] == "ok"]
    assert {row["requester"] for row in answered} == {key, other}
    for row in answered:
        assert row["cost_nano_usd"] == row["input_tokens"] * 1000 + row["output_tokens"] * 4000 > 0


def _status(served: Desk) -> int:
    try:
        return served.ask("are you there?", "probe").status_code
    except httpx.HTTPError:
        return 0
