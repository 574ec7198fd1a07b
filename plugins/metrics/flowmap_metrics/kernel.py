"""The kernel distance between two sets of vectors (KID, arXiv 1801.01401)."""

from __future__ import annotations

import math
from statistics import fmean
from typing import final

import numpy as np
from torch import Tensor

from flowmap.interfaces import Evidence, Features, Metric
from flowmap_metrics.parts import FLOOR_PARTS, Vectors, parts


def kernel_distance(x: Vectors, y: Vectors) -> float:
    """The squared maximum mean discrepancy of vectors `[M, D]` and `[N, D]`, estimated without bias: it may be below 0.

    The kernel is (x y / D + 1)^3.
    """

    def kernel(a: Vectors, b: Vectors) -> Vectors:
        return (a @ b.T / a.shape[1] + 1) ** 3

    within = [
        (found.sum() - np.trace(found)) / (len(found) * (len(found) - 1)) for found in (kernel(x, x), kernel(y, y))
    ]
    return float(sum(within) - 2 * kernel(x, y).mean())


@final
class KernelDistance(Metric):
    """Distance to `target` in `features`; `perfect` are what ideal samples would be.

    As KID is computed: the mean over `subsets` pairs of subsets of `size` samples, of fewer where there are no more.
    """

    def __init__(self, features: Features, target: Tensor, perfect: Tensor, subsets: int, size: int) -> None:
        self._features, self._subsets, self._size = features, subsets, size
        self._target, self._perfect = self._vectors(target), self._vectors(perfect)

    def score(self, evidence: Evidence) -> float:
        """The mean over pairs of subsets, which are the same at every call."""
        return self._distance(self._vectors(evidence.samples))

    def floor(self, size: int) -> float:
        """The root mean square of what parts of the ideal samples score, of `size`.

        Their mean is 0, and so are half of them below: what chance makes of 0 is what nothing can be told apart below.
        """
        rows = list(parts(len(self._perfect), min(size, len(self._perfect))))[:FLOOR_PARTS]
        return math.sqrt(fmean(self._distance(self._perfect[chosen]) ** 2 for chosen in rows))

    def _vectors(self, samples: Tensor) -> Vectors:
        return self._features.of(samples).double().cpu().numpy()

    def _distance(self, vectors: Vectors) -> float:
        if not np.isfinite(vectors).all():
            return math.nan
        rng, size = np.random.default_rng(0), min(self._size, len(vectors), len(self._target))

        def subset(of: Vectors) -> Vectors:
            return of[rng.choice(len(of), size, replace=False)]

        return fmean(kernel_distance(subset(vectors), subset(self._target)) for _ in range(self._subsets))
