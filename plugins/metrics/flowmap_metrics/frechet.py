"""The Fréchet distance between Gaussians fitted to two sets of vectors (FID, arXiv 1706.08500)."""

from __future__ import annotations

import math
from typing import final

import numpy as np
from scipy.linalg import eigvals
from torch import Tensor

from flowmap.interfaces import Evidence, Features, Metric
from flowmap_metrics.parts import FLOOR_PARTS, Vectors, in_parts


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
class FrechetDistance(Metric):
    """Distance to `target` in `features`; `perfect` are what ideal samples would be.

    The distance of N samples of the target's own law is above 0 by about a term in 1/N, so samples are scored in parts
    of at most as many as are `perfect`, and the floor is of parts of that same size.
    """

    def __init__(self, features: Features, target: Tensor, perfect: Tensor) -> None:
        self._features = features
        self._target = moments(self._vectors(target))
        self._perfect = self._vectors(perfect)

    def score(self, evidence: Evidence) -> float:
        """The mean distance of parts of the samples, as large as there are ideal samples."""
        return in_parts(self._distance, self._vectors(evidence.samples), len(self._perfect))

    def floor(self, size: int) -> float:
        """The mean distance of some parts of the ideal samples, of `size` (of all there are, if they are fewer)."""
        return in_parts(self._distance, self._perfect, size, FLOOR_PARTS)

    def _vectors(self, samples: Tensor) -> Vectors:
        return self._features.of(samples).double().cpu().numpy()

    def _distance(self, vectors: Vectors) -> float:
        return frechet(moments(vectors), self._target)
