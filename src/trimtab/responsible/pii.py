"""Personal data with a fixed form in a text: addresses of mail and networks, phone numbers, cards, accounts, numbers of
people. Pure, and light: training, the guards and the gateway read the same code.

Names of people are not looked for. They have no form to recognise (a small named-entity model finds about six in ten),
most messages are signed, so that leaving out what has a name would leave out nearly everything, and the effect of a
name on the answer is what the fairness gate measures and its mitigation removes. `guards.people` is an extra for them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from trimtab.responsible import check_digits

NumberKind = Literal[
    "us_ssn",
    "uk_nhs",
    "de_tax_id",
    "fr_nir",
    "es_dni",
    "it_fiscal",
    "ch_ahv",
    "cn_id",
    "br_cpf",
    "nl_bsn",
    "pl_pesel",
    "in_aadhaar",
]
"""Numbers that states give to people, by country."""
Kind = Literal["iban", "card", NumberKind, "email", "phone", "ip", "url"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PERSONAL: frozenset[Kind] = frozenset(KINDS) - {"ip", "url"}
"""What is personal wherever it stands; an address of a network or a page may be anybody's."""


@dataclass(frozen=True)
class Found:
    """One piece of personal data: text[start:end]."""

    kind: Kind
    start: int
    end: int


_DOMAIN = re.compile(r"@[\w-]+(?:\.[\w-]+)+")
_IBAN = re.compile(r"\b[a-z]{2}\d{2}(?: ?[a-z0-9]{4}){2,7}(?: ?[a-z0-9]{1,3})?\b", re.IGNORECASE)
_IBAN_STARTS = re.compile(r"\d\d(?<=[A-Za-z]\d\d)(?=[ A-Za-z0-9]{8})")
_CARD = re.compile(r"(?<![\w.])\d(?:[ -]?\d){11,18}(?!\w)")
_PHONE = re.compile(
    r"""(?<![\w./-])(?<!\d,)(?:
        (?:\+|00)\d{1,3}(?:[ .-]?\(?\d{1,5}\)?){2,6}    # international: +41 (0)96 471 07 95
      | \(\d{1,5}\)[ .-]?\d{2,5}(?:[ .-]?\d{2,5}){1,3}  # area code in brackets: (99) 645-791
      | \d{2,5}(?:[ .-]\d{2,5}){2,4}                    # three groups or more: 905-674-3793
      | (?:0\d{4}|\d{2,4})[ -]\d{4,7}                   # two groups: 467 3395
      | 0\d{8,10}                                       # one run with a trunk prefix: 07700063966
    )(?:x\d{2,5})?(?!\w|[,/-]\d)                       # an extension may follow""",
    re.VERBOSE,
)
_BARE = re.compile(r"(?<!\w)\d{7,12}(?!\w)")
_ANNOUNCED = re.compile(
    r"\b(?:phone|tel|telephone|mobile|cell|call|ring|whatsapp|number|office|fax)(?: me)?(?: is| on| at)?[:.,\\ ]{1,3}$",
    re.IGNORECASE,
)
_NO_PHONE = re.compile(
    r"""(?:
        (?:19|20)\d{2}[ .-][01]?\d[ .-][0-3]?\d       # 2026-11-22
      | [0-3]?\d[ .-][0-3]?\d[ .-](?:19|20)?\d{2}     # 22.11.2026
      | (?:19|20)\d{2}[ -](?:19|20)\d{2}              # 2024-2026
      | (?:\d{1,3}\.){3}\d{1,3}                       # 192.168.10.200
    )(?![.\d-]|[ ]\d{3})                               # what follows a date is a time of day at most
    """,
    re.VERBOSE,
)
_NUMBER_OF = re.compile(
    r"(?:[€£$₹¥#]|\b(?:order|invoice|ticket|tracking|parcel|ref|reference|rs|inr|usd|eur|gbp))\W{0,2}$", re.I
)
_SEVEN = re.compile(r"\d(?:[ .()/-]{0,3}\d){6}")
"""Seven digits with little between them: what every number of an account or a person has."""
_FISCAL = re.compile(r"\b[a-z]{6}\d{2}[a-ehlmprst]\d{2}[a-z]\d{3}[a-z]\b", re.IGNORECASE)
_FISCAL_STARTS = re.compile(r"\d\d(?<=[A-Za-z]{6}\d\d)[A-Za-z]\d\d[A-Za-z]")
_DNI = re.compile(r"(?<!\w)(?:\d{8}|[XYZxyz]-?\d{7})-?[A-Za-z](?!\w)")
_RUN = re.compile(r"(?<![\w.,/-])\d(?:[ .-]?\d){8,17}[Xx]?(?!\w|[,/-]\d)")
_V4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)")
_V6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
_URL = re.compile(r"(?:https?|ftp)://[^\s<>\"']+|(?<![\w@.])www\.[\w-]+\.[^\s<>\"']+", re.IGNORECASE)

CONTEXT = 28
"""Characters before a number that may announce what it is."""
_Check = Callable[[Any], bool]
_NUMBERS: dict[int, tuple[tuple[NumberKind, _Check, str, str], ...]] = {
    9: (
        ("us_ssn", check_digits.us_ssn, r"\d{3}([- ])\d\d\1\d{4}", r"ssn|social security"),
        ("nl_bsn", check_digits.nl_bsn, "", r"bsn|burgerservice|sofinummer"),
    ),
    10: (("uk_nhs", check_digits.uk_nhs, "", r"\bnhs"),),
    11: (
        ("br_cpf", check_digits.br_cpf, r"\d{3}\.\d{3}\.\d{3}-\d\d", r"cpf"),
        ("de_tax_id", check_digits.de_tax_id, "", r"steuer|identifikationsnummer|tax id|idnr|\btin\b"),
        ("pl_pesel", check_digits.pl_pesel, "", r"pesel"),
    ),
    12: (("in_aadhaar", check_digits.in_aadhaar, "", r"aadh?aa?r|uidai"),),
    13: (("ch_ahv", check_digits.ch_ahv, r"756\D?\d{4}\D?\d{4}\D?\d\d", r"ahv|avs"),),
    15: (("fr_nir", check_digits.fr_nir, r"[12](?: ?\d\d){3} ?\d{2,3} ?\d{3} ?\d\d|[12]\d{14}", r"nir|sécu|securite"),),
}
"""By length: the kind, its check, the form that needs no announcement (empty: none does), the words that announce."""


def find(text: str, kinds: Collection[str] = PERSONAL) -> list[Found]:
    """Personal data of these kinds in a text, by position; pieces do not overlap.

    Cards must pass the Luhn check (ISO/IEC 7812-1), IBANs their mod-97 check (ISO 13616), numbers of people the check
    of their country. Phone numbers are runs of 7 to 15 digits (ITU-T E.164) written as phone numbers are: dates,
    amounts, addresses and numbers announced as those of an order are none. A bare run of digits counts only after a
    word such as "call", and a number that has no form of its own only after its name.
    """
    candidates: list[Found] = []
    if "://" in text or "www." in text:
        candidates += _urls(text) if "url" in kinds else ()
    numbers = _SEVEN.search(text) is not None
    if numbers:
        candidates += _numbers(text)
        candidates += _cards(text)
    if _IBAN_STARTS.search(text):
        candidates = [*_ibans(text), *candidates]
    if _FISCAL_STARTS.search(text):
        candidates += (Found("it_fiscal", *m.span()) for m in _FISCAL.finditer(text) if check_digits.it_fiscal(m[0]))
    if "@" in text:
        candidates += _emails(text)
    if "ip" in kinds:
        candidates += _addresses(text)
    if numbers:
        candidates += _phones(text)
    if not candidates:
        return candidates
    return _apart(candidates, kinds)


def _apart(candidates: list[Found], kinds: Collection[str]) -> list[Found]:
    """What is wanted of the candidates, by position; of two that overlap the earlier one in the list stays."""
    kept: list[Found] = []
    for found in candidates:
        if all(found.end <= other.start or found.start >= other.end for other in kept):
            kept.append(found)
    return sorted((found for found in kept if found.kind in kinds), key=lambda found: found.start)


def _ibans(text: str) -> Iterator[Found]:
    for match in _IBAN.finditer(text):
        pieces = match[0].split(" ")
        for count in range(len(pieces), 0, -1):  # words that happen to follow look like groups of an IBAN
            if check_digits.iban("".join(pieces[:count])):
                yield Found("iban", match.start(), match.start() + len(" ".join(pieces[:count])))
                break


def _cards(text: str) -> Iterator[Found]:
    for match in _CARD.finditer(text):
        if check_digits.luhn([int(c) for c in match[0] if c.isdigit()]):
            yield Found("card", match.start(), match.end())


def _numbers(text: str) -> Iterator[Found]:
    """Numbers of people; each has a check, and its form or its name."""
    for match in _RUN.finditer(text):
        written = match[0]
        code = "".join(c for c in written if c.isalnum())
        if len(code) == 18 and check_digits.cn_id(code):
            yield Found("cn_id", match.start(), match.end())
        if not code.isdecimal():
            continue
        digits = [int(c) for c in code]
        for kind, right, form, names in _NUMBERS.get(len(digits), ()):
            before = text[max(0, match.start() - CONTEXT) : match.start()]
            announced = bool(form and re.fullmatch(form, written)) or re.search(rf"\b(?:{names})", before, re.I)
            if announced and right(digits):
                yield Found(kind, match.start(), match.end())
    for match in _DNI.finditer(text):
        if check_digits.es_dni(match[0].replace("-", "")):
            yield Found("es_dni", match.start(), match.end())


def _emails(text: str) -> Iterator[Found]:
    for match in _DOMAIN.finditer(text):
        start = match.start()
        while start and (text[start - 1].isalnum() or text[start - 1] in "._+-"):
            start -= 1
        if start < match.start():
            yield Found("email", start, match.end())


def _urls(text: str) -> Iterator[Found]:
    for match in _URL.finditer(text):
        yield Found("url", match.start(), match.start() + len(match[0].rstrip(".,;:!?)")))


def _addresses(text: str) -> Iterator[Found]:
    patterns = [*([_V4] if text.count(".") > 2 else []), *([_V6] if text.count(":") > 1 else [])]
    for pattern in patterns:
        for match in pattern.finditer(text):
            try:
                ipaddress.ip_address(match[0])
            except ValueError:
                continue
            yield Found("ip", match.start(), match.end())


def _phones(text: str) -> Iterator[Found]:
    for match in _PHONE.finditer(text):
        n = sum(c.isdigit() for c in match[0])
        before = text[max(0, match.start() - 12) : match.start()]
        if 7 <= n <= 15 and not _NO_PHONE.match(match[0]) and not _NUMBER_OF.search(before):
            yield Found("phone", match.start(), match.end())
    for match in _BARE.finditer(text):
        if _ANNOUNCED.search(text[max(0, match.start() - CONTEXT) : match.start()]):
            yield Found("phone", match.start(), match.end())
