"""The loop, stage by stage. `run_cycle` is one pass of it; `loop.start` keeps it turning.

This room knows every stage; the stages do not know each other.
"""

from trimtab.lifecycle.bundle import write as write_bundle
from trimtab.lifecycle.cycle import STAGES, approve, card, dry_run, open_cycle, run_cycle, run_now, unfinished
from trimtab.lifecycle.evidence import data_card
from trimtab.lifecycle.explain import explain

__all__ = [
    "STAGES",
    "approve",
    "card",
    "data_card",
    "dry_run",
    "explain",
    "open_cycle",
    "run_cycle",
    "run_now",
    "unfinished",
    "write_bundle",
]
