"""The OpenAPI document says what the gateway does: schemathesis asks what it allows, and what it forbids."""

from __future__ import annotations

import json

import httpx
import pytest
import schemathesis
from gateway_place import Place
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from trimtab.gateway import openapi

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]


document = schemathesis.openapi.from_dict(json.loads(openapi.document()))
schema = document.exclude(path_regex="^/serving-endpoints/[a-z]")  # the same functions as under /v1


def test_the_document_names_every_path_and_no_other(http: httpx.Client) -> None:
    assert set(http.get("/openapi.json").json()["paths"]) == {"/", *http.get("/").json()["paths"]}


# It makes no Parquet; what Parquet does is tested with the rows of a real model.
@pytest.mark.filterwarnings("ignore:Skipped test cases with unsupported payload media types")
@schema.parametrize()
@settings(max_examples=12, suppress_health_check=list(HealthCheck), derandomize=True)
def test_what_the_document_says_holds(shared: Place, case: schemathesis.Case) -> None:
    case.call_and_validate(base_url=shared.url, checks=CHECKS)
