"""The OpenAPI 3.1 document of the gateway, served at `/openapi.json`.

The boundary: requests are described by the very structs that read them; answers and errors are described here. Built
when first asked for, so that starting costs nothing. Protocol: spec.openapis.org/oas/v3.1.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

import trimtab
from trimtab.gateway.shapes import chat, completions, embeddings, feedback, invocations, predict, responses, scoring

_REF = "#/components/schemas/{name}"
_TEXT = {"type": "string"}
_NUMBER = {"type": "integer"}
_LIST = {"type": "array", "items": {"type": "object"}}
_MESSAGE: dict[str, Any] = {"message": _TEXT, "type": _TEXT, "code": _TEXT, "param": {"type": ["string", "null"]}}


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {"type": "object", "required": [*required], "properties": required | optional}


_MODEL = _object({"id": _TEXT, "object": {"const": "model"}, "created": _NUMBER, "owned_by": _TEXT})
_ANSWERS: dict[str, dict[str, Any]] = {
    "Error": _object({"error": _object(_MESSAGE)}),
    "MlflowError": _object({"error_code": _TEXT, "message": _TEXT}),
    "ChatCompletion": _object({"choices": _LIST}, id=_TEXT, object=_TEXT, created=_NUMBER, model=_TEXT, usage={}),
    "TextCompletion": _object(
        {"id": _TEXT, "object": {"const": "text_completion"}, "created": _NUMBER, "model": _TEXT, "choices": _LIST},
        usage=_object({"prompt_tokens": _NUMBER, "completion_tokens": _NUMBER, "total_tokens": _NUMBER}),
    ),
    "Response": _object(
        {"id": _TEXT, "object": {"const": "response"}, "status": _TEXT, "model": _TEXT, "output": _LIST, "usage": {}}
    ),
    "EmbeddingList": _object({"data": _LIST}, object=_TEXT, model=_TEXT, usage={}),
    "Prediction": _object({"output": {}, "request_id": _TEXT, "version": _NUMBER}),
    "Predictions": _object({"predictions": {}}),
    "FeedbackIds": _object({"feedback_ids": {"type": "array", "items": _TEXT}}),
    "Model": _MODEL,
    "ModelList": _object({"object": {"const": "list"}, "data": {"type": "array", "items": _MODEL}}),
    "Alive": _object({"status": {"const": "alive"}}),
    "Ready": _object({"status": {"const": "ready"}, "champion": _TEXT}),
    "Paths": _object({"name": _TEXT, "paths": {"type": "array", "items": _TEXT}}),
}
_REQUESTS: list[tuple[type, frozenset[str] | None]] = [
    (chat.Chat, chat.KNOWN),
    (completions.Completions, completions.KNOWN),
    (responses.Responses, responses.KNOWN),
    (embeddings.Embeddings, embeddings.KNOWN),
    (predict.Predict, None),
    (invocations.Invocations, None),
    (feedback.Feedback, None),
]
"""What is read, and the fields that may be there besides the struct's; None: unknown fields are not looked at."""
_INVOKED = ["Predictions", "ChatCompletion", "TextCompletion", "Response", "EmbeddingList"]
_POSTS: dict[str, tuple[str, str, list[str], bool]] = {
    "/v1/chat/completions": ("Continue a conversation", "Chat", ["ChatCompletion"], True),
    "/v1/completions": ("Answer a text", "Completions", ["TextCompletion"], True),
    "/v1/responses": ("Answer in Open Responses' shape", "Responses", ["Response"], True),
    "/v1/embeddings": ("Embed texts, if the served version can", "Embeddings", ["EmbeddingList"], False),
    "/predict": ("Answer one text, or one row of an MLflow model", "PredictBody", ["Prediction"], True),
    "/invocations": ("MLflow's scoring protocol", "Invocations", _INVOKED, True),
}
"""For each path: what it does, what it reads, what it answers, and whether also as server-sent events."""
_GETS = {
    "/v1/models": ("The models that can be asked", "ModelList"),
    "/v1/models/{model}": ("One of them", "Model"),
    "/healthz": ("Whether the process lives", "Alive"),
    "/readyz": ("Whether it can answer", "Ready"),
    "/": ("What is here", "Paths"),
}


@cache
def document() -> bytes:
    """The document as JSON."""
    paths: dict[str, Any] = {path: {"post": _post(path, *what)} for path, what in _POSTS.items()}
    for path in ("chat/completions", "completions", "responses", "embeddings"):
        paths[f"/serving-endpoints/{path}"] = {"post": _post(f"/serving-endpoints/{path}", *_POSTS[f"/v1/{path}"])}
    named = _post("/serving-endpoints/invocations", *_POSTS["/invocations"])
    paths["/serving-endpoints/{name}/invocations"] = {"post": named, "parameters": [_parameter("name")]}
    paths["/feedback"] = {"post": _post("/feedback", "Tell what was right", "FeedbackBody", ["FeedbackIds"], False)}
    paths |= {path: {"get": _get(path, *what)} for path, what in _GETS.items()}
    paths["/v1/models/{model}"]["parameters"] = [_parameter("model")]
    paths["/"]["get"]["responses"]["307"] = {"description": "Where the dashboard is, if there is one"}
    paths["/openapi.json"] = {"get": _get("/openapi.json", "This document", "")}
    paths["/metrics"] = {"get": _get("/metrics", "Counts of all workers, for Prometheus", "")}
    paths["/metrics"]["get"]["responses"]["200"]["content"] = {"text/plain": {"schema": _TEXT}}
    del paths["/metrics"]["get"]["responses"]["200"]["headers"]
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "Trimtab gateway", "version": trimtab.__version__},
            "paths": paths,
            "components": {"schemas": _requests() | _ANSWERS},
        }
    )


def _requests() -> dict[str, Any]:
    _, components = msgspec.json.schema_components([struct for struct, _ in _REQUESTS], ref_template=_REF)
    for struct, known in _REQUESTS:
        if known is not None:
            schema = components[struct.__name__]
            schema["properties"] = {name: schema["properties"].get(name, {}) for name in sorted(known)}
            schema["additionalProperties"] = False
    row = _object({"input": {}}, params={"type": "object"})
    components["PredictBody"] = {"anyOf": [{"$ref": _REF.format(name="Predict")}, row]}
    told = {"$ref": _REF.format(name="Feedback")}
    components["FeedbackBody"] = {"anyOf": [told, {"type": "array", "items": told, "minItems": 1}]}
    return components


def _parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": _TEXT | {"minLength": 1}}


def _json(names: list[str]) -> dict[str, Any]:
    schemas = [{"$ref": _REF.format(name=name)} for name in names]
    return {"application/json": {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}}


def _post(path: str, summary: str, body: str, answers: list[str], streams: bool) -> dict[str, Any]:
    content = _json(answers) | ({"text/event-stream": {}} if streams else {})
    tables = {media: {} for media in (scoring.CSV, scoring.PARQUET) if path.endswith("/invocations")}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": _json([body]) | tables},
        "responses": _ends("202" if path == "/feedback" else "200", content, path),
    }


def _get(path: str, summary: str, answer: str) -> dict[str, Any]:
    content = _json([answer]) if answer else {"application/json": {"schema": {"type": "object"}}}
    return {"summary": summary, "responses": _ends("200", content, path)}


def _ends(status: str, content: dict[str, Any], path: str) -> dict[str, Any]:
    error = _json(["MlflowError" if path.endswith("/invocations") else "Error"])
    request_id = {"description": "Names the request's row", "schema": _TEXT}
    good = {"description": "The answer", "content": content, "headers": {"x-request-id": request_id}}
    return {status: good, "default": {"description": "An error, in the client's own envelope", "content": error}}
