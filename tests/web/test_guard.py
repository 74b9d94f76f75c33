"""Who is let in: programs and pages of this machine; no page from elsewhere, by whatever name it calls us."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from trimtab.web.guard import fault

OURS = "127.0.0.1:8081"


@pytest.mark.parametrize("host", [OURS, "localhost:8081", "[::1]:8081", "127.0.0.1", "desk.example:8081"])
def test_our_own_names_are_let_in(host: str) -> None:
    assert fault(Headers({"host": host}), "desk.example", "GET", live=False) is None


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8081", "127.0.0.1.evil.example", "192.168.1.7", ""])
def test_a_name_that_a_stranger_may_point_at_us_is_refused(host: str) -> None:
    assert fault(Headers({"host": host}), "127.0.0.1", "GET", live=False)


def test_listening_everywhere_lets_addresses_in_but_no_names() -> None:
    assert fault(Headers({"host": "192.168.1.7:8081"}), "0.0.0.0", "GET", live=False) is None  # noqa: S104
    assert fault(Headers({"host": "evil.example"}), "0.0.0.0", "GET", live=False)  # noqa: S104


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:9999", "null"])
def test_a_page_from_elsewhere_may_not_change_anything_nor_open_the_live_connection(origin: str) -> None:
    headers = Headers({"host": OURS, "origin": origin})
    assert fault(headers, "127.0.0.1", "POST", live=False)
    assert fault(headers, "127.0.0.1", "GET", live=True)


def test_our_own_page_may() -> None:
    headers = Headers({"host": OURS, "origin": f"http://{OURS}"})
    assert fault(headers, "127.0.0.1", "POST", live=False) is None
    assert fault(headers, "127.0.0.1", "GET", live=True) is None
