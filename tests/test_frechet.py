"""The Fréchet distance against the definition, and against closed forms where the definition itself loses digits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from flowmap_metrics.frechet import fitted, frechet
from flowmap_metrics.parts import Vectors
from scipy.linalg import eigvals


def by_definition(a: Vectors, b: Vectors) -> float:
    """The eigenvalues of the product of both covariances, which is not symmetric."""
    (mean_a, cov_a), (mean_b, cov_b) = ((x.mean(axis=0), np.atleast_2d(np.cov(x, rowvar=False))) for x in (a, b))
    roots = np.sqrt(np.clip(eigvals(cov_a @ cov_b).real, 0, None))
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * roots.sum())


def vectors(count: int, dimensions: int, rank: int, seed: int) -> Vectors:
    """Of a covariance of `rank`, whose axes are the same for all seeds; far from isotropic."""
    axes = np.linalg.qr(np.random.default_rng(99).normal(size=(dimensions, dimensions)))[0][:rank]
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, rank)) * np.exp(-np.arange(rank) / 8) @ axes + 0.1 * seed


@pytest.mark.parametrize(
    ("count", "others", "dimensions", "rank"),
    [
        pytest.param(90, 150, 20, 20, id="more vectors than dimensions"),
        pytest.param(12, 150, 20, 20, id="fewer"),
        pytest.param(150, 12, 20, 20, id="fewer to compare with"),
        pytest.param(12, 15, 20, 20, id="both fewer"),
        pytest.param(20, 20, 20, 20, id="as many"),
        pytest.param(90, 150, 20, 7, id="singular"),
        pytest.param(12, 150, 20, 7, id="fewer and singular"),
        pytest.param(2, 150, 20, 20, id="two"),
        pytest.param(90, 150, 1, 1, id="one dimension"),
        pytest.param(2, 2, 1, 1, id="two of one dimension"),
    ],
)
def test_the_distance_is_that_of_the_definition(count: int, others: int, dimensions: int, rank: int) -> None:
    a, b = vectors(count, dimensions, rank, 1), vectors(others, dimensions, rank, 2) * 1.3
    expected = pytest.approx(by_definition(a, b), rel=1e-6)
    assert frechet(fitted(a), fitted(b)) == expected
    assert frechet(fitted(a), fitted(b).reduced()) == expected
    assert frechet(fitted(b), fitted(a)) == expected
    assert len(fitted(b).reduced().factor) <= dimensions


@pytest.mark.parametrize("count", [40, 12])
def test_the_distance_of_commuting_covariances_is_that_of_their_deviations(count: int) -> None:
    """Both of the same principal axes, of deviations s and t: |m_a - m_b|^2 + |s - t|^2; some of them are 0."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(20, 20)))[0][:9]
    raw = rng.normal(size=(count, 9))
    white = np.linalg.qr(raw - raw.mean(axis=0))[0] * math.sqrt(count - 1)
    deviations = np.array([[10.0, 3, 1, 0.1, 1e-2, 1e-3, 1e-4, 0, 0], [9.0, 4, 1, 0.1, 0.02, 0, 1e-4, 1e-3, 0]])
    a, b = (white * s @ axes for s in deviations)
    shift = rng.normal(size=20)
    expected = (shift**2).sum() + ((deviations[0] - deviations[1]) ** 2).sum()
    assert frechet(fitted(a), fitted(b + shift).reduced()) == pytest.approx(expected, rel=1e-6)
    assert frechet(fitted(a), fitted(a).reduced()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("dimensions", [5, 40])
def test_a_distance_that_overflows_is_no_number(dimensions: int) -> None:
    fine = vectors(30, dimensions, 5, 1)
    for wrong in (fine * 1e200, np.where(fine == fine.max(), np.inf, fine), fine * np.nan, fine[:1]):
        assert math.isnan(frechet(fitted(wrong), fitted(fine).reduced()))
        assert math.isnan(frechet(fitted(fine), fitted(wrong).reduced()))
    # Their variances are finite, and of more vectors than dimensions a product of them is not.
    large = frechet(fitted(fine * 1e110), fitted(fine * 1e110).reduced())
    assert math.isnan(large) if dimensions == 5 else large < 1e210
