"""What a request is about: its text without the writer's name, and the words that carry a topic. Pure."""

from __future__ import annotations

import re

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


def body(text: str) -> str:
    """The text without a last line that starts with "From:", and without space around it.

    Who wrote a message is not what it is about: a change in the names of the writers must neither raise an alarm nor
    name a topic, and no name may reach an alert.
    """
    lines = text.strip().splitlines()
    if lines and lines[-1].lstrip().startswith("From:"):
        lines.pop()
    return "\n".join(lines).strip()


def words(text: str) -> list[str]:
    """Lower-case words of the body that can name a topic, in order: no stop words, no contractions, two letters up.

    Function words carry style rather than topic; the list is scikit-learn's, for English.
    """
    found: list[str] = []
    for match in _WORD.findall(body(text).lower().replace("’", "'")):
        word = match.partition("'")[0]
        if len(word) > 1 and not match.endswith("n't") and word not in ENGLISH_STOP_WORDS:
            found.append(word)
    return found
