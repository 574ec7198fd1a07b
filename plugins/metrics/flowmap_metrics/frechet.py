"""The Fréchet distance between Gaussians fitted to two sets of vectors (FID, arXiv 1706.08500)."""

from __future__ import annotations

import math
from typing import final

import numpy as np
from scipy.linalg import eigvals
from torch import Tensor

from flowmap.interfaces import Features
from flowmap_metrics.in_parts import InParts
from flowmap_metrics.parts import Vectors


def moments(vectors: Vectors) -> tuple[Vectors, Vectors]:
    """Mean `[D]` and covariance `[D, D]` of vectors `[N, D]`."""
    return vectors.mean(axis=0), np.atleast_2d(np.cov(vectors, rowvar=False))


def frechet(a: tuple[Vectors, Vectors], b: tuple[Vectors, Vectors]) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) for means and covariances.

    The trace of the root is the sum of the roots of the eigenvalues of C_a C_b, which are real and not
    negative; rounding may say otherwise by a little. NaN if a number of them is not finite.
    """
    (mean_a, cov_a), (mean_b, cov_b) = a, b
    if not all(np.isfinite(part).all() for part in (mean_a, cov_a, mean_b, cov_b)):
        return math.nan  # samples so large that their features overflow
    roots = np.sqrt(np.clip(eigvals(cov_a @ cov_b).real, 0, None))
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * roots.sum())


@final
class FrechetDistance(InParts):
    """Distance to `target` in `features`; `perfect` are what ideal samples would be.

    The distance of N samples of the target's own law is above 0 by about a term in 1/N.
    """

    def __init__(self, features: Features, target: Tensor, perfect: Tensor) -> None:
        super().__init__(features, perfect)
        self._target = moments(self.vectors(target))

    def number(self, vectors: Vectors) -> float:
        """See InParts."""
        return frechet(moments(vectors), self._target)
