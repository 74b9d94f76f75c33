"""Stage 4, retrain: curate the data, train an adapter in a process of its own."""

from trimtab.training.curate import curate
from trimtab.training.train import train

__all__ = ["curate", "train"]
