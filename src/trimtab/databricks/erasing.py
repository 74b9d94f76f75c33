"""What an erasure in the workspace does not reach, in words, with the statements that erase it."""

from __future__ import annotations

from trimtab.databricks import jobs
from trimtab.records.project import Project


def reached(project: Project) -> list[str]:
    """The workspace's tables that `trimtab job erase` rewrites."""
    target = jobs.target_of(project)
    return [target.in_catalog(f"{project.name}_{name}") for name in ("inference", "feedback")]


def remains(project: Project) -> list[str]:
    """What stays in the workspace after `trimtab job erase`, and what erases it.

    The endpoint's inference table is Databricks' own, and append-only; who may change that is for its owner to say.
    Batches are one row there: its id is ours up to the slash.
    """
    payload, inference = jobs.payload_table(project), reached(project)[0]
    same = "split_part(i.databricks_request_id, '/', 1) = p.databricks_request_id"
    emptied = f"SELECT 1 FROM {inference} AS i WHERE {same} AND i.request IS NULL AND i.response IS NULL"  # noqa: S608 (printed, not run)
    holds = "(p.request IS NOT NULL OR p.response IS NOT NULL)"  # what was too large is null, and was not erased
    return [
        f"not reached: {payload}, the endpoint's own table, and the view {jobs.request_log(project)} over it.",
        "Its owner erases there what is empty here, with these statements:",
        f"  ALTER TABLE {payload} SET TBLPROPERTIES ('delta.appendOnly' = 'false');",
        f"  DELETE FROM {payload} AS p WHERE {holds} AND EXISTS ({emptied});",  # noqa: S608 (printed, not run)
        f"  REORG TABLE {payload} APPLY (PURGE);",
        f"  VACUUM {payload};  -- removes the old files after delta.deletedFileRetentionDuration, 7 days by default",
        f"  ALTER TABLE {payload} SET TBLPROPERTIES ('delta.appendOnly' = 'true');",
        "not reached: tables that you made from these, the provider of a hosted model, and the text of job parameters",
    ]
