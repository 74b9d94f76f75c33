"""Keys are append-only facts in the audit log: what is live follows from them, and no secret is among them."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from trimtab import settings
from trimtab.errors import Fixable
from trimtab.records import keys as records
from trimtab.records.endpoint import EndpointSection
from trimtab.records.keys import Budget, LiveKey, Rate
from trimtab.store import keys
from trimtab.store.control import Control

NOON = datetime(2026, 10, 3, 12, tzinfo=UTC)
OPEN = EndpointSection(auth="keys")


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(settings.load(tmp_path))


def create(control: Control, name: str = "ci", **more) -> tuple[str, str]:
    return keys.create(control, "m", name=name, scopes=("predict",), by="test", now=NOON, **more)


def live(control: Control, at: datetime = NOON, endpoint: EndpointSection = OPEN) -> dict[str, LiveKey]:
    return {key.id: key for key in keys.live(control, "m", endpoint, at).keys}


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def test_a_secret_has_enough_bits_and_only_its_hash_is_kept(control: Control, tmp_path: Path) -> None:
    key, secret = create(control)
    assert re.fullmatch(r"tt-[0-9a-f]{12}-[0-9a-f]{48}", secret)
    assert secret[3:15] == key.removeprefix("key-")
    assert live(control)[key].sha256 == (digest(secret),)
    another = keys.rotate(control, "m", key, "test", NOON, timedelta())
    assert another != secret
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert digest(another).encode() in written
    for one in (secret, another):
        assert one.encode() not in written
        assert one[16:].encode() not in written


def test_rotation_keeps_the_key_and_ends_the_secret_before_after_the_grace(control: Control) -> None:
    key, first = create(control, expires=timedelta(days=1))
    second = keys.rotate(control, "m", key, "test", NOON, timedelta(hours=1))
    third = keys.rotate(control, "m", key, "test", NOON + timedelta(minutes=30), timedelta(hours=2))
    hours = {digest(third): 24.0, digest(second): 2.5, digest(first): 1.0}

    def valid(after: float) -> dict[str, float]:
        found = live(control, NOON + timedelta(hours=after))[key]
        noon = NOON.timestamp() * 1000
        return {one: (until - noon) / 3_600_000 for one, until in zip(found.sha256, found.until_ms, strict=True)}

    assert valid(0.75) == hours
    assert valid(1) == {one: end for one, end in hours.items() if end > 1}
    assert valid(3) == {digest(third): 24.0}
    assert live(control, NOON + timedelta(days=1)) == {}


def test_a_key_that_ended_stays_ended_and_its_slot_is_nobody_elses(control: Control) -> None:
    first, second, third = (create(control, name)[0] for name in "abc")
    keys.revoke(control, "m", second, "test", NOON)
    fourth, _ = create(control, "d")
    assert {key: found.slot for key, found in live(control).items()} == {first: 0, third: 2, fourth: 3}
    for act in (keys.revoke, lambda *args: keys.rotate(*args, timedelta())):
        with pytest.raises(Fixable, match=f"{second} is revoked"):
            act(control, "m", second, "test", NOON)
        with pytest.raises(Fixable, match="there is no key key-0"):
            act(control, "m", "key-0", "test", NOON)
    assert [key.state(NOON) for key in keys.known(control, "m")] == ["live", "revoked", "live", "live"]


def test_the_endpoints_limits_are_for_keys_without_their_own(control: Control) -> None:
    plain, _ = create(control)
    own, _ = create(control, requests=records.rate("5/s"), budgets=(records.budget("0.25 USD/hour"),))
    endpoint = EndpointSection(auth="keys", rate_limit="600/min", budget="50 USD/day")
    found = live(control, endpoint=endpoint)
    assert (found[plain].requests, found[plain].budgets) == (
        Rate(count=600, seconds=60),
        (Budget(nano_usd=50 * 10**9, per="day"),),
    )
    assert (found[own].requests, found[own].budgets) == (
        Rate(count=5, seconds=1),
        (Budget(nano_usd=250_000_000, per="hour"),),
    )
    with pytest.raises(Fixable, match="same period"):
        create(control, budgets=(records.budget("1 USD/day"), records.budget("2 USD/day")))


def test_every_event_stands_in_the_audit_log(control: Control) -> None:
    key, _ = create(control)
    keys.rotate(control, "m", key, "test", NOON, timedelta())
    keys.revoke(control, "m", key, "test", NOON)
    entries = control.audit_entries()
    assert [entry.key for entry in entries] == [f"m/{key}/created", f"m/{key}/rotated/1", f"m/{key}/revoked"]
    assert control.audit_faults() == []


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        *((records.rate, text) for text in ("", "0/min", "600", "600/week", "-1/s", "1.5/s", "600 / min", "99999M/s")),
        *((records.budget, text) for text in ("", "50", "50 EUR/day", "50USD/day", "-1 USD/day", "1 USD/week")),
        *((records.lifetime, text) for text in ("", "90", "d", "-1d", "1.5d", "90 days")),
    ],
)
def test_what_is_no_limit_is_refused(parse, text: str) -> None:
    with pytest.raises(ValueError, match=r"is (not|more)"):
        parse(text)


def test_limits_are_read_as_they_are_written() -> None:
    assert [str(records.rate(text)) for text in ("600/min", "100k/min", "2M/h")] == [
        "600/min",
        "100000/min",
        "2000000/h",
    ]
    assert [str(records.budget(text)) for text in ("50 USD/day", "0.5 USD/month")] == ["50 USD/day", "0.5 USD/month"]
    assert records.lifetime("90d") == timedelta(days=90)
