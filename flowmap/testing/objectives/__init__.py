"""The laws of objectives."""

from flowmap.testing.check import gathered
from flowmap.testing.objectives import batches, losses, meaning, turns

CHECKS = gathered(turns.LAWS, losses.LAWS, batches.LAWS, meaning.LAWS)

__all__ = ["CHECKS"]
