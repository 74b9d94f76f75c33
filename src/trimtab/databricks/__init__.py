"""The annex: the same trimtab.yaml in a workspace of Azure Databricks. Delete it, and everything local still works.

The only room that may import `databricks.*`, `azure.*` and `pyspark`. What should be there is written as values
(`resources`, `jobs`), compared with what is there (`plan`), and only then changed. Foreign errors are translated where
they arrive (`faults`).
"""
