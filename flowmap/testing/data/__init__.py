"""The laws of data sources."""

from flowmap.testing.check import gathered
from flowmap.testing.data import batches, labels, samples, scale

CHECKS = gathered(samples.LAWS, batches.LAWS, labels.LAWS, scale.LAWS)

__all__ = ["CHECKS"]
