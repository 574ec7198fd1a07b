"""The laws of backbones."""

from flowmap.testing.backbones import chunks, conditions, costs, inputs, networks, sharing, spaces, tangents, weights
from flowmap.testing.check import gathered

CHECKS = gathered(
    spaces.LAWS,
    networks.LAWS,
    weights.LAWS,
    inputs.LAWS,
    conditions.LAWS,
    sharing.LAWS,
    chunks.LAWS,
    tangents.LAWS,
    costs.LAWS,
)

__all__ = ["CHECKS"]
