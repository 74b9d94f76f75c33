"""Stage 4, retrain: curate the data, train an adapter in a process of its own, or have a provider fine-tune."""

from trimtab.training.curate import curate
from trimtab.training.hosted import fine_tune, plan
from trimtab.training.train import train

__all__ = ["curate", "fine_tune", "plan", "train"]
