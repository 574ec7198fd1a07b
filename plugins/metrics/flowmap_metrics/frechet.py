"""The Fréchet distance between Gaussians fitted to two sets of vectors (FID, arXiv 1706.08500)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from scipy.linalg import eigvalsh, qr, svdvals
from torch import Tensor

from flowmap.interfaces import Features
from flowmap_metrics.in_parts import InParts
from flowmap_metrics.parts import Vectors


@final
@dataclass(frozen=True)
class Gaussian:
    """A Gaussian of D dimensions: its mean `[D]`, and a factor A `[K, D]` of its covariance C = A^T A."""

    mean: Vectors
    factor: Vectors

    def finite(self) -> bool:
        """Whether all numbers are, the variances too."""
        return bool(np.isfinite(self.mean).all() and np.isfinite(self.trace()))

    def trace(self) -> float:
        """The sum of the variances; infinite if it overflows."""
        with np.errstate(over="ignore", invalid="ignore"):
            return float(np.square(self.factor).sum())

    def reduced(self) -> Gaussian:
        """The same with a factor of at most D rows: for a Gaussian that many others are compared with."""
        rows, columns = self.factor.shape
        if rows <= columns or not self.finite():
            return self
        (triangle,) = qr(self.factor, mode="r", check_finite=False)
        return replace(self, factor=triangle[:columns])


def fitted(vectors: Vectors) -> Gaussian:
    """The mean and the unbiased covariance of vectors `[N, D]`; the covariance of fewer than two is NaN."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = vectors.mean(axis=0)
        return Gaussian(mean, (vectors - mean) / math.sqrt(len(vectors) - 1 or math.nan))


def frechet(a: Gaussian, b: Gaussian) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), NaN if a number of them is not finite.

    With C_a = A^T A and C_b = B^T B (B of at most D rows) the trace of the root is the sum of the singular values of
    A B^T, or of the roots of the eigenvalues of B C_a B^T. The first is exact for singular covariances too, as those of
    fewer vectors than dimensions are; the second costs less where there are more vectors.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if not (a.finite() and b.finite()):
            return math.nan  # samples so large that their features overflow
        rows, columns = a.factor.shape
        few, other = rows <= columns, b.reduced().factor
        product = a.factor @ other.T if few else other @ (a.factor.T @ a.factor) @ other.T
        if not np.isfinite(product).all():
            return math.nan
        # Rounding may make a number below 0 of an eigenvalue of 0.
        roots = svdvals(product) if few else np.sqrt(np.clip(eigvalsh(product), 0, None))
        return float(np.square(a.mean - b.mean).sum() + a.trace() + b.trace() - 2 * roots.sum())


@final
class FrechetDistance(InParts):
    """Distance to `target` in `features`; `perfect` are what ideal samples would be.

    The distance of N samples of the target's own law is above 0 by about a term in 1/N.
    """

    def __init__(self, features: Features, target: Tensor, perfect: Tensor) -> None:
        super().__init__(features, perfect)
        self._target = fitted(self.vectors(target)).reduced()

    def number(self, vectors: Vectors) -> float:
        """See InParts."""
        return frechet(fitted(vectors), self._target)
