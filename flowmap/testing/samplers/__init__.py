"""The laws of samplers."""

from flowmap.testing.check import gathered
from flowmap.testing.samplers import calls, conditions, draws, paths

CHECKS = gathered(calls.LAWS, draws.LAWS, conditions.LAWS, paths.LAWS)

__all__ = ["CHECKS"]
