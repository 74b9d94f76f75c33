"""Check digits of numbers that name a person or an account. Pure: digits in, right or wrong out.

A check digit is what tells a payment card from an order number: of random digits nine in ten, or more, fail.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

_VERHOEFF = (
    "0123456789",
    "1576283094",
    "5803796142",
    "8916043527",
    "9453126870",
    "4286573901",
    "2793806415",
    "7046913258",
)
"""The permutations of Verhoeff's scheme, by the position from the right, modulo 8."""
_ODD_CF = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
"""Values of letters (and digits, as A to J) at odd places of an Italian fiscal code."""
_DNI = "TRWAGMYFPDXBNJZSQVHLCKE"
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def luhn(digits: Sequence[int]) -> bool:
    """Payment cards (ISO/IEC 7812-1)."""
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def iban(code: str) -> bool:
    """A bank account without its spaces: mod-97 (ISO 13616)."""
    turned = (code[4:] + code[:4]).upper()
    return 15 <= len(code) <= 34 and turned.isascii() and int("".join(str(int(c, 36)) for c in turned)) % 97 == 1


def us_ssn(digits: Sequence[int]) -> bool:
    """Social Security: no area 000, 666 or 9xx, no group 00, no serial 0000 (SSA)."""
    area, group, serial = (int("".join(map(str, part))) for part in (digits[:3], digits[3:5], digits[5:]))
    return area not in (0, 666) and area < 900 and group > 0 and serial > 0


def uk_nhs(digits: Sequence[int]) -> bool:
    """NHS numbers: weights 10 to 2, modulo 11."""
    check = 11 - sum(weight * digit for weight, digit in zip(range(10, 1, -1), digits, strict=False)) % 11
    return check != 10 and digits[9] == check % 11


def de_tax_id(digits: Sequence[int]) -> bool:
    """German tax identification numbers: ISO 7064 mod 11,10."""
    product = 10
    for digit in digits[:10]:
        product = (((digit + product) % 10 or 10) * 2) % 11
    return digits[0] != 0 and (11 - product) % 10 == digits[10]


def fr_nir(digits: Sequence[int]) -> bool:
    """French social security numbers of 15 digits: 97 minus the first thirteen modulo 97; sex and month plausible."""
    text = "".join(map(str, digits))
    month = int(text[3:5])
    return text[0] in "12" and (1 <= month <= 12 or 20 <= month <= 42) and 97 - int(text[:13]) % 97 == int(text[13:])


def es_dni(code: str) -> bool:
    """Spanish DNI and NIE: the number modulo 23 chooses the letter."""
    number = {"X": "0", "Y": "1", "Z": "2"}.get(code[0].upper(), code[0]) + code[1:-1]
    return _DNI[int(number) % 23] == code[-1].upper()


def it_fiscal(code: str) -> bool:
    """Italian fiscal codes: letters and digits by place, modulo 26."""
    code = code.upper()
    values = [int(c) if c.isdigit() else ord(c) - 65 for c in code[:15]]
    return chr(65 + (sum(_ODD_CF[v] for v in values[::2]) + sum(values[1::2])) % 26) == code[15]


def ch_ahv(digits: Sequence[int]) -> bool:
    """Swiss AHV numbers: 756 and the check digit of EAN-13."""
    total = sum(digit * (3 if place % 2 else 1) for place, digit in enumerate(digits[:12]))
    return tuple(digits[:3]) == (7, 5, 6) and -total % 10 == digits[12]


def cn_id(code: str) -> bool:
    """Chinese identity cards: ISO 7064 mod 11-2 over 17 digits (GB 11643), the date of birth plausible."""
    total = sum(int(c) * pow(2, 17 - place, 11) for place, c in enumerate(code[:17]))
    month, day = int(code[10:12]), int(code[12:14])
    plausible = code[6:8] in ("19", "20") and 1 <= month <= 12 and 1 <= day <= 31
    return plausible and "10X98765432"[total % 11] == code[17].upper()


def br_cpf(digits: Sequence[int]) -> bool:
    """Brazilian CPF: two check digits modulo 11; not all digits alike."""

    def check(count: int) -> int:
        rest = sum(digit * weight for digit, weight in zip(digits, range(count + 1, 1, -1), strict=False)) % 11
        return 0 if rest < 2 else 11 - rest

    return len(set(digits)) > 1 and (digits[9], digits[10]) == (check(9), check(10))


def nl_bsn(digits: Sequence[int]) -> bool:
    """Dutch BSN: weights 9 to 2 and -1, modulo 11."""
    total = sum(weight * digit for weight, digit in zip((9, 8, 7, 6, 5, 4, 3, 2, -1), digits, strict=True))
    return total % 11 == 0 and any(digits)


def pl_pesel(digits: Sequence[int]) -> bool:
    """Polish PESEL: weights 1, 3, 7, 9, modulo 10."""
    total = sum(digit * (1, 3, 7, 9)[place % 4] for place, digit in enumerate(digits[:10]))
    return -total % 10 == digits[10]


def in_aadhaar(digits: Sequence[int]) -> bool:
    """Indian Aadhaar: Verhoeff's scheme (Verhoeff 1969)."""
    check = 0
    for place, digit in enumerate(reversed(digits)):
        check = _dihedral(check, int(_VERHOEFF[place % 8][digit]))
    return digits[0] > 1 and check == 0


def _dihedral(a: int, b: int) -> int:
    """The product in the dihedral group of order 10."""
    if a < 5:
        return (a + b) % 5 if b < 5 else 5 + (a + b) % 5
    return 5 + (a - b) % 5 if b < 5 else (a - b) % 5


def github_token(token: str) -> bool:
    """GitHub's tokens: the last six characters are the CRC-32 of those between the prefix and them, in base 62."""
    body, check = token.split("_", 1)[1][:-6], token[-6:]
    value, written = zlib.crc32(body.encode()), ""
    while value:
        value, digit = divmod(value, 62)
        written = _BASE62[digit] + written
    return written.rjust(6, "0") == check
