"""Rates by group: on their denominators, for intersections, and on live traffic with the caller as the unit."""

from __future__ import annotations

import random

import pytest
from sklearn.metrics import recall_score

from trimtab.records.responsible import Policy, Tolerance
from trimtab.responsible import gate, labelled, quality_of_service
from trimtab.responsible.labelled import Labelled
from trimtab.responsible.quality_of_service import Served

POLICY = Policy(gating={"fpr": Tolerance(gap=0.10), "refusal": Tolerance(gap=0.10)}, resamples=2000)


def rows(n: int = 1200) -> Labelled:
    """Dialect b is called rude falsely in four of ten cases, dialect a in one of twenty."""
    lot = random.Random(1)  # noqa: S311
    truth, said, dialect, age = [], [], [], []
    for _ in range(n):
        group, rude = lot.choice("ab"), lot.random() < 0.3
        wrong = lot.random() < (0.4 if group == "b" and not rude else 0.05)
        truth.append("rude" if rude else "fine")
        said.append(None if lot.random() < 0.01 else "rude" if rude != wrong else "fine")
        dialect.append(group)
        age.append(lot.choice(["young", "old"]))
    return Labelled(tuple(truth), tuple(said), {"dialect": tuple(dialect), "age": tuple(age)}, ("rude",))


def test_a_planted_false_positive_rate_is_found_and_the_counts_are_the_metrics() -> None:
    given = rows()
    counts = labelled.counted(given, ["dialect"], POLICY)
    mine = [
        (t, a or "") for t, a, g in zip(given.truth, given.answers, given.groups["dialect"], strict=True) if g == "b"
    ]
    missed = 1 - recall_score([t == "rude" for t, _ in mine], [a == "rude" for _, a in mine])
    k, n = counts["fnr"]["b"]
    assert k / n == pytest.approx(missed)
    verdict, findings, reasons = gate.judge(labelled.gaps(given, POLICY, [("dialect", "age")]), POLICY)
    assert verdict == "fail"
    assert all("fpr/dialect" in reason for reason in reasons)
    groups = {f.group for f in findings if f.attribute == "dialect+age"}
    assert groups == {"a+old", "a+young", "b+old", "b+young"}
    assert not any(f.gating for f in findings if f.attribute == "dialect+age")  # exploratory, unless named in full


def test_groups_come_from_a_side_file_and_small_ones_are_merged_only_by_a_rule() -> None:
    table = {"1": {"dialect": "a"}, "2": {"dialect": "b"}}
    assert labelled.attributes_of(["1", "2", "3"], table) == {"dialect": ("a", "b", "undeclared")}
    given = Labelled(("x", "y"), ("x", "x"), {"age": ("17", "18")})
    merged = POLICY.model_copy(update={"merged": {"age=17": "under 20", "age=18": "under 20"}})
    assert labelled.counted(given, ["age"], merged)["accuracy"] == {"under 20": (1, 2)}
    assert set(labelled.counted(given, ["age"], POLICY)) >= {"fpr:x", "fnr:y", "selection_rate:x"}


def served(script: str, caller: str, refused: bool) -> Served:
    return Served(caller, {"script": script}, refusal=refused, error=False, seconds=1.0)


def test_one_caller_who_is_refused_a_hundred_times_is_one_caller() -> None:
    crowd = [served("latin", f"l{i}", i % 20 == 0) for i in range(400)]
    many = [served("cyrillic", f"c{i}", i % 2 == 0) for i in range(100)]
    one = [served("cyrillic", "c0", True) for _ in range(100)]

    def verdict(found: list[Served]) -> str:
        return gate.judge(quality_of_service.gaps(found, POLICY), POLICY)[0]

    assert verdict(crowd + many) == "fail"
    assert verdict(crowd + one) == "insufficient"


def test_callers_who_come_back_widen_the_interval() -> None:
    lot = random.Random(2)  # noqa: S311
    once = [served("latin" if i % 2 else "greek", str(i), lot.random() < 0.2) for i in range(600)]
    often = [served(r.groups["script"], r.caller, bool(r.refusal)) for r in once[:60] for _ in range(10)]
    widths = []
    for found in (once, often):
        gaps = [g for g in quality_of_service.gaps(found, POLICY) if g.metric == "refusal"]
        widths.append(gaps[0].interval(0.95).high - gaps[0].interval(0.95).low)
    assert widths[1] > 2 * widths[0]


def test_a_script_is_read_off_the_letters() -> None:
    texts = {
        "latin": "Où est mon colis?",
        "chinese": "我的包裹在哪里",
        "japanese": "荷物はどこですか",
        "cyrillic": "Где посылка",
    }
    assert {quality_of_service.script(text): text for text in texts.values()} == texts
    assert quality_of_service.script("12 !") == "other"


def test_a_language_is_read_off_its_function_words() -> None:
    texts = {
        "english": "How can I change the address of my order?",
        "german": "Ich kann mich nicht mit meinem Passwort anmelden, was ist los?",
        "french": "Bonjour, je ne trouve pas le bouton pour changer mon adresse",
        "spanish": "Hola, no puedo entrar en mi cuenta y el pedido no llega",
        "italian": "Non riesco ad accedere, come posso cambiare la password?",
        "portuguese": "Não consigo entrar na minha conta, você pode ajudar?",
        "dutch": "Ik kan niet inloggen op mijn account, wat is er aan de hand?",
        "polish": "Nie mogę się zalogować, proszę o pomoc",
        "turkish": "Benim siparişim için bir sorun var, yardım lütfen",
        "chinese": "我的包裹在哪里",
    }
    assert [quality_of_service.language(text) for text in texts.values()] == list(texts)
    assert quality_of_service.language("Refund order 4711") == "undecided"
