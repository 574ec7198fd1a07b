"""The laws of data sources."""

from flowmap.testing.check import gathered
from flowmap.testing.data import batches, samples

CHECKS = gathered(samples.LAWS, batches.LAWS)

__all__ = ["CHECKS"]
