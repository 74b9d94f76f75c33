"""Rows through the gateway: an MLflow model's engine gets them as they came, and CSV reaches language models, too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from gateway_place import Place, entity

import plain_http
from trimtab import processes

KEY = {"TRIMTAB_ENGINE_KEY": "secret"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A gateway in front of the scoring server."""
    place = Place(tmp_path_factory.mktemp("scoring"))
    place.route(scored(place))
    place.gateway()
    yield place
    place.stop()


def scored(place: Place) -> dict[str, object]:
    env = KEY | {"PYTHONPATH": str(Path(__file__).parent)}
    place.children.append(processes.start("scorer", log=place.folder / "scorer.log", env=env))
    address = place.children[-1].ready["address"]
    return {
        "model": "m",
        "version": 7,
        "address": address,
        "api_key": KEY["TRIMTAB_ENGINE_KEY"],
        "path": "",
        "protocol": "mlflow",
        "template": {"messages": [], "params": {}},
    }


def post(place: Place, path: str, body: object = None, **more: object) -> httpx.Response:
    more = {"json": body} if body is not None else more
    return plain_http.post(f"{place.url}{path}", timeout=30, **more)  # type: ignore[arg-type] (httpx's own words)


def test_invocations_and_their_answers_pass_as_they_came_and_are_one_row(place: Place) -> None:
    body = b'{"inputs": [[1, 2], [3, 4]],  "client_request_id": "mine"}'
    answer = post(place, "/invocations", content=body)
    assert answer.status_code == 200
    assert answer.json() == {"predictions": [3, 7], "together": 1}
    assert answer.headers["x-trimtab-version"] == "m/7"
    row = place.closed()[answer.headers["x-request-id"]]
    assert (row.request, row.response, row.client_request_id) == (body, answer.content, "mine")
    assert (row.input_tokens, row.output_tokens, row.outcome) == (None, None, "ok")


def test_databricks_path_takes_rows_for_the_model_it_names(place: Place) -> None:
    assert post(place, "/serving-endpoints/m/invocations", {"inputs": [[1]]}).json()["predictions"] == [1]
    assert post(place, "/serving-endpoints/other/invocations", {"inputs": [[1]]}).status_code == 404


@pytest.mark.parametrize("row", [[1, 2], {"a": 1, "b": 2}])
def test_predict_takes_one_row_named_or_in_order(place: Place, row: object) -> None:
    answer = post(place, "/predict", {"input": row, "params": {"plus": 0.5}})
    assert answer.json() == {"output": 3.5, "request_id": answer.headers["x-request-id"], "version": 7}


def test_what_the_model_refuses_is_a_400_in_the_envelope_of_the_path_and_is_asked_once(place: Place) -> None:
    answer = post(place, "/invocations", {"inputs": [["x"]]})
    assert (answer.status_code, answer.json()["error_code"]) == (400, "BAD_REQUEST")
    assert "unsupported operand" in answer.json()["message"]
    assert len(place.closed()[answer.headers["x-request-id"]].attempts) == 1
    answer = post(place, "/predict", {"input": ["x"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "engine_rejected")


def test_csv_and_parquet_reach_the_engine_as_they_are(place: Place) -> None:
    for media, name in (("text/csv; charset=utf-8", "csv"), ("application/vnd.apache.parquet", "parquet")):
        answer = post(place, "/invocations", content=b"PAR1\x00\xff", headers={"content-type": media})
        assert answer.json() == {"predictions": [name], "bytes": 6}
    latin = post(place, "/invocations", content=b"a", headers={"content-type": "text/csv; charset=latin-1"})
    assert latin.status_code == 415


def test_a_conversation_is_refused_by_a_model_of_rows(place: Place) -> None:
    answer = post(place, "/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "not_supported")


def test_what_comes_together_is_scored_in_one_call_and_every_caller_gets_his_own(place: Place) -> None:
    def ask(number: int) -> tuple[int, int]:
        told = post(place, "/invocations", {"inputs": [[number, 1]]}).json()
        assert told["predictions"] == [number + 1]
        return number, told["together"]

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(ask, range(240)))
    assert max(together for _, together in answers) > 1


def test_the_engine_lets_nobody_in_without_its_key(place: Place) -> None:
    address = place.children[0].ready["address"]
    assert plain_http.post(f"http://{address}/invocations", json={"inputs": [[1]]}).status_code == 401
    slots = plain_http.get(f"http://{address}/slots", headers={"authorization": "Bearer secret"})
    assert slots.json() == [{"is_processing": False}]


# A language model


def csv(place: Place, text: bytes) -> httpx.Response:
    return post(place, "/invocations", content=text, headers={"content-type": "text/csv"})


def test_a_language_model_answers_the_texts_of_a_csv(shared: Place) -> None:
    text = b'id,input\n1,"Money back, please"\n2,"two\nlines"\n'
    assert csv(shared, text).json() == {"predictions": ["Money back, please", "two\nlines"]}
    assert csv(shared, b"anything\nhello\n").json() == {"predictions": ["hello"]}
    for wrong in (b"", b"a,b\n1,2\n", b"input\n", b'input\n"open', b"\xff\n"):
        assert csv(shared, wrong).status_code == 400, wrong


def test_a_language_model_reads_no_parquet_and_says_so(shared: Place) -> None:
    answer = post(shared, "/invocations", content=b"PAR1", headers={"content-type": "application/vnd.apache.parquet"})
    assert answer.status_code == 415
    assert "JSON or CSV" in json.loads(answer.text)["message"]


def test_rows_for_a_model_that_became_a_language_model_are_refused_not_answered(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.route(entity(place.engine()), scored(place), 100)
    place.gateway()
    try:
        answer = post(place, "/predict", {"input": "hello"})
    finally:
        place.stop()
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "not_supported")
