"""The laws of objectives."""

from flowmap.testing.check import gathered
from flowmap.testing.objectives import batches, losses, meaning, times, turns

CHECKS = gathered(turns.LAWS, losses.LAWS, batches.LAWS, times.LAWS, meaning.LAWS)

__all__ = ["CHECKS"]
