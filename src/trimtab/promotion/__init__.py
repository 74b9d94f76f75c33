"""Gather evidence on a candidate, decide, roll out step by step, roll back."""
