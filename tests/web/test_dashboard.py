"""The real process, and a real browser in front of it: what a person sees, and Undo."""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import loop_story
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from trimtab import processes
from trimtab.records.record import utc_now
from trimtab.store.journal import Journal

CHROMIUM = shutil.which("chromium")
ARGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_DASHBOARD_PORT", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://registry")
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)  # NiceGUI would take the child for a test of its own


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine: the dashboard was not looked at")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


def start(folder: Path, *more: str) -> processes.Child:
    return processes.start("trimtab.web", "--project", str(folder), *more, log=folder / "web.log")


def status(child: processes.Child) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{child.ready['address']}/api/status", timeout=30) as answer:
        return json.load(answer)


def seen(page: Page, name: str) -> Any:
    return page.get_by_test_id(name)


def test_a_person_sees_the_loop_and_takes_it_back(browser: Browser, tmp_path: Path) -> None:
    story = loop_story.tell(tmp_path, utc_now())
    child = start(tmp_path, "--page-only")
    try:
        page, hosts, complaints = browser.new_page(), set[str](), list[str]()
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.on("websocket", lambda socket: hosts.add(urlsplit(socket.url).netloc))
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"http://{child.ready['address']}", timeout=60_000)

        expect(seen(page, "champion")).to_have_text("version 3", timeout=30_000)
        expect(seen(page, "requests")).to_have_text(str(story.rows))
        expect(seen(page, "alert-card")).to_contain_text("recall, lumo, battery")
        expect(seen(page, "alert-card")).to_contain_text("cleared")
        expect(seen(page, "gate-table")).to_have_count(2)
        expect(seen(page, "gate-table").first.locator("tr", has_text="fairness")).to_contain_text("fail")
        expect(seen(page, "gate-table").last.locator(".badge")).to_have_text(["✓ pass"] * 3)
        expect(seen(page, "drift-chart").locator("svg")).to_contain_text("breach")

        clauses = seen(page, "clauses").locator("tbody tr")
        expect(clauses.filter(has_text="BIAS-01").locator(".badge")).to_have_text("✓ pass")
        expect(clauses.filter(has_text="BIAS-01")).to_contain_text("fairness gate")
        expect(clauses.filter(has_text="HUM-01").locator(".badge")).to_have_text("? insufficient")

        seen(page, "undo").click()
        expect(seen(page, "undo-dialog")).to_contain_text("Version 1 answers again instead of version 3.")
        page.get_by_label("Why?").fill("urgencies look wrong")
        seen(page, "undo-confirm").click()
        expect(seen(page, "champion")).to_have_text("version 1", timeout=30_000)
        newest = seen(page, "history").locator("tbody tr").first
        expect(newest).to_have_text(re.compile("champion.*version 3.*version 1.*dashboard.*urgencies look wrong", re.S))
        expect(seen(page, "alert-card")).to_contain_text("open")

        assert story.control.alias(loop_story.NAME, "champion") == 1
        assert status(child)["champion"] == 1
        assert hosts == {child.ready["address"]}
        assert complaints == []
    finally:
        child.process.terminate()
        ended = child.process.wait(20)
        child.stop()
    assert ended == 0


def test_the_first_request_arrives_while_a_person_looks(browser: Browser, tmp_path: Path) -> None:
    story = loop_story.begin(tmp_path, utc_now())
    loop_story.register(story)
    child = start(tmp_path)
    try:
        page = browser.new_page()
        page.goto(f"http://{child.ready['address']}", timeout=60_000)
        expect(seen(page, "getting-started")).to_contain_text("curl http://127.0.0.1:8080/predict", timeout=30_000)
        expect(seen(page, "undo")).to_have_count(0)
        journal = Journal(story.settings.journal)
        journal.closed(loop_story.answered(story))
        journal.close()
        expect(seen(page, "requests")).to_have_text("1", timeout=30_000)
        expect(seen(page, "getting-started")).to_have_count(0)
        assert child.process.stdin is not None
        child.process.stdin.close()  # as when the process that started it is gone
        assert child.process.wait(20) == 0
    finally:
        child.stop()
