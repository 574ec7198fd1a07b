"""The laws of samplers."""

from flowmap.testing.check import gathered
from flowmap.testing.samplers import calls, draws, paths

CHECKS = gathered(calls.LAWS, draws.LAWS, paths.LAWS)

__all__ = ["CHECKS"]
