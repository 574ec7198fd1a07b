"""The laws of data sources."""

from flowmap.testing.check import gathered
from flowmap.testing.data import batches, labels, samples

CHECKS = gathered(samples.LAWS, batches.LAWS, labels.LAWS)

__all__ = ["CHECKS"]
