"""The metrics against closed forms and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from flowmap_datasets import DigitsConfig
from flowmap_datasets.digits import Digits
from flowmap_gaussian import GaussianConfig, MixtureConfig
from flowmap_gaussian.data import GaussianData
from flowmap_gaussian.exact import GaussianBackbone
from flowmap_metrics import SlicedWassersteinConfig
from flowmap_metrics.classifier import train_classifier
from flowmap_metrics.distances import NearestTrain, Semigroup, SlicedWasserstein
from flowmap_metrics.frechet import FrechetDistance, features_of, frechet, moments, raw
from scipy.linalg import sqrtm

from flowmap.catalogue import catalogue
from flowmap.configs import SampleSpec
from flowmap.draw import Draw
from flowmap.interfaces import Batch, Evidence, NoCond, References, Role, Samples, as_flow_map
from flowmap.path import noised

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits(DigitsConfig())


def evidence(samples: torch.Tensor, role: Role | None = None, batch: Batch | None = None) -> Evidence:
    network = role.network if role else None
    return Evidence(samples, network, batch, Draw.whole(3, "metric", 0, "test", len(samples)))  # type: ignore[arg-type]


def spd(rng: np.random.Generator, size: int) -> np.ndarray:
    a = rng.normal(size=(size, size))
    return a @ a.T + 0.1 * np.eye(size)


def test_frechet_of_diagonal_gaussians_is_the_closed_form() -> None:
    mean_a, mean_b = np.array([0.0, 1.0, -2.0]), np.array([0.5, 1.0, 1.0])
    std_a, std_b = np.array([1.0, 2.0, 0.5]), np.array([1.5, 2.0, 3.0])
    expected = ((mean_a - mean_b) ** 2).sum() + ((std_a - std_b) ** 2).sum()
    assert frechet((mean_a, np.diag(std_a**2)), (mean_b, np.diag(std_b**2))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_frechet_of_any_gaussians_agrees_with_a_matrix_square_root(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.normal(size=6), spd(rng, 6)), (rng.normal(size=6), spd(rng, 6))
    by_root = ((a[0] - b[0]) ** 2).sum() + np.trace(a[1] + b[1] - 2 * sqrtm(a[1] @ b[1]).real)
    assert frechet(a, b) == pytest.approx(by_root, rel=1e-8)
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-10)
    assert frechet(a, a) == pytest.approx(0, abs=1e-10)


def test_frechet_survives_features_that_never_vary() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 4)), rng.normal(size=(50, 4))
    a[:, 1] = b[:, 1] = 0
    without = frechet(moments(np.delete(a, 1, 1)), moments(np.delete(b, 1, 1)))
    assert frechet(moments(a), moments(b)) == pytest.approx(without, rel=1e-8)


def test_moments_are_the_unbiased_ones() -> None:
    mean, cov = moments(np.array([[0.0, 0.0], [2.0, 4.0]]))
    np.testing.assert_allclose(mean, [1, 2])
    np.testing.assert_allclose(cov, [[2, 4], [4, 8]])


def test_the_floor_is_the_score_of_that_many_ideal_samples() -> None:
    target, perfect = torch.randn(500, 1, 3, generator=torch.Generator().manual_seed(0)), torch.ones(100, 1, 3)
    perfect[:40] = target[:40]
    metric = FrechetDistance(raw, target, perfect)
    assert metric.floor(40) == metric.score(evidence(perfect[:40]))
    assert metric.floor(10**9) == metric.score(evidence(perfect))
    assert metric.floor(40) < metric.floor(100)


def test_the_classifier_knows_digits_and_its_features_are_scaled_and_reproducible(digits: Digits) -> None:
    train, held_out = digits.reference("train", 10**9), digits.reference("held_out", 10**9)
    before = torch.random.get_rng_state()
    classifier = train_classifier(train)
    assert torch.equal(before, torch.random.get_rng_state())
    with torch.no_grad():
        right = (classifier(held_out.x).argmax(1) == held_out.labels).float().mean()
    assert right > 0.97
    features = features_of(train)(train.x)
    assert (features >= 0).all()
    assert features.std(0, ddof=1).max() == pytest.approx(1, abs=1e-3)
    assert features_of(Samples(train.x.clone(), train.labels))(train.x) is not None
    assert train_classifier(Samples(train.x.clone(), train.labels)) is classifier


def test_features_need_labels(digits: Digits) -> None:
    with pytest.raises(ValueError, match="labelled"):
        train_classifier(Samples(digits.reference("train", 10).x))


def test_frechet_features_tell_damage_that_leaves_pixel_moments_alone(digits: Digits) -> None:
    """Samples of the Gaussian with the data's own mean and covariance: perfect to pixels, nonsense to a reader."""
    train, held_out = digits.reference("train", 10**9), digits.reference("held_out", 10**9)
    mean, cov = moments(raw(train.x))
    fake = np.random.default_rng(0).multivariate_normal(mean, cov, size=1200)
    samples = torch.from_numpy(fake).float().reshape(-1, 1, 1, 8, 8)
    pixels = FrechetDistance(raw, held_out.x, train.x)
    features = FrechetDistance(features_of(train), held_out.x, train.x)
    assert pixels.score(evidence(samples)) < 2 * pixels.floor(1200)
    assert features.score(evidence(samples)) > 10 * features.floor(1200)


def test_sliced_wasserstein_of_a_shift_is_its_length_over_root_dimension() -> None:
    x = torch.randn(300, 1, 4, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([1.0, -2.0, 0.5, 0.0])
    metric = SlicedWasserstein(2_000, 0, x, x)
    expected = float(shift.norm()) / math.sqrt(4)
    assert metric.score(evidence(x + shift)) == pytest.approx(expected, rel=0.05)
    assert metric.score(evidence(x)) == pytest.approx(0, abs=1e-6)
    assert metric.score(evidence(x + shift)) == metric.score(evidence(x + shift))


def test_sliced_wasserstein_of_videos_over_cells() -> None:
    videos = torch.randn(100, 8, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    metric = SlicedWasserstein(500, 2, videos, videos)
    # What averages out within a cell is not seen; what moves a cell's mean is.
    ripple = torch.tensor([1.0, -1.0]).repeat(4).reshape(8, 1, 1, 1)
    assert metric.score(evidence(videos + ripple)) == pytest.approx(0, abs=1e-5)
    assert metric.score(evidence(videos + 1)) == pytest.approx(1, rel=0.1)
    assert SlicedWasserstein(500, 0, videos, videos).score(evidence(videos + ripple)) > 0.5


def test_sliced_wasserstein_can_compare_with_the_teacher() -> None:
    x = torch.randn(64, 1, 4, generator=torch.Generator().manual_seed(0))
    references = References(Samples(x), Samples(x + 5), x + 1, x + 1)
    near, far = (SlicedWassersteinConfig(to=to).build(references) for to in ("teacher", "held_out"))
    assert near.score(evidence(x + 1)) == pytest.approx(0, abs=1e-6)
    assert near.floor(64) == pytest.approx(0, abs=1e-6)
    assert far.score(evidence(x + 1)) > 3


def test_nearest_train_agrees_with_brute_force() -> None:
    generator = torch.Generator().manual_seed(0)
    train, held_out, x = (torch.randn(n, 1, 5, generator=generator) for n in (40, 30, 20))
    metric = NearestTrain(train, held_out)
    brute = [min(float((a - b).norm()) for b in train.flatten(1)) for a in x.flatten(1)]
    assert metric.score(evidence(x)) == pytest.approx(sum(brute) / len(brute), rel=1e-5)
    assert metric.score(evidence(train)) == pytest.approx(0, abs=1e-3)
    assert metric.floor(30) == metric.score(evidence(held_out))
    assert metric.floor(7) == metric.score(evidence(held_out[:7]))


def gaussian_role(theta: float) -> Role:
    backbone = GaussianConfig(mixture=MixtureConfig()).build(SampleSpec((1, 2), 0))
    assert isinstance(backbone, GaussianBackbone)
    weights = {"theta": torch.tensor([0.0, 0.0, 0.0, theta, 0.0])}
    return backbone.role("student", "flow_map", weights, Draw.whole(0, "base", 0, "w", 1))


def gaussian_batch(count: int) -> Batch:
    config = catalogue().find("data", "gaussian")()
    data = config.build()
    assert isinstance(data, GaussianData)
    return Batch(data.batch(Draw.whole(0, "x", 0, "y", count)).x, NoCond(), NoCond())


def test_the_exact_map_has_no_semigroup_error() -> None:
    batch = gaussian_batch(200)
    assert Semigroup().score(evidence(batch.x0, gaussian_role(0.0), batch)) < 1e-6


def test_the_semigroup_error_of_a_wrong_map_agrees_with_brute_force() -> None:
    """With an error theta (t - r) in u the triple does not close; the metric must find it sample by sample."""
    batch, role = gaussian_batch(100), gaussian_role(0.3)
    given = evidence(batch.x0, role, batch)
    network = as_flow_map(role.network)
    times = given.draw.uniform("semigroup times", (3,))
    noise = given.draw.normal("semigroup noise", (1, 2))
    squares = []
    for i in range(100):
        t, s, r = (value.reshape(1) for value in sorted(times[i], reverse=True))
        x = noised(batch.x0[i : i + 1], noise[i : i + 1], t)
        direct = x - (t - r) * network.mean_velocity(x, t, r, NoCond())
        middle = x - (t - s) * network.mean_velocity(x, t, s, NoCond())
        squares.append((direct - (middle - (s - r) * network.mean_velocity(middle, s, r, NoCond()))).square().mean())
    expected = float(torch.stack(squares).mean().sqrt().detach())
    assert expected > 0.01
    assert Semigroup().score(given) == pytest.approx(expected, rel=1e-4)
