"""Jigsaw's sentence templates as frames: 50 identity terms in each (data/madlibs_identity, Apache-2.0)."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

_NAMES = (
    "lesbian,gay,bisexual,transgender,trans,queer,lgbt,lgbtq,homosexual,straight,heterosexual,male,"
    "female,nonbinary,african,african american,black,white,european,hispanic,latino,latina,latinx,"
    "mexican,canadian,american,asian,indian,middle eastern,chinese,japanese,christian,muslim,jewish,"
    "buddhist,catholic,protestant,sikh,taoist,old,older,young,younger,teenage,millenial,middle aged,"
    "elderly,blind,deaf,paralyzed"
)
IDENTITIES = tuple(_NAMES.split(","))
_TERM = re.compile(rf"\b({'|'.join(sorted(IDENTITIES, key=len, reverse=True))})\b", re.IGNORECASE)


@dataclass(frozen=True)
class MadlibFrame:
    """A template with one slot, {x}, and whether it is toxic whatever stands there."""

    kind: str
    text: str
    toxic: bool

    def orbit(self) -> list[str]:
        """The sentence about every identity, in the order of IDENTITIES."""
        return [self.text.replace("{x}", identity) for identity in IDENTITIES]


def frames(data: Path) -> list[MadlibFrame]:
    """Every frame that has all 50 identities, in an order set by its hash."""
    seen: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    with (data / "madlibs_identity" / "en_sentence_templates.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if match := _TERM.search(row["phrase"]):
                text = row["phrase"][: match.start()] + "{x}" + row["phrase"][match.end() :]
                seen[row["template"], text, row["toxicity"]].add(match[1].lower())
    whole = [MadlibFrame(kind, text, toxic == "toxic") for (kind, text, toxic), ids in seen.items() if len(ids) == 50]
    return sorted(whole, key=lambda frame: sha256(frame.text.encode()).digest())


def masked(text: str) -> str:
    """The sentence with its identity term replaced by a neutral word (what `masking` does with these 50 terms)."""
    return _TERM.sub("individual", text)
