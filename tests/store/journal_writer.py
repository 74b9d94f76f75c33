"""Builds journal frames for tests; as a program, a gateway's worker that writes rows until it is killed.

    python journal_writer.py FOLDER NAME SEGMENT_BYTES

It says each thing on stdout after the journal has it: `o ID` opened, `c ID` closed, `f ID` feedback. Each row opens
before the one before it closes, so rows cross segments and a kill always finds one open.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from trimtab.store.journal import Closed, FeedbackFrame, Journal, Opened


def opened(request_id: str, **changes) -> Opened:
    fields = {
        "request_id": request_id,
        "client_request_id": None,
        "caller": "caller",
        "requester": "key-1",
        "model": "support-triage",
        "version": 3,
        "route": "champion",
        "path": "/v1/chat/completions",
        "at_ms": 1_700_000_000_123,
        "request": b'{"messages":[]}',
    }
    return Opened(**{**fields, **changes})


def closed(request_id: str, **changes) -> Closed:
    row = opened(request_id)
    fields = {name: getattr(row, name) for name in Opened.__struct_fields__} | {
        "status_code": 200,
        "duration_ms": 40,
        "ttfb_ms": 9,
        "input_tokens": 30,
        "output_tokens": 7,
        "outcome": "ok",
        "input_text": "Where is my parcel?",
        "output_text": '{"intent":"delivery"}',
        "response": b'{"choices":[]}',
    }
    return Closed(**{**fields, **changes})


def feedback(feedback_id: str, **changes) -> FeedbackFrame:
    fields = {
        "feedback_id": feedback_id,
        "at_ms": 1_700_000_100_000,
        "request_id": None,
        "client_request_id": None,
        "name": "label",
        "value": {"intent": "refund"},
        "source": "human",
    }
    return FeedbackFrame(**{**fields, **changes})


def main(folder: str, name: str, segment_bytes: str) -> None:
    journal = Journal(Path(folder), int(segment_bytes))
    row = 0
    while True:
        journal.opened(opened(f"{name}-{row}"))
        print("o", f"{name}-{row}", flush=True)
        if row:
            journal.closed(closed(f"{name}-{row - 1}"))
            print("c", f"{name}-{row - 1}", flush=True)
        if row % 5 == 0:
            journal.feedback(feedback(f"{name}-{row}", request_id=f"{name}-{row}"))
            print("f", f"{name}-{row}", flush=True)
        row += 1
        time.sleep(0.001)


if __name__ == "__main__":
    main(*sys.argv[1:])
