"""Protected attributes reach an audit by groups through a pipe of two processes, and lie in no file on their way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import triage

from trimtab import registry
from trimtab.records.erasure import AttributeRead, AttributeRefused
from trimtab.records.record import utc_now
from trimtab.records.responsible import Audit
from trimtab.store import keys
from trimtab.store.control import Control

pytestmark = pytest.mark.filterwarnings("default")  # MLflow and its dependencies warn about themselves

PIPE = (
    "{trimtab} attributes read gender --purpose 'bias audit' --requests"
    " | {trimtab} fairness measure --no-twins --groups /dev/stdin"
)


def test_attributes_go_from_the_store_to_an_audit_through_a_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_log_version", lambda *_: (1, "run 1"))  # it takes its time; the audit's is real
    monkeypatch.setattr(registry, "show_aliases", lambda *_: None)
    settings, loaded = triage.write(tmp_path / "desk", "echo", "{latency_p95: null}")
    registry.register_base(settings, loaded)
    triage.answer(settings, 80)
    control, root = Control(settings), settings.root

    def shell(line: str, secret: str = "") -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"TRIMTAB_ATTRIBUTES_KEY": secret}
        command = line.format(trimtab=f"{sys.executable} -m trimtab")
        return subprocess.run(
            ["sh", "-c", command], cwd=root, env=environment, capture_output=True, text=True, check=False
        )

    people = root / "people.csv"
    people.write_text("subject,attribute,value\n" + "".join(f"caller {n},gender,g{n % 2}\n" for n in range(76)))
    assert shell("{trimtab} attributes add people.csv").returncode == 0
    people.unlink()
    key, secret = keys.create(control, triage.MODEL, name="a", scopes=("attributes",), by="test", now=utc_now())

    done = shell(PIPE, secret)
    assert done.returncode in (0, 1), done.stderr  # 1: a difference between random answers happened to be established
    (audit,) = [one for one in control.facts("audit", Audit) if one.kind == "groups"]
    sizes = {one.group: one.n for one in audit.findings if (one.attribute, one.metric) == ("gender", "accuracy")}
    assert audit.n == 80
    assert (sizes["g0"], sizes["g1"]) == (38, 38)
    (seen,) = control.facts("attribute_read", AttributeRead)
    assert (seen.key, seen.purpose, seen.subjects) == (key, "bias audit", 76)
    kinds = [entry.kind for entry in control.audit_entries()]
    assert kinds.index("attribute_read") < kinds.index("audit")

    refused = shell("{trimtab} attributes read gender --requests")
    assert (refused.returncode, refused.stdout) == (2, "")
    (tried,) = control.facts("attribute_refused", AttributeRefused)
    assert (tried.key, tried.reason, tried.attributes) == (None, "unknown key", ("gender",))
