"""The loss weight as a function of time."""

from __future__ import annotations

import pytest
import torch
from flowmap_flow.configs import FlowMapConfig
from flowmap_flow.forward import ForwardFlowMap, loss_weight
from torch import Tensor

from flowmap.interfaces import Loss
from flowmap.maths.pairs import Pairs

from .support import Rows, analytic_role, make_scene, whole

NAMES = pytest.mark.parametrize("name", ["uniform", "beta08", "gaussian"])
SHIFTS = pytest.mark.parametrize("shift", [1.0, 5.0])


def written_out(name: str, shift: float) -> tuple[Tensor, Tensor]:
    """The table in the words of facts/anyflow.md, slowly."""
    points = [shift * (k / 1000) / (1 + (shift - 1) * (k / 1000)) for k in range(1001)]
    t = torch.tensor(points).double()
    raw = {
        "uniform": torch.ones(1001).double(),
        "beta08": t * (1 - t) ** 0.5,
        "gaussian": torch.exp(-2 * (t - 0.5) ** 2) - torch.exp(-2 * (t - 0.5) ** 2).min(),
    }[name]
    # The uniform weight is 1 itself; the others are normalised to sum to 1000.
    return t, raw if name == "uniform" else raw * 1000 / raw.sum()


@NAMES
@SHIFTS
def test_a_time_has_the_weight_of_the_nearest_grid_point(name: str, shift: float) -> None:
    points, weights = written_out(name, shift)
    t = whole(2000).uniform("t")
    nearest = (t.double()[:, None] - points).abs().argmin(dim=1)
    torch.testing.assert_close(loss_weight(name, t, shift), weights[nearest].float())


@NAMES
@SHIFTS
def test_the_weights_of_the_grid_points_sum_to_1000(name: str, shift: float) -> None:
    points, _ = written_out(name, shift)
    expected = 1001 if name == "uniform" else 1000
    assert float(loss_weight(name, points, shift).sum()) == pytest.approx(expected)


@NAMES
@SHIFTS
def test_the_ends_have_the_weights_of_the_ends(name: str, shift: float) -> None:
    _, weights = written_out(name, shift)
    ours = loss_weight(name, torch.tensor([0.0, 1.0]), shift)
    torch.testing.assert_close(ours, weights[[0, -1]].float())
    assert (ours >= 0).all()


@NAMES
def test_weights_have_the_shape_and_type_of_the_times(name: str) -> None:
    t = torch.rand(3, 4)
    weights = loss_weight(name, t, 5.0)
    assert weights.shape == t.shape
    assert weights.dtype == t.dtype
    torch.testing.assert_close(weights[1, 2], loss_weight(name, t[1:2, 2], 5.0)[0])


def setting() -> tuple[Pairs, Tensor, Tensor]:
    """Eight samples of two frames with times of their own: t per frame `[B, F]`, r = t."""
    draw = whole(8)
    t = draw.uniform("t", (2,))
    pairs = Pairs(t, t, torch.zeros(8, dtype=torch.int64))
    return pairs, draw.normal("x0", (2, 2, 1, 1)), draw.normal("noise", (2, 2, 1, 1))


def forward_loss(weight: str, pairs: Pairs, x0: Tensor, noise: Tensor) -> Loss:
    student = analytic_role("student", torch.tensor([[0.3, -0.2], [0.5, 0.1]]), torch.tensor([0.2]))
    cond = Rows(torch.zeros(len(x0), 1))
    config = FlowMapConfig(weight=weight, rebalance=False)
    objective = config.build()
    assert isinstance(objective, ForwardFlowMap)
    return objective.loss(make_scene([student], x0, whole(len(x0)), cond, cond), noise, pairs)


def per_sample(pairs: Pairs, x0: Tensor, noise: Tensor) -> Tensor:
    """The unweighted loss of each sample."""
    one = [
        forward_loss("uniform", Pairs(pairs.t[i : i + 1], pairs.r[i : i + 1], pairs.branch[:1]), x0[i : i + 1], n)
        for i, n in enumerate(noise.split(1))
    ]
    return torch.stack([loss.value.detach() for loss in one])


def test_with_times_per_frame_the_weight_is_the_mean_over_frames() -> None:
    pairs, x0, noise = setting()
    means = loss_weight("beta08", pairs.t, 1.0).mean(dim=1)
    expected = (per_sample(pairs, x0, noise) * means).mean()
    ours = forward_loss("beta08", pairs, x0, noise).value
    torch.testing.assert_close(ours.detach(), expected)
    # Not the weight of the mean time, and not weighted frame by frame: those are other numbers here.
    at_mean = (per_sample(pairs, x0, noise) * loss_weight("beta08", pairs.t.mean(1), 1.0)).mean()
    assert abs(at_mean - expected) > 1e-2 * expected


def test_with_times_per_sample_the_weight_is_that_of_the_time() -> None:
    pairs, x0, noise = setting()
    pairs = Pairs(pairs.t[:, 0], pairs.t[:, 0], pairs.branch)
    expected = (per_sample(pairs, x0, noise) * loss_weight("gaussian", pairs.t, 1.0)).mean()
    torch.testing.assert_close(forward_loss("gaussian", pairs, x0, noise).value.detach(), expected)


def test_the_raw_losses_are_unweighted() -> None:
    pairs, x0, noise = setting()
    loss = forward_loss("beta08", pairs, x0, noise)
    torch.testing.assert_close(loss.raw["diffusion"], per_sample(pairs, x0, noise))


def rebalanced(pairs: Pairs, rebalance: bool) -> tuple[Loss, Tensor]:
    """The loss on eight samples with the given pairs, and the gradient of W."""
    _, x0, noise = setting()
    student = analytic_role("student", torch.tensor([[0.3, -0.2], [0.5, 0.1]]), torch.tensor([0.2]))
    cond = Rows(torch.zeros(8, 1))
    objective = FlowMapConfig(rebalance=rebalance).build()
    assert isinstance(objective, ForwardFlowMap)
    loss = objective.loss(make_scene([student], x0, whole(8), cond, cond), noise, pairs)
    loss.value.backward()
    assert student.own["W"].grad is not None
    return loss, student.own["W"].grad


def test_rebalancing_brings_every_moving_loss_to_the_mean_diffusion_loss() -> None:
    t = whole(8).uniform("t")
    branch = torch.tensor([0, 2, 0, 1, 2, 0, 2, 0])
    r = torch.where(branch == 0, t, torch.where(branch == 1, 0, 0.4 * t))
    loss, gradient = rebalanced(Pairs(t, r, branch), True)
    plain, plain_gradient = rebalanced(Pairs(t, r, branch), False)
    for name in ("diffusion", "consistency", "free"):
        torch.testing.assert_close(loss.raw[name], plain.raw[name])
    # Each of the others now weighs as much as a diffusion sample: the mean is the diffusion mean.
    torch.testing.assert_close(loss.value.detach(), loss.raw["diffusion"].mean(), rtol=1e-4, atol=0)
    # The factor carries no gradient: scaled losses still teach.
    assert gradient.norm() > 0.1 * plain_gradient.norm()


def test_rebalancing_leaves_diffusion_samples_alone() -> None:
    t = whole(8).uniform("t")
    pairs = Pairs(t, t, torch.zeros(8, dtype=torch.int64))
    (ours, gradient), (plain, plain_gradient) = rebalanced(pairs, True), rebalanced(pairs, False)
    torch.testing.assert_close(ours.value, plain.value)
    torch.testing.assert_close(gradient, plain_gradient)
