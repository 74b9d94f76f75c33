"""What a request may not be as a message: limits, and the framing that RFC 9112 wants refused, as faults.

The boundary: values in, a `Fault` out; the parser and the socket are `server`'s.
"""

from __future__ import annotations

from trimtab.gateway.shapes import Fault

HEAD_BYTES = 32 * 1024
"""Most bytes of a request's line and headers."""
BODY_BYTES = 1024 * 1024
"""Most bytes of a request's body."""


def check_framing(version: str, headers: dict[bytes, bytes]) -> None:
    """What RFC 9112 wants refused and the parser lets pass (sections 2.3, 3.2 and 6.1)."""
    if version not in ("1.1", "1.0"):
        raise invalid(f"HTTP/{version} is not spoken here; use HTTP/1.1")
    if version == "1.1" and b"host" not in headers:
        raise invalid("there is no Host header")
    if b"transfer-encoding" in headers:
        if headers[b"transfer-encoding"].lower() != b"chunked":
            raise Fault(501, "invalid_http", "the only transfer coding that is understood here is chunked")
        if version == "1.0":
            raise invalid("HTTP/1.0 has no chunked bodies")


def invalid(why: str) -> Fault:
    """Bytes that are no request."""
    return Fault(400, "invalid_http", f"not a valid HTTP request: {why}")


def too_large() -> Fault:
    """A body beyond the limit."""
    return Fault(413, "body_too_large", f"the body is larger than {BODY_BYTES} bytes; send less")


def head_too_large() -> Fault:
    """A head beyond the limit."""
    return Fault(
        431, "headers_too_large", f"line and headers are larger than {HEAD_BYTES} bytes; send fewer or shorter"
    )
