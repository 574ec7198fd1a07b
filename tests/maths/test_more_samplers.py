"""Gamma-sampling against its distribution, and diffusers' multistep solvers against closed forms and diffusers."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from flowmap_samplers.configs import (
    ConsistencyConfig,
    DpmSolverConfig,
    EulerConfig,
    FlowMapConfig,
    GammaConfig,
    UniPCConfig,
)
from scipy.stats import kstest
from torch import Tensor

from flowmap.interfaces import Cond, FlowMap, NoCond, Velocity
from flowmap.maths.path import grid, like, noised
from flowmap.networks.guidance import Guided, GuidedCond
from flowmap.plugin import SamplerConfig

from .support import GAUSSIAN, MIXTURE, Rows, data, exact_role, mixture, whole
from .test_oracle import cdf
from .test_samplers import ExactVelocity, exact_map, line, run, slope

MULTISTEP = pytest.mark.parametrize("config", [UniPCConfig(), DpmSolverConfig()], ids=lambda config: config.type)
GAMMAS = pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])


class OnePoint(FlowMap):
    """The exact map of data that are the one point `x0`: it keeps the noise and moves along the path."""

    def __init__(self, x0: float) -> None:
        self.x0 = x0

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        return (x - (1 - like(t, x)) * self.x0) / like(t, x) - self.x0


@pytest.mark.parametrize("config", [FlowMapConfig(), ConsistencyConfig(), GammaConfig(gamma=0.3)], ids=str)
def test_samples_may_have_times_of_their_own(config: SamplerConfig) -> None:
    """As rCM's rollouts have them: each sample comes out as it would by its times alone."""
    count = 3  # as many as elements along no other axis
    draw = whole(count)
    x, cond = draw.normal("start", (1, 5)).double(), NoCond()
    times = torch.tensor([[1.0, 1.0, 1.0], [0.9, 0.5, 0.2], [0.4, 0.5, 0.1], [0.0, 0.0, 0.0]]).double()
    network = OnePoint(0.7)
    together = config.build().sample(network, x, times, cond, draw)
    for row in range(count):
        alone = config.build().sample(network, x[row : row + 1], times[:, row], cond, draw.part(row, 1))
        torch.testing.assert_close(together[row : row + 1], alone)


# -- gamma-sampling


@GAMMAS
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize(("first", "last"), [(1.0, 0.0), (0.9, 0.3)])
def test_gamma_sampling_with_the_exact_map_has_the_right_distribution(
    first: float, last: float, steps: int, gamma: float
) -> None:
    count = 8000
    draw = whole(count, seed=1)
    start = noised(data(draw), draw.normal("start", (1, 1)).double(), torch.full((count,), first).double())
    times = torch.linspace(first, last, steps + 1).double()
    x = run(GammaConfig(gamma=gamma), start, times).detach().flatten()
    assert kstest(x.numpy(), lambda points: cdf(MIXTURE, last, points)).pvalue > 1e-3


@GAMMAS
def test_mean_and_spread_of_a_gaussian_are_right_at_every_time_of_the_grid(gamma: float) -> None:
    """By moments, which see what a test of the distribution at the end forgives."""
    count = 100_000
    x, times = whole(count).normal("start", (1, 1)).double(), grid(6, 2.0).double()
    network, sampler = exact_role("student", config=GAUSSIAN).network, GammaConfig(gamma=gamma).build()
    for k, (t, r) in enumerate(pairwise(times)):
        with torch.no_grad():
            x = sampler.sample(network, x, torch.stack([t, r]), NoCond(), whole(count, k))
        mean, std = (1 - r) * GAUSSIAN.means[0], math.hypot((1 - r) * GAUSSIAN.stds[0], r)
        # 5 standard errors of mean and spread; what one step adds is compared with its own predecessor's error too.
        assert abs(x.mean() - mean) < 6 * std / math.sqrt(count)
        assert abs(x.std() / std - 1) < 6 / math.sqrt(2 * count)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.8, 1.0])
def test_so_much_of_the_noise_is_kept_and_the_rest_is_fresh(gamma: float) -> None:
    """Given x0, what is noise in x_r is normal, and its correlation with the noise in x_t is known."""
    count, t, r = 40_000, 0.8, 0.5
    noise = whole(count).normal("start", (1, 1)).double()
    start = (1 - t) * 1.5 + t * noise
    times = torch.tensor([t, r], dtype=torch.float64)
    x = GammaConfig(gamma=gamma).build().sample(OnePoint(1.5), start, times, NoCond(), whole(count, 1))
    left = (x - (1 - r) * 1.5) / r
    s, limit = (1 - gamma) * r, 4 / math.sqrt(count)
    assert abs(left.mean()) < limit
    assert abs(left.std() - 1) < limit
    kept = torch.corrcoef(torch.stack([noise.flatten(), left.flatten()]))[0, 1]
    assert float(kept) == pytest.approx((1 - r) * s / ((1 - s) * r), abs=limit)


def test_without_gamma_it_is_the_map_sampler_and_with_all_of_it_the_consistency_sampler() -> None:
    """On the same draws: the noises have the same names."""
    x, times = line(), grid(5, 3.0).double()
    assert torch.equal(run(GammaConfig(gamma=0.0), x, times), run(FlowMapConfig(), x, times))
    torch.testing.assert_close(run(GammaConfig(gamma=1.0), x, times), run(ConsistencyConfig(), x, times))
    between = run(GammaConfig(gamma=0.5), x, times)
    assert (between - run(FlowMapConfig(), x, times)).abs().max() > 0.05
    assert (between - run(ConsistencyConfig(), x, times)).abs().max() > 0.05


# -- multistep solvers


@MULTISTEP
@pytest.mark.parametrize(
    "times", [(1.0, 0.0), (0.9, 0.2), (1.0, 0.3), (1.0, 0.9, 0.31, 0.3, 0.0), (0.7, 0.6, 0.5, 0.4)]
)
def test_data_of_one_point_are_solved_exactly_on_any_grid(config: SamplerConfig, times: tuple[float, ...]) -> None:
    """The prediction of x0 is the same everywhere: whatever the extrapolation, nothing is left to err in."""
    x = line()
    first, last = times[0], times[-1]
    made = config.build().sample(OnePoint(1.5), x, torch.tensor(times, dtype=torch.float64), NoCond(), whole(33))
    expected = (1 - last) * 1.5 + last * (x - (1 - first) * 1.5) / first
    torch.testing.assert_close(made, expected, atol=5e-6, rtol=0)


def log_snr(t: float) -> float:
    return math.log((1 - t) / t)


def test_dpm_solver_is_the_published_formula() -> None:
    """DPM-Solver++(2M), algorithm 2 of arXiv 2211.01095: three steps, the first and last of first order."""
    times, x, seen = [0.9, 0.7, 0.5, 0.2], line(), []
    for k, (t, r) in enumerate(pairwise(times)):
        seen.append(x - t * mixture().velocity(x, torch.full_like(x, t)))
        h, prediction = log_snr(r) - log_snr(t), seen[-1]
        if k == 1:
            ratio = (log_snr(t) - log_snr(times[k - 1])) / h
            prediction = (1 + 1 / (2 * ratio)) * seen[-1] - 1 / (2 * ratio) * seen[-2]
        x = r / t * x - (1 - r) * math.expm1(-h) * prediction
    torch.testing.assert_close(
        run(DpmSolverConfig(), line(), torch.tensor(times, dtype=torch.float64)), x, atol=2e-6, rtol=0
    )


def test_unipc_is_the_published_formula() -> None:
    """UniPC-2 with B(h) = e^h - 1 (arXiv 2302.04867) in two steps: Euler in lambda, corrected, then Euler again."""
    (t, s, r), x = (0.9, 0.6, 0.3), line()

    def predicted(x: Tensor, t: float) -> Tensor:
        return x - t * mixture().velocity(x, torch.full_like(x, t))

    def stepped(x: Tensor, a: float, b: float, prediction: Tensor) -> Tensor:
        return b / a * x - (1 - b) * math.expm1(log_snr(a) - log_snr(b)) * prediction

    first = predicted(x, t)
    second = predicted(stepped(x, t, s, first), s)
    corrected = stepped(x, t, s, 0.5 * (first + second))
    expected = stepped(corrected, s, r, second)
    torch.testing.assert_close(
        run(UniPCConfig(), x, torch.tensor([t, s, r], dtype=torch.float64)), expected, atol=1e-9, rtol=0
    )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("kind", ["unipc", "dpm_solver"])
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_on_a_grid_of_its_own_it_is_diffusers_loop(kind: str, steps: int) -> None:
    settings: dict[str, Any] = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    scheduler = (UniPCMultistepScheduler if kind == "unipc" else DPMSolverMultistepScheduler)(**settings)
    scheduler.set_timesteps(steps)
    times, x = scheduler.sigmas.clone(), line().float()
    for k, t in enumerate(scheduler.timesteps):
        velocity = ExactVelocity().velocity(x, times[k].expand(len(x)), NoCond())
        x = scheduler.step(velocity, t, x).prev_sample
    config = UniPCConfig() if kind == "unipc" else DpmSolverConfig()
    torch.testing.assert_close(run(config, line().float(), times), x, atol=2e-5, rtol=1e-5)


def errors(config: SamplerConfig, first: float, last: float, counts: tuple[int, ...]) -> list[float]:
    exact = exact_map(line(), first, last)
    grids = [torch.linspace(first, last, steps + 1).double() for steps in counts]
    return [float((run(config, line(), times) - exact).square().mean().sqrt()) for times in grids]


@MULTISTEP
def test_between_times_inside_the_path_the_error_falls_with_the_second_order(config: SamplerConfig) -> None:
    counts = (32, 64, 128)
    found = errors(config, 0.85, 0.2, counts)
    order = slope([math.log(1 / steps) for steps in counts], [math.log(error) for error in found])
    assert order == pytest.approx(2, abs=0.1)


def test_from_noise_to_data_dpm_solver_is_of_the_order_it_declares_and_unipc_declares_none() -> None:
    assert DpmSolverConfig().build().order() == 2
    assert UniPCConfig().build().order() is None


@MULTISTEP
def test_from_noise_to_data_it_is_far_better_than_euler_and_ever_better(config: SamplerConfig) -> None:
    counts = (8, 16, 32, 64, 128)
    found, euler = errors(config, 1.0, 0.0, counts), errors(EulerConfig(), 1.0, 0.0, counts)
    assert all(later < 0.5 * earlier for earlier, later in pairwise(found))
    assert all(ours < 0.6 * theirs for ours, theirs in zip(found, euler, strict=True))
    assert found[-1] < 0.08 * euler[-1]


@MULTISTEP
def test_points_of_a_fine_grid_are_not_merged(config: SamplerConfig) -> None:
    """diffusers counts time in whole thousandths, and looks its place up by them."""
    (error,) = errors(config, 0.6, 0.5, (400,))
    assert error < 3e-6
    (coarse,) = errors(config, 0.6, 0.5, (4,))
    assert coarse > 20 * error


@MULTISTEP
def test_a_sampler_remembers_nothing_of_its_last_samples(config: SamplerConfig) -> None:
    sampler, network, times = config.build(), ExactVelocity(), grid(4).double()
    once = sampler.sample(network, line(), times, NoCond(), whole(33))
    sampler.sample(network, line() + 1, grid(7).double(), NoCond(), whole(33))
    assert torch.equal(once, sampler.sample(network, line(), times, NoCond(), whole(33)))


@MULTISTEP
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_and_shape_are_kept_and_times_reach_both_ends(config: SamplerConfig, dtype: torch.dtype) -> None:
    """Frames and channels, in float32 as in float64; the network is asked at t = 1 itself."""
    asked: list[float] = []

    class Watched(Velocity):
        def velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
            asked.append(float(t[0]))
            return mixture().velocity(x, like(t, x))

    x = whole(3).normal("x", (4, 2, 2)).to(dtype)
    made = config.build().sample(Watched(), x, grid(64).to(dtype), NoCond(), whole(3))
    assert (made.dtype, made.shape) == (dtype, x.shape)
    assert asked[0] == 1
    exact = mixture().map(x, torch.ones(1), torch.zeros(1))
    torch.testing.assert_close(made.double(), exact, atol=0.01, rtol=0)


@MULTISTEP
def test_the_gradient_at_the_start_is_that_of_the_flow(config: SamplerConfig) -> None:
    """Of the solver itself by a difference, and so nearly dx_0/dx_1 of the exact map."""
    x, times = line(9).requires_grad_(), torch.linspace(0.9, 0.1, 33).double()
    (slopes,) = torch.autograd.grad(run(config, x, times).sum(), x)
    with torch.no_grad():
        around = [run(config, x + side, times) for side in (1e-3, -1e-3)]
    torch.testing.assert_close(slopes, (around[0] - around[1]) / 2e-3, atol=2e-3, rtol=1e-3)
    exact = line(9).requires_grad_()
    (expected,) = torch.autograd.grad(exact_map(exact, 0.9, 0.1).sum(), exact)
    torch.testing.assert_close(slopes, expected, atol=0.05, rtol=0.05)


class Pulled(Velocity):
    """A velocity towards a condition's number."""

    def velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        assert isinstance(cond, Rows)
        return torch.sin(x) - like(t, x) * like(cond.values[:, 0], x)


@MULTISTEP
@pytest.mark.parametrize("w", [1.0, 4.0])
def test_under_guidance_it_follows_null_plus_w_times_the_difference(config: SamplerConfig, w: float) -> None:
    class Combined(Velocity):
        def velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
            with_cond, without = (Pulled().velocity(x, t, c) for c in (one, null))
            return without + w * (with_cond - without)

    one = Rows(torch.linspace(-1, 1, 33).double().reshape(-1, 1))
    null = Rows(torch.full((33, 1), 0.3).double())
    times, sampler = grid(5).double(), config.build()
    expected = sampler.sample(Combined(), line(), times, NoCond(), whole(33))
    made = sampler.sample(Guided(Pulled(), w), line(), times, GuidedCond(one, null), whole(33))
    torch.testing.assert_close(made, expected)
