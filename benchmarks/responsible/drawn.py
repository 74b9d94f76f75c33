"""Made-up secrets and numbers of people inside sentences, drawn with a fixed seed: what guards are to find.

Numbers of people are drawn until their check digits are right, by the product's own checks; how they are written, and
what stands around them, is as people do it.
"""

from __future__ import annotations

import base64
import json
import random
import re
import string
import zlib
from collections.abc import Callable

from trimtab.responsible import check_digits

EACH = 40
_FRAMES = (
    "please use {} for the demo",
    "export KEY={}",
    'curl -H "x-api-key: {}" https://api.example.com',
    "Here it is:\n{}\nthanks",
    "I pasted {}, is that bad?",
)
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase


def secrets() -> dict[str, list[str]]:
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
        "huggingface_token": lambda: f"hf_{some(34)}",
        "sendgrid_key": lambda: f"SG.{some(22)}.{some(43)}",
        "npm_token": lambda: f"npm_{some(36)}",
        "pypi_token": lambda: f"pypi-AgEIcHlwaS5vcmc{some(120)}",
        "twilio_key": lambda: f"SK{some(32, '0123456789abcdef')}",
        "age_key": lambda: f"AGE-SECRET-KEY-1{some(58, string.digits + string.ascii_uppercase)}",
        "trimtab_key": lambda: f"tt-{some(43)}",
        "azure_key": lambda: f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={some(86)}==",
        "bearer": lambda: f"Authorization: Bearer {some(40)}",
    }
    return {kind: [chance.choice(_FRAMES).format(make()) for _ in range(EACH)] for kind, make in makers.items()}


_TOLD = {
    "uk_nhs": ("My NHS number is {3 3 4}.", "NHS no. {10}, born in May", "nhs number: {3-3-4}"),
    "de_tax_id": ("Meine Steuer-ID ist {2 3 3 3}.", "tax id {11}", "Steuerliche Identifikationsnummer: {11}"),
    "fr_nir": ("numéro de sécurité sociale {1 2 2 2 3 3 2}", "mon NIR : {15}", "my number there is {1 2 2 2 3 3 2}"),
    "es_dni": ("Mi DNI es {8}{letter}.", "DNI {8}-{letter}, please check", "I am {8}{letter} in your files"),
    "it_fiscal": ("codice fiscale {code}", "Il mio CF: {code}.", "please invoice {code}"),
    "ch_ahv": ("AHV-Nummer {3.4.4.2}", "mon numéro AVS est {3.4.4.2}", "my number is {13}"),
    "cn_id": ("我的身份证号是 {code}", "ID card {code}, please", "身份证：{code}。"),
    "br_cpf": ("Meu CPF é {3.3.3-2}.", "cpf {11}", "the customer {3.3.3-2} called"),
    "nl_bsn": ("Mijn BSN is {9}.", "BSN: {9}", "burgerservicenummer {4.2.3}"),
    "pl_pesel": ("PESEL {11}", "mój PESEL to {11}", "Pesel: {11}, dziękuję"),
    "in_aadhaar": ("Aadhaar {4 4 4}", "my aadhar number {12}", "UIDAI no. {4-4-4}"),
}
"""Sentences by kind; {3 3 4}: the digits in groups as they are written."""


def numbers_of_people() -> dict[str, list[str]]:
    """Sentences by kind of number, those of the United States (which public data has) left out."""
    chance = random.Random(11)  # noqa: S311 (data)
    return {kind: [_told(kind, chance) for _ in range(EACH)] for kind in _TOLD}


def _told(kind: str, chance: random.Random) -> str:
    code = _number(kind, chance)
    sentence = chance.choice(_TOLD[kind])
    filled = sentence.replace("{code}", code).replace("{letter}", code[-1])

    def grouped(form: re.Match[str]) -> str:
        rest, told = code, ""
        for piece in re.findall(r"\d+|\D", form[1]):
            told, rest = (told + rest[: int(piece)], rest[int(piece) :]) if piece.isdigit() else (told + piece, rest)
        return told

    return re.sub(r"\{([\d .-]+)\}", grouped, filled)


def _number(kind: str, chance: random.Random) -> str:
    """A number whose check digits are right."""
    size, right = _SIZES[kind]
    while True:
        code = "".join(chance.choice(string.digits) for _ in range(size))
        if kind == "es_dni":
            code = code[:8] + chance.choice(string.ascii_uppercase)
        elif kind == "it_fiscal":
            letters = [chance.choice(string.ascii_uppercase) for _ in range(8)]
            day, month = f"{chance.randint(1, 28):02}", chance.choice("ABCDEHLMPRST")
            code = "".join(letters[:6]) + code[:2] + month + day + letters[6] + code[2:5] + letters[7]
        elif kind == "ch_ahv":
            code = "756" + code[3:]
        elif kind == "fr_nir":
            code = chance.choice("12") + code[1:3] + f"{chance.randint(1, 12):02}" + code[5:]
        elif kind == "cn_id":
            code = (
                code[:6] + f"19{chance.randint(40, 99)}{chance.randint(1, 12):02}{chance.randint(1, 28):02}" + code[14:]
            )
        if right(code):
            return code


def _digits(check: Callable[[list[int]], bool]) -> Callable[[str], bool]:
    return lambda code: check([int(digit) for digit in code])


_SIZES: dict[str, tuple[int, Callable[[str], bool]]] = {
    "uk_nhs": (10, _digits(check_digits.uk_nhs)),
    "de_tax_id": (11, _digits(check_digits.de_tax_id)),
    "fr_nir": (15, _digits(check_digits.fr_nir)),
    "es_dni": (9, check_digits.es_dni),
    "it_fiscal": (16, check_digits.it_fiscal),
    "ch_ahv": (13, _digits(check_digits.ch_ahv)),
    "cn_id": (18, check_digits.cn_id),
    "br_cpf": (11, _digits(check_digits.br_cpf)),
    "nl_bsn": (9, _digits(check_digits.nl_bsn)),
    "pl_pesel": (11, _digits(check_digits.pl_pesel)),
    "in_aadhaar": (12, _digits(check_digits.in_aadhaar)),
}
