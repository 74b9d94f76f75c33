"""Answers say that a machine made them, each path as the file says."""

from __future__ import annotations

from gateway_place import Place, chat, entity, until

import plain_http
from trimtab.records.endpoint import DisclosureSection

SECTION = DisclosureSection.model_validate(
    {
        "notice": "https://example.org/ai",
        "routes": {"/predict": {"mode": "ai-originated"}, "/invocations": {"mode": "off", "notice": None}},
    }
)


def test_the_header_is_the_drafts_dictionary() -> None:
    """draft-abaris-aicdh: a dictionary (RFC 9651) with the members mode and model."""
    assert SECTION.header("desk") == 'mode=machine-generated, model="desk"'
    assert DisclosureSection(mode="off").by_path("desk") == {"": ""}


def test_a_path_says_as_all_do_what_it_does_not_set_itself() -> None:
    section = DisclosureSection.model_validate(
        {
            "mode": "ai-modified",
            "notice": "https://example.org/ai",
            "routes": {
                "/predict": {"mode": "ai-originated"},
                "/v1/completions": {"notice": "https://example.org/other"},
                "/invocations": {"notice": None},
            },
        }
    )
    link = 'link: <https://example.org/{}>; rel="describedby"\r\n'
    assert section.by_path("m") == {
        "": 'ai-disclosure: mode=ai-modified, model="m"\r\n' + link.format("ai"),
        "/predict": 'ai-disclosure: mode=ai-originated, model="m"\r\n' + link.format("ai"),
        "/v1/completions": 'ai-disclosure: mode=ai-modified, model="m"\r\n' + link.format("other"),
        "/invocations": 'ai-disclosure: mode=ai-modified, model="m"\r\n',
    }
    assert DisclosureSection.model_validate({"mode": "off", "routes": {"/predict": {}}}).own["/predict"].mode == "off"


def test_every_answer_carries_it_plain_and_streamed_each_path_its_own(place: Place) -> None:
    place.route(entity(place.engine()), disclosure=SECTION.by_path("m"))
    place.gateway()
    until(lambda: plain_http.get(f"{place.url}/readyz").status_code == 200)
    for more in ({}, {"stream": True}):
        answer = plain_http.post(f"{place.url}/v1/chat/completions", json=chat("hello", **more))
        assert answer.status_code == 200
        assert answer.headers["ai-disclosure"] == 'mode=machine-generated, model="m"'
        assert answer.headers["link"] == '<https://example.org/ai>; rel="describedby"'
    answer = plain_http.post(f"{place.url}/predict", json={"input": "hello"})
    assert answer.headers["ai-disclosure"] == 'mode=ai-originated, model="m"'
    assert answer.headers["link"] == '<https://example.org/ai>; rel="describedby"'
    answer = plain_http.post(f"{place.url}/invocations", json={"inputs": ["hello"]})
    assert answer.status_code == 200
    assert not {"ai-disclosure", "link"} & answer.headers.keys()
