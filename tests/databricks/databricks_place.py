"""The project of these tests: a help desk on the echo engine, with a workspace."""

from __future__ import annotations

from typing import NamedTuple

from trimtab.project import Loaded
from trimtab.settings import Settings
from trimtab.store.control import Control

TARGET = """\
target:
  databricks:
    catalog: ml
    schema: support
    warehouse: a1b2c3
    cluster: {libraries: ['fairlearn==0.13.0']}
    alerts: {emails: [ops@example.com]}
    azure:
      subscription: 00000000-0000-0000-0000-000000000000
      resource_group: rg-llmops
      region: westeurope
      workspace: llmops
"""


class Desk(NamedTuple):
    """A project whose champion is version 1 and whose challenger, version 2, has a tenth of the callers."""

    settings: Settings
    loaded: Loaded
    control: Control
