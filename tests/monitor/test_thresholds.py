"""A threshold of the file is judged once in each window, with evidence, and tells people once for each cause."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import binom

from trimtab import settings as trimtab_settings
from trimtab.evaluation.compare import exceeds, share_bounds
from trimtab.monitor import thresholds, watch
from trimtab.records.monitor import Alert
from trimtab.records.project import Project
from trimtab.records.registry import AliasMove, Decoding, ModelVersion, Prompt, VersionSpec, Weights
from trimtab.records.threshold import ThresholdReport, threshold
from trimtab.settings import Settings
from trimtab.store.control import Control
from trimtab.store.drain import drain
from trimtab.store.journal import Closed, Journal
from trimtab.store.lake import Lake

START = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
FILE = {
    "name": "desk",
    "model": {"base": "echo", "prompt": "p.md"},
    "alerts": [{"on": ["error_rate > 10%", "cost > 1 USD/hour"], "window": "5min"}],
}
ROW = Closed(
    request_id="", client_request_id=None, caller="c", requester="k", model="desk", version=1, route="champion",
    path="/", at_ms=0, request=b"{}", status_code=200, duration_ms=20, ttfb_ms=None, input_tokens=None,
    output_tokens=None, outcome="ok", input_text="a", output_text="b", response=b"{}", cost_nano_usd=0,
)  # fmt: skip


@pytest.fixture
def desk(tmp_path: Path) -> tuple[Settings, Control]:
    """A project whose version 1 is champion."""
    place = trimtab_settings.load(tmp_path)
    control = Control(place)
    spec = VersionSpec(
        model="desk", base=Weights(name="echo", sha256="0"), prompt=Prompt(system="s"), decoding=Decoding()
    )
    version = ModelVersion(spec=spec, version=1, run_id="r", config_hash="c", created_at=START)
    control.put("version", "desk/1", version)
    move = AliasMove(model="desk", alias="champion", before=None, after=1, at=START, actor="test", reason="test")
    control.move([move])
    return place, control


def window(place: Settings, number: int, good: int, failed: int, nano: int | None = 0) -> datetime:
    """One window of five minutes: so many answers, failures and copies for a shadow (which fail); its end."""
    begin = START + timedelta(minutes=5 * number)
    journal = Journal(place.journal)
    for index in range(good + failed + 20):
        ours, bad = index < good + failed, index >= good
        row = msgspec.structs.replace(
            ROW,
            request_id=f"{number:016x}{index:016x}",
            at_ms=int((begin + timedelta(seconds=1)).timestamp() * 1000),
            status_code=502 if bad else 200,
            outcome="error" if bad else "ok",
            route="champion" if ours else "shadow",
            cost_nano_usd=nano,
        )
        journal.closed(row)
    journal.close()
    drain(place)
    return begin + timedelta(minutes=5)


def test_one_alert_for_each_cause_and_the_zone_between_neither_raises_nor_clears(
    desk: tuple[Settings, Control],
) -> None:
    place, control = desk
    file = Project.model_validate(FILE)
    shares = [(50, 0), (30, 20), (20, 30), (44, 6), (30, 20), (50, 0), (44, 6), (30, 20)]
    raised: list[Alert] = []
    for number, (good, failed) in enumerate(shares):
        end = window(place, number, good, failed)
        assert watch.look(place, file, control, Lake(place), end) == [], "judged before its last rows were in"
        settled = end + watch.SETTLES
        raised += watch.look(place, file, control, Lake(place), settled)
        assert watch.look(place, file, control, Lake(place), settled + timedelta(seconds=3)) == []
    prefix = f"desk/1/{threshold('error_rate > 10%').slug}/"
    reports = control.facts("threshold_report", ThresholdReport, prefix)
    assert [(report.n, report.exceeding) for report in reports] == [(50, failed) for _, failed in shares]
    assert [report.verdict for report in reports] == [
        "ok", "breach", "breach", "insufficient", "breach", "ok", "insufficient", "breach",
    ]  # fmt: skip
    assert [(alert.kind, alert.key) for alert in raised] == [
        ("error_rate > 10%", "desk/error_rate-10/1/1"),
        ("error_rate > 10%", "desk/error_rate-10/1/2"),
    ]
    assert "20 of 50 requests failed" in raised[0].body
    assert "interval" in raised[0].body


def test_a_cost_is_summed_over_its_own_span_and_what_has_no_price_is_never_fine(
    desk: tuple[Settings, Control],
) -> None:
    place, control = desk
    file = Project.model_validate(FILE)
    verdicts: list[str] = []
    for number, nano in enumerate((5_000_000, None, 25_000_000)):  # 0.25 USD, unknown, 1.25 USD of 50 requests
        end = window(place, number, 50, 0, nano)
        watch.look(place, file, control, Lake(place), end + watch.SETTLES)
        report = control.last("threshold_report", ThresholdReport, f"desk/1/{threshold('cost > 1 USD/hour').slug}/")
        assert report is not None
        verdicts.append(report.verdict)
    assert verdicts == ["ok", "insufficient", "breach"]
    assert report.observed == pytest.approx(1.5)


@given(n=st.integers(1, 400), share=st.sampled_from([0.005, 0.01, 0.05, 0.1, 0.5]))
@settings(max_examples=60)
def test_a_service_that_keeps_its_limit_is_called_a_breach_no_more_often_than_promised(n: int, share: float) -> None:
    critical = next((k for k in range(n + 1) if exceeds(k, n, share, thresholds.ALPHA)), None)
    if critical is not None:
        assert binom.sf(critical - 1, n, share) <= thresholds.ALPHA
        assert all(exceeds(k, n, share, thresholds.ALPHA) for k in range(critical, n + 1))


@given(n=st.integers(1, 3000), data=st.data(), share=st.floats(0.001, 0.9))
@settings(max_examples=60)
def test_the_interval_and_the_verdict_say_the_same(n: int, data: st.DataObject, share: float) -> None:
    k = data.draw(st.integers(0, n))
    bounds = share_bounds(k, n, thresholds.ALPHA)
    assert bounds is not None
    assert bounds.low <= bounds.estimate <= bounds.high
    if abs(bounds.low - share) > 1e-9:
        assert exceeds(k, n, share, thresholds.ALPHA) == (bounds.low > share)


@pytest.mark.parametrize("text", ["latency_p99>2s", "latency_p80 > 2s", "error_rate > 0%", "cost > 5", "drift"])
def test_what_is_no_threshold_is_refused_with_what_would_be_one(text: str) -> None:
    with pytest.raises(ValidationError, match=r"neither|allows nothing|is not a budget"):
        Project.model_validate(FILE | {"alerts": [{"on": [text]}]})
