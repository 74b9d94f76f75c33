"""Checkpoints of the audit log reach every place the file names; a place that is away gets them later."""

from __future__ import annotations

import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import mlflow
import pytest

import place
from trimtab import registry
from trimtab.lifecycle.anchor import anchor
from trimtab.promotion import apply
from trimtab.records.record import utc_now
from trimtab.records.registry import AliasMove, Prompt
from trimtab.store import verify_audit
from trimtab.store.control import Control

pytestmark = pytest.mark.filterwarnings("default")  # MLflow and its dependencies warn about themselves


class Receiver(BaseHTTPRequestHandler):
    """A webhook of the auditor's."""

    got: list[str]

    def do_POST(self) -> None:
        self.got.append(self.rfile.read(int(self.headers["content-length"])).decode())
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_each_place_has_the_newest_checkpoint_and_an_edit_of_the_database_cannot_follow(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Receiver.got = []
    server = HTTPServer(("127.0.0.1", 0), Receiver)
    port = server.server_port
    place.make(tmp_path)
    anchors = f"[mlflow, 'file:outside/checkpoints', 'webhook:http://127.0.0.1:{port}/secret-path']"
    (tmp_path / "trimtab.yaml").write_text(place.FILE + f"evidence: {{anchor: {anchors}}}\n")
    where, loaded = place.settings.load(tmp_path), place.project.load(tmp_path)
    first = registry.register_base(where, loaded)
    control, anchored = Control(where), dict[str, int]()
    server.server_close()  # the webhook is away
    with caplog.at_level(logging.WARNING):
        anchor(where, loaded, control, anchored)
    assert "did not reach" in caplog.text
    assert "secret-path" not in caplog.text
    server = HTTPServer(("127.0.0.1", port), Receiver)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        other = registry.register(
            where,
            control,
            first.spec.model_copy(update={"prompt": Prompt(system="Sort it!")}),
            config_hash="x",
            note="",
            parent=1,
        )
        move = AliasMove(
            model="desk", alias="champion", before=1, after=other.version, at=utc_now(), actor="test", reason="try"
        )
        control.move([move])
        apply.rollback(where, control, "desk", actor="test", reason="undo")
        for _ in range(2):
            anchor(where, loaded, control, anchored)
    finally:
        server.shutdown()
        server.server_close()
    newest = control.checkpoints()[len(control.audit_entries())]
    assert Receiver.got == [newest]
    kept = (tmp_path / "outside" / "checkpoints").read_text()
    assert kept.endswith(newest + "\n")
    assert kept.count(newest) == 1
    lines, key = [entry.model_dump_json() for entry in control.audit_entries()], control.signer.verifier_key
    anchors = verify_audit.notes_of(kept)
    assert len(anchors) > 1
    assert verify_audit.faults_of(lines, anchors, key) == []  # the anchor's file as it is, on an auditor's machine
    assert "the end was cut off" in " ".join(verify_audit.faults_of(lines[:-1], anchors, key))
    assert verify_audit.faults_of(lines, verify_audit.notes_of(kept.replace("\n2\n", "\n1\n", 1)), key)
    tags = mlflow.MlflowClient(where.mlflow_uri).get_registered_model("desk").tags
    assert tags["trimtab.audit_checkpoint"] == newest
    assert verify_audit.read_checkpoint(verify_audit.open_note(newest, control.signer.verifier_key))[1] == len(
        control.audit_entries()
    )
