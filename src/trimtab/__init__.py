"""Trimtab keeps a large language model on course in production."""

__version__ = "0.1.0"
