"""A score of the Fréchet distance against the definition, whose eigenvalues are of a product that is not symmetric."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flowmap_metrics.frechet import fitted, frechet
from scipy.linalg import eigvals

from tests.benchmarks.table import interleaved, show
from tests.test_frechet import vectors


@pytest.mark.parametrize(
    ("count", "others", "dimensions", "rounds"), [(1200, 2400, 64, 15), (2000, 4000, 576, 3), (500, 2000, 1024, 3)]
)
def test_frechet(benchmark: Any, count: int, others: int, dimensions: int, rounds: int) -> None:
    a, b = vectors(count, dimensions, dimensions, 1), vectors(others, dimensions, dimensions, 2)
    # What is compared with is measured once, in both.
    target, (mean_b, cov_b) = fitted(b).reduced(), (b.mean(axis=0), np.cov(b, rowvar=False))

    def definition() -> float:
        mean_a, cov_a = a.mean(axis=0), np.cov(a, rowvar=False)
        roots = np.sqrt(np.clip(eigvals(cov_a @ cov_b).real, 0, None))
        return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * roots.sum())

    def ours() -> float:
        return frechet(fitted(a), target)

    assert ours() == pytest.approx(definition(), rel=1e-6)
    seconds = interleaved({"ours": ours, "the definition": definition}, rounds)
    benchmark.pedantic(ours, rounds=2)
    show(benchmark, f"Fréchet, {count} vectors of {dimensions} dimensions", seconds, "the definition")
