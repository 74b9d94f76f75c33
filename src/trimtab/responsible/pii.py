"""Personal data with a fixed form in a text: e-mail addresses, phone numbers, payment cards, IBANs. Pure.

Names of people are not looked for. They have no form to recognise (a small named-entity model finds about six in ten),
most messages are signed, so that leaving out what has a name would leave out nearly everything, and the effect of a
name on the answer is what the fairness gate measures and its mitigation removes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["iban", "card", "email", "phone"]


@dataclass(frozen=True)
class Found:
    """One piece of personal data: text[start:end]."""

    kind: Kind
    start: int
    end: int


_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_IBAN = re.compile(r"\b[a-z]{2}\d{2}(?: ?[a-z0-9]{4}){2,7}(?: ?[a-z0-9]{1,3})?\b", re.IGNORECASE)
_CARD = re.compile(r"(?<![\w.])\d(?:[ -]?\d){11,18}(?!\w)")
_PHONE = re.compile(
    r"""(?<![\w.,/-])(?:
        (?:\+|00)\d{1,3}(?:[ .-]?\(?\d{1,5}\)?){2,6}    # international: +41 (0)96 471 07 95
      | \(\d{1,5}\)[ .-]?\d{2,5}(?:[ .-]?\d{2,5}){1,3}  # area code in brackets: (99) 645-791
      | \d{2,5}(?:[ .-]\d{2,5}){2,4}                    # three groups or more: 905-674-3793
      | (?:0\d{4}|\d{2,4})[ -]\d{4,7}                   # two groups: 467 3395
      | 0\d{8,10}                                       # one run with a trunk prefix: 07700063966
    )(?:x\d{2,5})?(?!\w|[,/-]\d)                       # an extension may follow""",
    re.VERBOSE,
)
_ANNOUNCED = re.compile(
    r"\b(?:phone|tel|telephone|mobile|cell|call|ring|whatsapp|number)(?: me)?(?: is| on| at)?[:. ]{1,2}\d{7,12}\b",
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


def find(text: str) -> list[Found]:
    """Personal data in a text, by position; pieces do not overlap.

    Cards must pass the Luhn check (ISO/IEC 7812-1), IBANs their mod-97 check (ISO 13616). Phone numbers are runs of 7
    to 15 digits (ITU-T E.164) written as phone numbers are: dates, amounts, addresses and numbers announced as those
    of an order are none. A bare run of digits counts only after a word such as "call".
    """
    kept: list[Found] = []
    for found in [*_ibans(text), *_cards(text), *_emails(text), *_phones(text)]:
        if all(found.end <= other.start or found.start >= other.end for other in kept):
            kept.append(found)
    return sorted(kept, key=lambda found: found.start)


def _ibans(text: str) -> Iterator[Found]:
    for match in _IBAN.finditer(text):
        pieces = match[0].split(" ")
        for count in range(len(pieces), 0, -1):  # words that happen to follow look like groups of an IBAN
            if _iban("".join(pieces[:count])):
                yield Found("iban", match.start(), match.start() + len(" ".join(pieces[:count])))
                break


def _iban(code: str) -> bool:
    turned = (code[4:] + code[:4]).upper()
    return 15 <= len(code) <= 34 and turned.isascii() and int("".join(str(int(c, 36)) for c in turned)) % 97 == 1


def _cards(text: str) -> Iterator[Found]:
    for match in _CARD.finditer(text):
        if _luhn([int(c) for c in match[0] if c.isdigit()]):
            yield Found("card", match.start(), match.end())


def _luhn(digits: list[int]) -> bool:
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _emails(text: str) -> Iterator[Found]:
    for match in _EMAIL.finditer(text):
        yield Found("email", match.start(), match.end())


def _phones(text: str) -> Iterator[Found]:
    for match in _PHONE.finditer(text):
        n = sum(c.isdigit() for c in match[0])
        before = text[max(0, match.start() - 12) : match.start()]
        if 7 <= n <= 15 and not _NO_PHONE.match(match[0]) and not _NUMBER_OF.search(before):
            yield Found("phone", match.start(), match.end())
    for match in _ANNOUNCED.finditer(text):
        yield Found("phone", match.start(), match.end())
