"""Made-up secrets of each kind inside sentences, drawn with a fixed seed: what the secrets guard is to find."""

from __future__ import annotations

import base64
import json
import random
import string
import zlib

EACH = 40
_FRAMES = (
    "please use {} for the demo",
    "export KEY={}",
    'curl -H "x-api-key: {}" https://api.example.com',
    "Here it is:\n{}\nthanks",
    "I pasted {}, is that bad?",
)
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase


def drawn() -> dict[str, list[str]]:
    """Sentences by kind of secret."""
    chance = random.Random(7)  # noqa: S311 (data, not secrets)

    def some(count: int, letters: str = string.ascii_letters + string.digits) -> str:
        return "".join(chance.choice(letters) for _ in range(count))

    def github() -> str:
        body, check = some(30), ""
        value = zlib.crc32(body.encode())
        while value:
            value, digit = divmod(value, 62)
            check = _BASE62[digit] + check
        return f"ghp_{body}{check.rjust(6, '0')}"

    def jwt() -> str:
        parts = [{"alg": "HS256", "typ": "JWT"}, {"sub": some(12), "iat": 1}]
        coded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
        return ".".join([*coded, some(43)])

    makers = {
        "openai_key": lambda: f"sk-proj-{some(48)}",
        "aws_key_id": lambda: f"AKIA{some(16, string.ascii_uppercase + '234567')}",
        "github_token": github,
        "gitlab_token": lambda: f"glpat-{some(20)}",
        "slack_token": lambda: f"xoxb-{some(12, string.digits)}-{some(24)}",
        "google_key": lambda: f"AIza{some(35)}",
        "stripe_key": lambda: f"sk_live_{some(24)}",
        "databricks_token": lambda: f"dapi{some(32, '0123456789abcdef')}",
        "jwt": jwt,
        "private_key": lambda: f"-----BEGIN PRIVATE KEY-----\n{some(64)}\n{some(40)}==\n-----END PRIVATE KEY-----",
        "assigned": lambda: f"password: {some(14)}",
        "url_password": lambda: f"postgres://app:{some(12)}@db.example.com/prod",
    }
    return {kind: [chance.choice(_FRAMES).format(make()) for _ in range(EACH)] for kind, make in makers.items()}
