"""The metrics against closed forms and brute force."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flowmap_datasets import digits as shipped
from flowmap_datasets.configs import DigitsConfig, MovingDigitsConfig
from flowmap_datasets.moving_digits import MovingDigits
from flowmap_datasets.shipped import ShippedImages
from flowmap_gaussian.configs import GaussianConfig, MixtureConfig
from flowmap_metrics import classifier
from flowmap_metrics.classifier import train_classifier
from flowmap_metrics.configs import (
    FrechetConfig,
    FrechetFeaturesConfig,
    FrechetPixelsConfig,
    FrechetTeacherConfig,
    SlicedWassersteinConfig,
)
from flowmap_metrics.distances import NearestTrain, Semigroup, SlicedWasserstein
from flowmap_metrics.features import Pixels
from flowmap_metrics.frechet import FrechetDistance, Gaussian, fitted, frechet
from flowmap_metrics.parts import FLOOR_PARTS, Vectors, halves, in_parts, parts
from scipy.linalg import sqrtm

from flowmap.files.shelf import Shelf
from flowmap.interfaces import Batch, Evidence, FlowMap, Metric, NoCond, References, Role, Samples, as_flow_map
from flowmap.interfaces.endless import EndlessPoints
from flowmap.maths.draw import Draw
from flowmap.maths.path import noised
from flowmap.plugin import SampleSpec
from flowmap.plugin.catalogue import catalogue

SHELF = Shelf()
"""Training takes seconds, so that all tests share what they can."""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits() -> ShippedImages:
    return shipped.digits(DigitsConfig())


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
    a, b = Gaussian(mean_a, np.diag(std_a)), Gaussian(mean_b, np.diag(std_b))
    assert frechet(a, b) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_frechet_of_any_gaussians_agrees_with_a_matrix_square_root(seed: int) -> None:
    rng = np.random.default_rng(seed)
    (mean_a, mean_b), (cov_a, cov_b) = rng.normal(size=(2, 6)), (spd(rng, 6), spd(rng, 6))
    by_root = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    a, b = (Gaussian(mean, np.linalg.cholesky(cov).T) for mean, cov in ((mean_a, cov_a), (mean_b, cov_b)))
    assert frechet(a, b) == pytest.approx(by_root, rel=1e-8)
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-10)
    assert frechet(a, a) == pytest.approx(0, abs=1e-10)


def test_frechet_survives_features_that_never_vary() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 4)), rng.normal(size=(50, 4))
    a[:, 1] = b[:, 1] = 0
    without = frechet(fitted(np.delete(a, 1, 1)), fitted(np.delete(b, 1, 1)))
    assert frechet(fitted(a), fitted(b)) == pytest.approx(without, rel=1e-8)


def test_moments_are_the_unbiased_ones() -> None:
    found = fitted(np.array([[0.0, 0.0], [2.0, 4.0]]))
    np.testing.assert_allclose(found.mean, [1, 2])
    np.testing.assert_allclose(found.factor.T @ found.factor, [[2, 4], [4, 8]])


# --- floors: what a perfect model scores, whatever the number of samples


def bell(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 1, 20, generator=torch.Generator().manual_seed(seed)) * torch.linspace(0.8, 1.2, 20)


METRICS: dict[str, Callable[[torch.Tensor, torch.Tensor], Metric]] = {
    "frechet": lambda target, perfect: FrechetDistance(Pixels(), target, perfect),
    "sliced_wasserstein": lambda target, perfect: SlicedWasserstein(64, 0, target, perfect),
}


@pytest.mark.parametrize("samples", [50, 70, 120, 250, 1000])
@pytest.mark.parametrize("kind", METRICS)
def test_a_perfect_model_scores_at_the_floor_with_any_number_of_samples(kind: str, samples: int) -> None:
    """Of 120 real samples, whose floor must neither flatter a model that gives more of them nor wrong one that gives
    fewer: over many worlds the two agree within their own chance."""
    gaps, floors = [], []
    for world in range(24):
        target, perfect, model = bell(200, 3 * world), bell(120, 3 * world + 1), bell(samples, 3 * world + 2)
        metric = METRICS[kind](target, perfect)
        floors.append(metric.floor(samples))
        gaps.append(metric.score(evidence(model)) - floors[-1])
    error = np.std(gaps, ddof=1) / np.sqrt(len(gaps))
    assert abs(np.mean(gaps)) < 3 * error
    # Which could be seen: a floor or score of twice as many samples would lie far outside.
    assert 3 * error < 0.25 * np.mean(floors)


def test_all_samples_count_for_the_score_and_all_ideal_ones_for_the_floor() -> None:
    target, perfect, x = bell(200, 0), bell(100, 1), bell(170, 2)
    for make in METRICS.values():
        metric = make(target, perfect)
        score, floors = metric.score(evidence(x)), (metric.floor(60), metric.floor(10**9))
        for row in range(0, 170, 10):
            changed = x.clone()
            changed[row] += 3
            assert metric.score(evidence(changed)) != score
        for row in range(0, 100, 10):
            changed = perfect.clone()
            changed[row] += 3
            assert make(target, changed).floor(60) != floors[0]
            assert make(target, changed).floor(10**9) != floors[1]
        assert make(target, x).floor(10**9) == make(target, x).score(evidence(x))


def test_a_floor_of_few_of_very_many_samples_costs_no_more_than_some_scores() -> None:
    sizes: list[int] = []

    def distance(vectors: Vectors) -> float:
        sizes.append(len(vectors))
        return 0.0

    in_parts(distance, np.zeros((20_000, 1)), 2, FLOOR_PARTS)
    assert set(sizes) == {2}
    assert 2 < len(sizes) < 20


@pytest.mark.parametrize(("count", "size"), [(1, 1), (10, 5), (10, 10), (11, 4), (100, 99), (2000, 599)])
def test_parts_are_of_one_size_cover_everything_and_are_as_few_as_do(count: int, size: int) -> None:
    found = list(parts(count, size))
    assert len(found) == -(-count // size)
    assert all(len(set(rows)) == size for rows in found)
    assert set(np.concatenate(found)) == set(range(count))


def test_a_part_of_sorted_samples_is_like_the_whole() -> None:
    """Real samples may come class by class: the floor of few must not be that of the first class."""
    ordered = bell(400, 1).sort(dim=0).values
    metric, mixed = (FrechetDistance(Pixels(), bell(400, 0), x) for x in (ordered, ordered[torch.randperm(400)]))
    assert metric.floor(100) < 2 * mixed.floor(100)


def contents(x: torch.Tensor) -> list[tuple[float, ...]]:
    return [tuple(row) for row in x.flatten(1).tolist()]


def test_halves_are_disjoint_balanced_and_keep_sources_together(digits: ShippedImages) -> None:
    train = digits.reference("train", 10**9)
    assert train.labels is not None
    for order in (torch.arange(len(train.x)), train.labels.argsort()):
        one, other = halves(Samples(train.x[order], train.labels[order]))
        assert len(one.x) == len(other.x) == len(train.x) // 2
        assert one.labels is not None
        assert other.labels is not None
        assert int((one.labels.bincount() - other.labels.bincount()).abs().max()) <= 1
        assert sorted(contents(one.x) + contents(other.x)) == sorted(contents(train.x))
    videos = MovingDigits(MovingDigitsConfig()).reference("train", 1000)
    one, other = halves(videos)
    assert abs(len(one.x) - len(other.x)) < 100
    # All start in the middle, so a digit that is in both halves is seen in their first frames.
    ours, theirs = (contents(half.x[:, 0]) for half in (one, other))
    assert len(set(ours)) < len(ours)
    assert set(ours).isdisjoint(theirs)


def test_halves_need_labels() -> None:
    with pytest.raises(ValueError, match="labelled"):
        halves(Samples(bell(10, 0)))


def test_the_floor_in_features_is_of_images_that_the_classifier_has_not_seen() -> None:
    """Labels that only memory can tell: what was seen then differs from all else, a perfect model's samples too."""
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(2700, 1, 1, 8, 8, generator=generator), torch.arange(2700) % 4
    train, held_out = Samples(images[:500], labels[:500]), Samples(images[500:700], labels[500:700])
    metric = FrechetFeaturesConfig().build(References(train, held_out, images, images))
    perfect = [metric.score(evidence(part)) for part in images[700:].split(250)]
    learned, _ = halves(train)
    seen = FrechetDistance(train_classifier(learned, SHELF), held_out.x, learned.x)
    assert abs(metric.floor(250) - np.mean(perfect)) < 2 * np.std(perfect, ddof=1)
    assert seen.floor(250) - np.mean(perfect) > 4 * np.std(perfect, ddof=1)


def test_the_classifier_knows_digits_and_its_features_are_scaled_and_reproducible(digits: ShippedImages) -> None:
    train, held_out = digits.reference("train", 10**9), digits.reference("held_out", 10**9)
    before = torch.random.get_rng_state()
    known = train_classifier(train, SHELF)
    assert torch.equal(before, torch.random.get_rng_state())
    with torch.no_grad():
        right = (known(held_out.x).argmax(1) == held_out.labels).float().mean()
    assert right > 0.97
    features = train_classifier(train, SHELF).of(train.x).double().numpy()
    assert (features >= 0).all()
    assert features.std(0, ddof=1).max() == pytest.approx(1, abs=1e-3)


def test_metrics_share_a_classifier_on_one_shelf_and_only_that_of_the_same_images(
    digits: ShippedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    real = classifier._train

    def train(x: torch.Tensor, labels: torch.Tensor) -> classifier.Classifier:
        trained.append(len(x))
        return real(x[:64], labels[:64])

    monkeypatch.setattr(classifier, "_train", train)
    some, held_out = digits.reference("train", 300), digits.reference("held_out", 100)
    less = digits.reference("train", 200)
    scores = []
    for real_ones in (some, some, less):
        for shelf in (Shelf(tmp_path), Shelf()):
            references = References(real_ones, held_out, held_out.x, held_out.x, shelf)
            metrics = FrechetFeaturesConfig().build(references), FrechetTeacherConfig().build(references)
            scores.append([metric.score(evidence(less.x)) for metric in metrics])
    assert scores[0] == scores[1] == scores[2] == scores[3]
    assert scores[4] == scores[5] != scores[3]
    # One on disk and one in memory; the second time it is on disk.
    assert trained == [150, 150, 150, 100, 100]


def test_features_need_labels(digits: ShippedImages) -> None:
    with pytest.raises(ValueError, match="labelled"):
        train_classifier(Samples(digits.reference("train", 10).x), SHELF)


def test_frechet_features_tell_damage_that_leaves_pixel_moments_alone(digits: ShippedImages) -> None:
    """Samples of the Gaussian with the data's own mean and covariance: perfect to pixels, nonsense to a reader."""
    train, held_out = digits.reference("train", 10**9), digits.reference("held_out", 10**9)
    vectors = train.x.flatten(1).double().numpy()
    fake = np.random.default_rng(0).multivariate_normal(vectors.mean(axis=0), np.cov(vectors, rowvar=False), size=1200)
    samples = torch.from_numpy(fake).float().reshape(-1, 1, 1, 8, 8)
    pixels = FrechetDistance(Pixels(), held_out.x, train.x)
    features = FrechetDistance(train_classifier(train, SHELF), held_out.x, train.x)
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
    assert metric.floor(7) == metric.floor(30) == metric.score(evidence(held_out))


def gaussian_role(theta: float) -> Role:
    backbone = GaussianConfig(mixture=MixtureConfig()).build(SampleSpec((1, 2), 0))
    weights = {"theta": torch.tensor([0.0, 0.0, 0.0, theta, 0.0])}
    return backbone.role("student", "flow_map", weights, Draw.whole(0, "base", 0, "w", 1))


def gaussian_batch(count: int) -> Batch:
    config = catalogue().find("data", "gaussian")()
    data = config.build()
    assert isinstance(data, EndlessPoints)
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


@pytest.mark.parametrize("numbers", [1, 14, 2**19])
def test_the_semigroup_error_asks_of_so_many_samples_at_a_time(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, role = gaussian_batch(100), gaussian_role(0.3)
    whole = Semigroup().score(evidence(batch.x0, role, batch))
    network, seen = as_flow_map(role.network), list[int]()
    real = type(network).mean_velocity

    def asked(self: FlowMap, x: torch.Tensor, *others: Any) -> torch.Tensor:
        seen.append(len(x))
        return real(self, x, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(type(network), "mean_velocity", asked)
    monkeypatch.setattr("flowmap.networks.batches._NUMBERS_TOGETHER", numbers)
    assert Semigroup().score(evidence(batch.x0, role, batch)) == pytest.approx(whole, rel=1e-6)
    assert max(seen) == {1: 1, 14: 7, 2**19: 100}[numbers]
    assert sum(seen) == 300


def test_metrics_in_the_same_features_look_at_samples_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x = Draw.whole(0, "x", 0, "y", 40).normal("x", (1, 1, 8, 8))
    references = References(Samples(x), Samples(x + 1), x + 2, x + 3)
    looked: list[int] = []
    real = Pixels.of

    def of(self: Pixels, samples: torch.Tensor) -> torch.Tensor:
        looked.append(len(samples))
        return real(self, samples)

    monkeypatch.setattr(Pixels, "of", of)
    configs = [FrechetPixelsConfig(), FrechetTeacherConfig(space="pixels"), FrechetConfig(to="teacher")]
    metrics = [config.build(references) for config in configs]
    assert len(looked) == 4  # each of the references
    for shift in (0, 1):
        scores = [metric.score(evidence(x[:20] + shift)) for metric in metrics]
        apart = [metric.score(evidence(x[:20] + shift)) for metric in metrics]
        assert scores == apart
        assert len(set(scores)) == 2
    same = evidence(x[:20] - 1)
    looked.clear()
    assert len({metric.score(same) for metric in metrics}) == 2
    assert looked == [20]


@pytest.mark.parametrize(
    ("shape", "labelled", "words"),
    [
        ((1, 1, 8, 8), True, None),
        ((1, 1, 8, 8), False, "these have no labels"),
        ((1, 2), True, "images \\[F, C, H, W\\] of 2 x 2 pixels or more, and samples of these data are \\[1, 2\\]"),
        ((1, 3, 1, 8), True, "samples of these data are \\[1, 3, 1, 8\\]"),
    ],
)
def test_features_of_what_is_no_image_are_refused_before_training(
    shape: tuple[int, ...], labelled: bool, words: str | None
) -> None:
    spec = SampleSpec(shape, labelled=labelled)
    for config in (FrechetFeaturesConfig(), FrechetTeacherConfig()):
        found = [finding.message for finding in config.findings(spec)]
        assert len(found) == (words is not None)
        assert not found or re.search(str(words), found[0])
    assert list(FrechetTeacherConfig(space="pixels").findings(spec)) == []
