"""`trimtab up` as real processes: versions change and no request fails, what dies comes back, nothing is orphaned."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator

import httpx
import psutil
import pytest

import plain_http
from running import MODEL, Desk, desk, kill, until
from trimtab import registry
from trimtab.records.record import utc_now
from trimtab.records.registry import ModelVersion, Prompt, Traffic, Weights
from trimtab.store.drain import drain
from trimtab.store.lake import Lake

# MLflow and its dependencies warn about themselves; what never happens is reported before the day is over.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One desk for the tests of this file: each leaves version 1 champion and every process running."""
    with desk(tmp_path_factory.mktemp("served")) as one:
        yield one


def another(served: Desk, system: str, base: Weights | None = None) -> ModelVersion:
    """Version 1 under another prompt, registered; with `base` on other weights."""
    first = registry.get(served.control, MODEL, 1).spec
    return served.register(first.model_copy(update={"prompt": Prompt(system=system), "base": base or first.base}))


def unloadable(served: Desk) -> ModelVersion:
    """A version whose weights are nowhere."""
    return another(served, "Sort it.", Weights(name="lost", sha256="0" * 64))


def champion_answers(served: Desk) -> str:
    return served.ask("who is it?", "probe").headers["x-trimtab-version"]


def test_a_champion_that_changes_ten_times_under_load_fails_nobody_and_no_answer_is_ascribed_to_the_wrong_one(
    served: Desk,
) -> None:
    second = another(served, "Sort the message, please.").version
    done, answers = threading.Event(), dict[str, tuple[int, int, str]]()

    def client(name: str) -> None:
        with httpx.Client(base_url=served.url, timeout=30) as http:
            while not done.is_set():
                reply = http.post("/predict", json={"input": "where is it?"}, headers={"x-trimtab-caller": name})
                version = reply.json().get("version") if reply.status_code == 200 else None
                answers[reply.headers["x-request-id"]] = (
                    reply.status_code,
                    version,
                    reply.headers["x-trimtab-version"],
                )

    clients = [threading.Thread(target=client, args=(f"caller {n}",)) for n in range(4)]
    for thread in clients:
        thread.start()
    try:
        for before, after in [(1, second), (second, 1)] * 5:
            served.move(before, after)
            until(lambda wanted=after: champion_answers(served) == f"{MODEL}/{wanted}")
    finally:
        done.set()
        for thread in clients:
            thread.join()
    drain(served.settings)
    lake = Lake(served.settings)
    rows = lake.sample(0, lake.count(), ["databricks_request_id", "status_code", "model_version"])
    assert rows["databricks_request_id"].is_unique().all()
    told = dict(
        zip(rows["databricks_request_id"], rows.select("status_code", "model_version").iter_rows(), strict=True)
    )
    assert {version for _, version, _ in answers.values()} == {1, second}
    for request, (status, version, header) in answers.items():
        assert (status, header) == (200, f"{MODEL}/{version}")
        assert told[request] == (200, str(version))


def test_a_version_that_does_not_load_is_reported_and_gets_no_caller(served: Desk) -> None:
    broken = unloadable(served).version
    served.move(1, broken)
    try:
        until(lambda: served.state(broken) == "failed")
        error = served.control.engines(MODEL)[broken].error
        assert error
        assert "000000000000" in error
        assert champion_answers(served) == f"{MODEL}/1"
        engine = served.control.engines(MODEL)[1]
        assert engine.pid
        kill(psutil.Process(engine.pid))
        until(served.answers)  # the one that serves is looked after, champion or not
        assert champion_answers(served) == f"{MODEL}/1"
    finally:
        served.move(broken, 1)


def test_a_challenger_that_does_not_load_gets_no_caller_whatever_its_share(served: Desk) -> None:
    broken = unloadable(served).version
    served.move(None, broken, "challenger")
    served.control.put_traffic(Traffic(model=MODEL, version=broken, percent=90, at=utc_now(), reason="test"))
    try:
        until(lambda: served.state(broken) == "failed")
        replies = [served.ask("where is it?", f"caller {n}") for n in range(30)]
        assert {reply.headers["x-trimtab-version"] for reply in replies} == {f"{MODEL}/1"}
    finally:
        served.move(broken, None, "challenger")


@pytest.mark.parametrize("module", ["trimtab.gateway", "trimtab.web", "trimtab.providers.echo"])
def test_what_is_killed_is_started_again_and_questions_are_answered(served: Desk, module: str) -> None:
    victim = served.child(module)
    kill(victim)
    until(lambda: others(served, module, victim.pid))
    until(served.answers)
    until(lambda: responds(f"http://127.0.0.1:{served.settings.dashboard_port}/healthz"))
    assert served.up.poll() is None


def test_callers_are_answered_while_the_control_process_cannot_start_and_mlflow_is_away(served: Desk) -> None:
    served.stop()
    with socket.create_server(("127.0.0.1", served.settings.dashboard_port)), pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # MLflow's client tries again for minutes
        served.start()
        assert champion_answers(served) == f"{MODEL}/1"
    until(lambda: responds(f"http://127.0.0.1:{served.settings.dashboard_port}/healthz"))


def others(served: Desk, module: str, than: int) -> bool:
    return any(
        child.pid != than and module in child.cmdline()
        for child in psutil.Process(served.up.pid).children()
        if child.status() != psutil.STATUS_ZOMBIE
    )


def responds(url: str) -> bool:
    try:
        return plain_http.get(url).status_code < 500
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_the_supervisor_and_it_comes_up_again_as_it_was(served: Desk, end: signal.Signals) -> None:
    mine = psutil.Process(served.up.pid)
    until(lambda: len(mine.children(recursive=True)) >= 3)  # callers are answered before the control process is there
    family = mine.children(recursive=True)
    assert os.getpgid(served.up.pid) not in {os.getpgid(child.pid) for child in family}  # Ctrl-C ends them in order
    os.killpg(served.up.pid, end) if end == signal.SIGINT else served.up.send_signal(end)  # Ctrl-C goes to the group
    code = served.up.wait()
    until(lambda: all(gone(process) for process in family))
    assert code == (-signal.SIGKILL if end == signal.SIGKILL else 0)
    served.start()
    assert champion_answers(served) == f"{MODEL}/1"


def gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
