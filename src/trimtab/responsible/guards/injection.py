"""Injection and jailbreak: text that would take over the model's instructions. Rules and a small linear model. Pure.

The rules are phrases that hardly ever stand in an honest message. The model (`injection.json`, trained from our own
data by benchmarks/responsible/injection/train.py) reads the rest, a stretch of a few sentences at a time and each
sentence alone. One stretch that is very like an attack counts, or several that are somewhat, or one sentence that is
beyond doubt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from trimtab.responsible.guards import linear

STRETCH = 240
"""Characters that are judged at once, about: whole sentences."""
FEW = 4
"""Spaces in a sentence that is judged alone, at least."""
SUMMED = 3
"""Stretches that count together."""
_SENTENCE = re.compile(r"[^.!?\n。！？]*(?:[.!?。！？]+[\"')\]]*\s*|\n+|$)")


class Seen(NamedTuple):
    """What an attack was known by: `rule` or `model`, and how sure (log-odds beyond the threshold; 0 for a rule)."""

    kind: str
    margin: float


_OVER = (
    r"(?:ignor\w*|disregard\w*|forget|overrid\w*|bypass\w*|neglect|skip|drop|violat\w*|do not follow|don't follow"
    r"|stop following|no longer follow)"
)
_WHAT = (
    r"(?:instructions?|prompts?|rules|guidelines|directions|directives|commands|orders|programming|restrictions"
    r"|polic(?:y|ies)|filters?|safeguards|guardrails)"
)
_OVERS = ("ignor", "disregard", "forget", "overrid", "bypass", "neglect", "skip", "drop", "violat", "follow")
_WHATS = (
    *("instruct", "prompt", "rules", "guideline", "direct", "command", "orders", "programming", "restrict", "polic"),
    *("filter", "safeguard", "guardrail"),
)
_LIMITS = ("restrict", "rules", "limit", "filter", "censor", "guideline", "ethic", "moral", "boundar", "polic")
_LOOSE = ("unfiltered", "uncensored", "unethical", "amoral", "immoral", "illegal", "no matter how", "even if it")
_Hints = tuple[tuple[str, ...], ...]
_RULES: tuple[tuple[_Hints, re.Pattern[str]], ...] = tuple(
    (hints, re.compile(pattern))
    for hints, pattern in (
        (
            (_OVERS, _WHATS),
            rf"\b{_OVER}\b[^.!?\n]{{0,24}}\b(?:all|any|every|previous|prior|above|earlier|preceding|former|initial"
            rf"|original|your|openai\W?s?|content|ethical|safety|system)\b[^.!?\n]{{0,40}}\b{_WHAT}",
        ),
        (
            (_OVERS, ("everything", "anything", "all ")),
            rf"\b{_OVER}\b[^.!?\n]{{0,12}}\b(?:everything|anything|all (?:of )?(?:that|this|the)?)\b"
            r"(?! i (?:said|wrote|asked))[^.!?\n]{0,16}\b(?:above|before (?:that|this)|(?:that |what )?you (?:know|knew"
            r"|were told|have been told|have learned)|(?:provided|given|previous|earlier|prior) (?:documents?|articles?"
            r"|context|tasks?|assignments?|information|sources?))",
        ),
        (
            (("question",), ("answer",), ("output", "print", "say", "write")),
            r"\bdo(?: not|n't) answer (?:this|the|that|my|any) question\b[^.!?\n]{0,12}\b(?:but|and|just|only"
            r"|instead)\b[^.!?\n]{0,16}\b(?:output|print|say|write)\b",
        ),
        (
            (("new task", "new instruction", "new assignment", "new order", "your task", "instructions are now"),),
            r"\b(?:forget|drop|leave|erase|abandon)\b[^\n]{0,80}\byour new (?:task|assignment|order|role)\b"
            r"|\bnew (?:instructions|tasks|orders) (?:will )?(?:now )?follow\b[^\n]{0,30}\b(?:follow|carry|obey|answer)"
            r"|\byour (?:instructions|orders|task|rules) (?:are|is) now\b",
        ),
        (
            (("written", "said", "sentence", "lines", "words"), ("prompt", "above", "beginning")),
            r"\bwhat (?:was|is|stands) (?:written|said)\b[^.!?\n]{0,24}\b(?:beginning|start|top) of (?:this|the|your) "
            r"(?:prompt|text|conversation|message)",
        ),
        (
            (("prompt", "instruct", "rules", "message"), ("system", "hidden", "initial", "secret", "pre")),
            r"\b(?:reveal|print|repeat|show|output|display|leak|dump|disclose|recite|tell me|give me"
            r"|what (?:is|are|was|were))\b[^.!?\n]{0,40}\b(?:your|the|hidden|secret)\b[^.!?\n]{0,20}"
            r"\b(?:system (?:prompt|message)|(?:hidden|initial|secret) (?:prompt|instructions|rules)|pre-?prompt)",
        ),
        (
            (("mode", "jailb"),),
            r"\b(?:developer|dev|god|jailbr(?:eak|oken)|dan|unrestricted|unfiltered|sudo|evil)[ -]?mode\b"
            r"(?! (?:on|in) (?:my|the|our))|\bjailbr(?:eak|oken)\b[^.!?\n]{0,30}\b(?:you|yourself|your|ai|model|gpt)\b",
        ),
        ((("do anything now",),), r"do anything now"),
        (
            (("you ",), _LIMITS, ("no ", "any ", "free ", "freed", "without", "unbound", "not bound")),
            r"(?<!do )\byou (?:are|will|must|should|have|can|do|now)\b[^.!?\n]{0,80}\b(?:no|any|free (?:of|from)"
            r"|without(?: any)?|not bound by|unbound by|freed from)[^.!?\n]{0,24}\b(?:restrictions|rules|limits"
            r"|limitations|filters?|censorship|guidelines|ethic\w*|moral\w*|boundaries|content polic\w+)",
        ),
        (
            (("character",), ("break", "leave", "stay", "remain")),
            r"\b(?:never|not|don't|cannot|can't)\b[^.!?\n]{0,30}\b(?:break|breaks|leave) (?:the |your |out of )?"
            r"character\b|\b(?:stay|remain) in character\b[^.!?\n]{0,40}(?:dan|!|never|always|no matter)",
        ),
        (
            (("refus", "decline"), ("never", "not ", "n't")),
            r"\b(?:never|not|don't)\b[^.!?\n]{0,12}\b(?:refuse|decline)s?\b[^.!?\n]{0,40}\b(?:question|request|answer"
            r"|prompt|order|command|anything|human|user)",
        ),
        (
            (("i can't", "i cannot", "i'm sorry", "i am sorry", "as an ai"),),
            r"\b(?:say|use|saying)\b[^.!?\n]{0,30}[\"'](?:i can'?t|i cannot|i'm sorry|i am sorry|as an ai)",
        ),
        (
            (_LOOSE,),
            r"\b(?:unfiltered|uncensored|amoral|unethical|immoral)\b[^.!?\n]{0,60}\b(?:ai|model|assistant|chatbot|bot"
            r"|responses?|answers?|being|character|persona)\b|\b(?:ai|bot|character|response\w*|answer\w*|advice)\b"
            r"[^.!?\n]{0,60}\b(?:unfiltered|uncensored|amoral|unethical|immoral)\b"
            r"|\b(?:no matter how|even if it(?:'s| is)|regardless of)\b[^.!?\n]{0,40}\b(?:illegal|unethical|immoral)",
        ),
        (
            (("[system]", "<|im_", "[inst", "<<sys", "### system", "###system", "[admin]", "<system>"),),
            r"(?:^|\s)(?:\[/?system\]|<\|im_(?:start|end)\|>|\[/?inst\]|<</?sys>>|###\s*system\b|\[admin\]|</?system>)",
        ),
        (
            (
                ("vergiss", "ignorier", "olvid", "oubli", "dimentica", "esque", "zaboravi"),
                ("alle", "todo", "tout", "tutt", "tudo", "sve"),
            ),
            r"\b(?:vergiss|vergessen sie|ignorier\w*)\b[^.!?\n]{0,12}\b(?:alles|alle)\b[^.!?\n]{0,20}\b(?:davor"
            r"|bisher\w*|vorher\w*|vorigen|aufträge|aufgaben|befehle|anweisungen|angaben|gesagte)"
            r"|\bolvid\w+ todo (?:lo )?(?:que|anterior)|\boubli\w+ tout ce qu|\bdimentica tutto (?:quello|quanto)"
            r"|\besque\w+ tudo (?:o )?que|\bzaboravi sve\b",
        ),
        (
            (("忽略", "无视", "忘记", "不要理会", "無視", "忘れ"),),
            r"(?:忽略|无视|忘记|不要理会).{0,8}(?:指令|指示|规则|提示|要求)|(?:指示|命令|ルール).{0,6}(?:無視|忘れ)",
        ),
        (
            (
                (
                    "ignor",
                    "vergiss",
                    "missachte",
                    "olvida",
                    "omite",
                    "oublie",
                    "dimentica",
                    "esqueça",
                    "игhop",
                    "зaбyд",
                ),
                (
                    "anweisung",
                    "regel",
                    "instruc",
                    "regla",
                    "consigne",
                    "règle",
                    "istruzion",
                    "regole",
                    "regras",
                    "иhctpyk",
                ),
            ),
            r"(?:ignorier|vergiss|missachte|ignora|olvida|omite|ignore|oublie|dimentica|esqueça|игhopиpyй|зaбyдь)\w*\b"
            r"[^.!?\n]{0,40}(?:anweisung|regel|instruc|regla|consigne|règle|istruzion|regole|instruç|regras|иhctpykц)",
        ),
    )
)
"""For each rule groups of words, of each of which one must be there, and then the pattern. All in lower case, and as
folding leaves them (Russian in part in Latin letters)."""


def rule(text: str) -> bool:
    """Whether a rule finds an attack in a folded text."""
    lower = text.lower()
    return any(_hinted(lower, hints) and pattern.search(lower) for hints, pattern in _RULES)


def _hinted(lower: str, groups: _Hints) -> bool:
    for group in groups:
        for word in group:
            if word in lower:
                break
        else:
            return False
    return True


@cache
def _model() -> tuple[linear.Linear, dict[str, float]]:
    return linear.load(Path(__file__).with_name("injection.json"))


def scores(text: str) -> list[float]:
    """The model's log-odds for each stretch of a folded text."""
    model, _ = _model()
    return [model.score(stretch) for stretch in stretches(text)]


def look(text: str, model: bool = True, beyond: float = 0.0) -> Seen | None:
    """Whether a folded text attacks. `beyond` is added to the model's thresholds: above 0 it is surer, below bolder."""
    if rule(text):
        return Seen("rule", 0.0)
    if not model:
        return None
    thresholds = _model()[1]
    found = scores(text)
    margin = max(found, default=-99.0) - thresholds["one"]
    together = sum(sorted(found, reverse=True)[:SUMMED]) - thresholds["sum"]
    alone = max(map(_model()[0].score, sentences(text)), default=-99.0) - thresholds["sentence"]
    best = max(margin, alone, together if len(found) >= SUMMED else -99.0) - beyond
    return Seen("model", round(best, 2)) if best > 0 else None


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text that have several words: among honest ones an attack drowns in its stretch."""
    for match in _SENTENCE.finditer(text):
        if match[0].count(" ") >= FEW:
            yield match[0]


def stretches(text: str) -> Iterator[str]:
    """A text in whole sentences of about STRETCH characters together; a longer sentence is cut into such pieces."""
    held = ""
    for match in _SENTENCE.finditer(text):
        sentence = match[0]
        if held and len(held) + len(sentence) > STRETCH:
            yield held
            held = ""
        held += sentence
        while len(held) > 2 * STRETCH:
            yield held[:STRETCH]
            held = held[STRETCH - 40 :]
    if held.strip():
        yield held
