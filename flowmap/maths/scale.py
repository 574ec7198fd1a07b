"""On what scale samples have to be: noise is N(0, 1), and a path from the one to the other passes through both."""

from __future__ import annotations

import math

from torch import Tensor

LEAST_RMS, MOST_RMS = 0.05, 10.0
"""Root mean square of samples; beyond, times in [0, 1] are almost all of noise alone, or of samples alone."""


def off_scale(x: Tensor) -> str:
    """What the scale of samples `x` is, in words, if it is wildly off; empty if it is not, or not finite."""
    mean = float(x.detach().float().mean())
    rms = math.sqrt(float(x.detach().float().square().mean()))
    if LEAST_RMS <= rms <= MOST_RMS or not math.isfinite(rms):
        return ""
    spread = math.sqrt(max(rms**2 - mean**2, 0.0))
    return f"a mean of {mean:.3g} and a standard deviation of {spread:.3g}"
