"""What a fine-tune at the provider needs is missed by `trimtab check`, with the line and the fix; so is its end."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from trimtab import project

FILE = """\
name: desk
model: {{base: '{base}', prompt: prompt.md}}
task: {{kind: classification, labels: labels.yaml}}
providers: {{azure: {{base_url: 'https://x.openai.azure.com/openai/v1', key_env: K}}}}
monitor: {{input_drift: {{window: 50}}}}
retrain: {{when: {when}, method: hosted, hosted: {hosted}}}
"""
RESOURCE = "/subscriptions/s/resourceGroups/g/providers/Microsoft.CognitiveServices/accounts/a"
WHOLE = f"{{model: gpt-4.1-mini-2025-04-14, deployment: {{resource: {RESOURCE}}}}}"

DEPLOYED = f"{{deployment: {{resource: {RESOURCE}}}}}"


def faults(
    folder: Path, today: date, *, base: str = "azure:triage", hosted: str = WHOLE, when: str = "[]"
) -> list[tuple[str, str, str]]:
    (folder / "trimtab.yaml").write_text(FILE.format(base=base, hosted=hosted, when=when))
    (folder / "labels.yaml").write_text("intent: [refund, login]\n")
    (folder / "prompt.md").write_text("Sort the message.\n")
    return [(fault.severity, fault.field, str(fault)) for fault in project.check(folder, today)]


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"hosted": "{}"}, "retrain.hosted.model", "is missing: on Azure a base is a deployment"),
        ({"hosted": "{model: gpt-4.1}"}, "retrain.hosted.deployment", "answers only once it is deployed"),
        ({"base": "echo"}, "retrain.method", "is no provider's model"),
        ({"base": "openai:gpt-4.1", "hosted": DEPLOYED}, "retrain.hosted.deployment", "is Azure's"),
        ({"hosted": WHOLE[:-1] + ", max_usd: 5}"}, "retrain.hosted.max_usd", "needs a price"),
        ({"hosted": WHOLE.replace("4.1-mini", "5")}, "retrain.hosted.model", "gpt-5 cannot be fine-tuned ["),
    ],
)  # fmt: skip
def test_what_is_missing_or_impossible_is_named(
    tmp_path: Path, change: dict[str, str], field: str, message: str
) -> None:
    found = faults(tmp_path, date(2026, 8, 1), **change)
    assert any(severity == "error" and at == field and message in said for severity, at, said in found), found


@pytest.mark.parametrize(
    ("today", "when", "expected"),
    [
        (date(2026, 8, 1), "['cron: 0 3 * * SUN']", []),
        (date(2027, 2, 15), "['cron: 0 3 * * SUN']", [("warning", "until 2027-04 only")]),
        (date(2027, 3, 30), "['cron: 0 3 * * SUN']", [("error", "before the next cycle on 2027-04-04")]),
        (date(2027, 3, 30), "[input_drift]", [("warning", "until 2027-04 only")]),
        (date(2027, 4, 1), "[]", [("error", "can no longer be fine-tuned since 2027-04-01")]),
    ],
)  # fmt: skip
def test_a_model_whose_training_ends_is_warned_of_and_then_refused(
    tmp_path: Path, today: date, when: str, expected: list[tuple[str, str]]
) -> None:
    found = [(severity, said) for severity, at, said in faults(tmp_path, today, when=when) if "hosted" in at]
    assert [severity for severity, _ in found] == [severity for severity, _ in expected]
    assert all(part in said for (_, said), (_, part) in zip(found, expected, strict=True))
