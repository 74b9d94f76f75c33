"""Every shape a client may ask in gets its answer, its headers and exactly one row."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from gateway_place import Place, chat, entity, until

import plain_http
from trimtab.store.journal import FeedbackFrame

TEXT = "My parcel is late. Where is it?"
ORDER = {"intent": {"enum": ["refund", "delivery"]}, "urgency": {"enum": ["low", "high"]}}


def test_openai_client_plain(shared: Place) -> None:
    with openai.OpenAI(base_url=f"{shared.url}/v1", api_key="secret-key", max_retries=0) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="m", messages=[{"role": "user", "content": TEXT}], extra_body={"client_request_id": "ticket-7"}
        )
    answer = raw.parse()
    assert answer.choices[0].message.content == TEXT
    assert raw.headers["x-trimtab-version"] == "m/1"
    assert raw.headers["x-trimtab-route"] == "champion"
    assert float(raw.headers["x-trimtab-overhead-ms"]) >= 0
    row = shared.closed()[raw.headers["x-request-id"]]
    assert (row.input_text, row.output_text, row.outcome, row.status_code) == (TEXT, TEXT, "ok", 200)
    assert (row.model, row.version, row.route, row.path) == ("m", 1, "champion", "/v1/chat/completions")
    assert answer.usage is not None
    assert (row.input_tokens, row.output_tokens) == (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert row.client_request_id == "ticket-7"
    assert row.requester == row.caller
    assert "secret-key" not in repr([row.requester, row.caller, row.request, row.response])


@pytest.mark.parametrize("wanted", [False, True])
def test_openai_client_streamed_costs_the_same(shared: Place, wanted: bool) -> None:
    options: Any = {"stream_options": {"include_usage": True}} if wanted else {}
    with openai.OpenAI(base_url=f"{shared.url}/v1", api_key="k", max_retries=0) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="m@champion", messages=[{"role": "user", "content": TEXT}], stream=True, **options
        )
        chunks = list(raw.parse())
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == TEXT
    assert any(c.usage for c in chunks) == wanted
    assert all(c.choices for c in chunks) != wanted
    row = shared.closed()[raw.headers["x-request-id"]]
    assert (row.output_text, row.outcome) == (TEXT, "ok")
    assert (row.input_tokens, row.output_tokens) == (2 + len(TEXT.split()), len(TEXT.split()))
    assert row.response.endswith(b"data: [DONE]\n\n")


def test_predict(shared: Place, http: httpx.Client) -> None:
    said = http.post("/predict", json={"input": '{"intent":"refund"}'}, headers={"x-client-request-id": "t-1"})
    assert said.json() == {"output": {"intent": "refund"}, "request_id": said.headers["x-request-id"], "version": 1}
    assert shared.closed()[said.headers["x-request-id"]].client_request_id == "t-1"
    assert http.post("/predict", json={"input": "[1, 2"}).json()["output"] == "[1, 2"


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": ["a", "b c"]},
        {"instances": [{"input": "a"}, {"input": "b c"}]},
        {"inputs": {"input": ["a", "b c"]}},
        {"dataframe_records": [{"input": "a", "other": 1}, {"input": "b c"}]},
        {"dataframe_split": {"index": [0, 1], "columns": ["other", "input"], "data": [[1, "a"], [2, "b c"]]}},
    ],
    ids=lambda body: next(iter(body)),
)
def test_invocations_shapes_are_one_row(shared: Place, http: httpx.Client, body: dict[str, Any]) -> None:
    before = len(shared.closed())
    said = http.post("/invocations", json=body)
    assert said.json() == {"predictions": ["a", "b c"]}
    assert len(shared.closed()) == before + 1
    row = shared.closed()[said.headers["x-request-id"]]
    assert (row.input_text, row.output_text, row.output_tokens) == (None, None, 3)


def test_invocations_keeps_the_order_of_many_rows(http: httpx.Client) -> None:
    texts = [f"row {i}" for i in range(50)]
    assert http.post("/invocations", json={"inputs": texts}).json()["predictions"] == texts


def test_invocations_with_messages_is_a_chat(http: httpx.Client) -> None:
    assert http.post("/invocations", json=chat("hello")).json()["choices"][0]["message"]["content"] == "hello"


def test_the_version_decides_what_the_client_may_not(place: Place) -> None:
    """The template's schema reaches the engine; the client's own parameters do too, its answer format does not."""
    schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"properties": ORDER}}}
    place.route(entity(place.engine(), response_format=schema))
    place.gateway()
    said = plain_http.post(f"{place.url}/predict", json={"input": "hi", "temperature": 0.5})
    assert said.json()["output"] == {"intent": "refund", "urgency": "low"}
    refused = plain_http.post(f"{place.url}/v1/chat/completions", json=chat("hi", response_format={"type": "text"}))
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "response_format")


def test_the_engine_is_asked_with_its_key(place: Place) -> None:
    engine = place.engine(TRIMTAB_ENGINE_KEY="right")
    place.route(entity(engine) | {"api_key": "right"})
    place.gateway()
    assert plain_http.post(f"{place.url}/predict", json={"input": "hi"}).status_code == 200
    place.route(entity(engine, version=2) | {"api_key": "wrong"})
    said = until(lambda: (r := plain_http.post(f"{place.url}/predict", json={"input": "hi"})).status_code != 200 and r)
    assert (said.status_code, said.json()["error"]["code"]) == (502, "engine_error")
    assert "wrong" not in said.text


def test_feedback_is_in_the_journal_when_accepted(shared: Place, http: httpx.Client) -> None:
    one = http.post("/feedback", json={"client_request_id": 7, "value": {"intent": "refund"}})
    two = [
        {"request_id": "a", "value": {"x": 1}, "source": "code"},
        {"request_id": "b", "name": "ok", "value": {"y": 2}},
    ]
    many = http.post("/feedback", json=two)
    assert (one.status_code, many.status_code) == (202, 202)
    kept = {row.feedback_id: row for row in shared.rows() if isinstance(row, FeedbackFrame)}
    first, second, third = (kept[i] for i in one.json()["feedback_ids"] + many.json()["feedback_ids"])
    assert (first.client_request_id, first.name, first.value, first.source) == (
        "7",
        "label",
        {"intent": "refund"},
        "human",
    )
    assert (second.request_id, second.source, third.name) == ("a", "code", "ok")


def test_a_list_with_one_bad_feedback_keeps_none(shared: Place, http: httpx.Client) -> None:
    before = len(shared.rows())
    bad = http.post("/feedback", json=[{"request_id": "a", "value": {"x": 1}}, {"value": {"x": 1}}])
    assert bad.status_code == 400
    assert len(shared.rows()) == before


USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/v1/chat/completions", {"messages": []}, 400, "messages"),
        ("/v1/chat/completions", {}, 400, None),
        ("/v1/chat/completions", {"messages": [{"role": "wizard", "content": "x"}]}, 400, "messages[0].role"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": 5}]}, 400, "messages[0].content"),
        ("/v1/chat/completions", {"messages": [USER], "max_tokens": 0}, 400, "max_tokens"),
        ("/v1/chat/completions", {"messages": [USER], "temperature": "hot"}, 400, "temperature"),
        ("/v1/chat/completions", {"messages": [USER], "model": "other"}, 404, "model"),
        ("/predict", {"input": 5}, 400, "input"),
        ("/predict", ["x"], 400, None),
        ("/feedback", {"request_id": "a"}, 400, None),
        ("/feedback", [], 400, None),
        ("/nowhere", {}, 404, None),
        ("/readyz", {}, 405, None),
    ],
)
def test_errors_come_in_openais_envelope(
    shared: Place, http: httpx.Client, path: str, body: Any, status: int, param: str | None
) -> None:
    before = len(shared.rows())
    said = http.post(path, json=body)
    assert said.status_code == status
    error = said.json()["error"]
    assert error.keys() == {"message", "type", "code", "param"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert said.headers["x-request-id"]
    assert len(shared.rows()) == before, "a request that was never accepted has a row"


@pytest.mark.parametrize("body", [{}, {"inputs": [5]}, {"inputs": []}, {"inputs": ["a"], "instances": ["b"]}, "text"])
def test_invocations_errors_come_in_mlflows_envelope(http: httpx.Client, body: Any) -> None:
    said = http.post("/invocations", json=body)
    assert said.status_code == 400
    assert said.json().keys() == {"error_code", "message"}


def test_the_small_endpoints(http: httpx.Client) -> None:
    assert http.get("/healthz").json() == {"status": "alive"}
    assert http.get("/readyz").json() == {"status": "ready", "champion": "m/1"}
    assert [m["id"] for m in http.get("/v1/models").json()["data"]] == ["m", "m@champion"]
    assert "/predict" in http.get("/").json()["paths"]
    assert http.get("/predict").headers["allow"] == "POST"
    assert http.head("/healthz").status_code == 200


def test_not_ready_before_a_champion_is_routed(place: Place) -> None:
    place.gateway("--dashboard", "http://dash.example/")
    with httpx.Client(base_url=place.url) as http:
        assert http.get("/").headers["location"] == "http://dash.example/"
        for said in (http.get("/readyz"), http.post("/predict", json={"input": "x"})):
            assert (said.status_code, said.json()["error"]["code"]) == (503, "no_champion")
        place.route(entity(place.engine()))
        until(lambda: http.get("/readyz").status_code == 200)
        (place.folder / "routes.json").write_text('{"model": "m", "champion": {"addr')  # broken: the old one stays
        until(lambda: "ignored" in (place.folder / "gateway.log").read_text())
        assert http.post("/predict", json={"input": "x"}).json()["output"] == "x"
