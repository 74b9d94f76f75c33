"""Secrets in a text: keys of services, private keys, tokens, passwords that are set. Pure.

A key is known by its vendor's prefix and form; where there is more to check (GitHub's CRC-32, a JWT's header, the
randomness of what follows `secret=`), it is checked. Prefixes are looked for first: a text without one costs little.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from trimtab.responsible import check_digits


class Found(NamedTuple):
    """One secret: text[start:end]."""

    kind: str
    start: int
    end: int


def entropy(text: str) -> float:
    """Shannon's entropy of the characters, in bits for each (Shannon 1948)."""
    counts = Counter(text).values()
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts)


def _random(text: str, bits: float = 3.0) -> bool:
    """Whether this is no word: enough bits a character, and two of lower case, upper case and digits."""
    kinds = (any(map(str.islower, text)), any(map(str.isupper, text)), any(map(str.isdigit, text)))
    return entropy(text) >= bits and sum(kinds) >= 2 and not _PLACEHOLDER.search(text)


def _jwt(text: str) -> bool:
    head = text.split(".", 1)[0]
    try:
        return "alg" in json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (ValueError, binascii.Error):
        return False


def _right(text: str) -> bool:
    return True


_PLACEHOLDER = re.compile(r"x{4,}|\.{3}|\*{3}|<|\{|example|your|changeme|placeholder|redacted|123456789", re.IGNORECASE)
_END = r"(?![A-Za-z0-9_-])"
_START = r"(?<![A-Za-z0-9_-])"
_PEM = r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?:.*?-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|.*\Z)"
_FORMS: tuple[tuple[str, tuple[str, ...], str, Callable[[str], bool]], ...] = (
    ("private_key", ("-----BEGIN ",), _PEM, _right),
    ("openai_key", ("sk-",), r"sk-(?:proj-|svcacct-|admin-|ant-[a-z0-9]+-|or-v1-)?[A-Za-z0-9_-]{20,200}", _random),
    ("aws_key_id", ("AKIA", "ASIA"), r"A[KS]IA[A-Z2-7]{16}", _right),
    ("github_token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"gh[pousr]_[A-Za-z0-9]{36}", check_digits.github_token),
    ("github_token", ("github_pat_",), r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}", _right),
    ("gitlab_token", ("glpat-",), r"glpat-[A-Za-z0-9_-]{20,}", _right),
    ("slack_token", ("xox",), r"xox[abeoprs]-[A-Za-z0-9-]{10,250}", _right),
    ("google_key", ("AIza",), r"AIza[A-Za-z0-9_-]{35}", _right),
    ("stripe_key", ("k_live_", "k_test_"), r"[rs]k_(?:live|test)_[A-Za-z0-9]{16,}", _right),
    ("huggingface_token", ("hf_",), r"hf_[A-Za-z0-9]{30,}", _random),
    ("databricks_token", ("dapi",), r"dapi[0-9a-f]{32}(?:-\d)?", _right),
    ("sendgrid_key", ("SG.",), r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}", _right),
    ("npm_token", ("npm_",), r"npm_[A-Za-z0-9]{36}", _random),
    ("pypi_token", ("pypi-AgE",), r"pypi-AgE[A-Za-z0-9_-]{50,}", _right),
    ("twilio_key", ("SK",), r"SK[0-9a-f]{32}", _right),
    ("age_key", ("AGE-SECRET-KEY-1",), r"AGE-SECRET-KEY-1[0-9A-Z]{58}", _right),
    ("trimtab_key", ("tt-",), r"tt-[A-Za-z0-9_-]{32,}", _random),
    ("jwt", ("eyJ",), r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}", _jwt),
    ("azure_key", ("AccountKey=", "AccessKey="), r"(?:Account|SharedAccess)Key=[A-Za-z0-9+/]{40,88}={0,2}", _right),
)  # fmt: skip
"""Kind, the letters that say it may be there, the form, and what is checked besides."""
_COMPILED = tuple(
    (kind, prefixes, re.compile(form if kind == "private_key" else _START + form + _END, re.DOTALL), check)
    for kind, prefixes, form, check in _FORMS
)
_URL_PASSWORD = re.compile(r"[a-z][a-z0-9+.-]{1,20}://[^\s:/@]{1,64}:([^\s@/]{3,128})@", re.IGNORECASE)
_WORDS = (
    r"(?:api[ _-]?key|secret(?:[ _-]?(?:access)?[ _-]?key)?|access[ _-]?(?:key|token)|auth[ _-]?token|token"
    r"|passw(?:or)?d|pwd|passphrase|client[ _-]?secret)"
)
_SET = re.compile(r"[:=](?=\s{0,3}[\"']?(?P<value>[^\s\"',;]{8,200}))")
_NAMED = re.compile(rf"{_WORDS}[\"']?\s{{0,3}}$", re.IGNORECASE)
_BEARER = re.compile(r"\bBearer (?P<value>[A-Za-z0-9._~+/-]{20,}=*)")

KINDS: tuple[str, ...] = (*dict.fromkeys(kind for kind, *_ in _FORMS), "url_password", "assigned", "bearer")


def find(text: str, kinds: Collection[str] = KINDS) -> list[Found]:
    """Secrets of these kinds in a text, by position; pieces do not overlap.

    A value that is set (`password: …`, `token=…`) counts when it is random: at least 2.75 bits a character, in two
    of lower case, upper case and digits. A private key without its end counts to the end of the text.
    """
    found = list(_all(text))
    if not found:
        return found
    kept: list[Found] = []
    for one in found:
        if one.kind in kinds and all(one.end <= other.start or one.start >= other.end for other in kept):
            kept.append(one)
    return sorted(kept, key=lambda one: one.start)


def _all(text: str) -> Iterator[Found]:
    for kind, prefixes, form, check in _COMPILED:
        for prefix in prefixes:
            if prefix in text:
                for match in form.finditer(text):
                    if check(match[0]):
                        yield Found(kind, *match.span())
                break
    if "://" in text and "@" in text:
        yield from (Found("url_password", *match.span(1)) for match in _URL_PASSWORD.finditer(text))
    if "Bearer " in text:
        yield from (Found("bearer", *m.span("value")) for m in _BEARER.finditer(text) if _random(m["value"]))
    if "=" in text or ":" in text:
        for match in _SET.finditer(text):
            named = _NAMED.search(text[max(0, match.start() - 40) : match.start()])
            if named and _random(match["value"], 2.75):
                yield Found("assigned", *match.span("value"))
