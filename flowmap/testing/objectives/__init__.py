"""The laws of objectives."""

from flowmap.testing.check import gathered
from flowmap.testing.objectives import batches, guidance, losses, meaning, numbers, times, turns

CHECKS = gathered(turns.LAWS, losses.LAWS, batches.LAWS, numbers.LAWS, times.LAWS, guidance.LAWS, meaning.LAWS)

__all__ = ["CHECKS"]
