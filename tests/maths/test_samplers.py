"""Samplers: order of convergence, exactness, distribution, and what they cost."""

from __future__ import annotations

import math

import pytest
import torch
from flowmap_samplers.configs import (
    ConsistencyConfig,
    DpmSolverConfig,
    EulerConfig,
    FlowMapConfig,
    GammaConfig,
    HeunConfig,
    UniPCConfig,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import Tensor

from flowmap.interfaces import Cond, NoCond, Velocity
from flowmap.maths.path import grid, noised
from flowmap.plugin import SamplerConfig

from .support import MIXTURE, Diary, NotedFlowMap, NotedVelocity, data, exact_role, mixture, whole
from .test_oracle import cdf

ODE = pytest.mark.parametrize("config", [EulerConfig(), HeunConfig()], ids=["euler", "heun"])
EVERY = pytest.mark.parametrize(
    "config",
    [
        EulerConfig(),
        HeunConfig(),
        UniPCConfig(),
        DpmSolverConfig(),
        FlowMapConfig(),
        ConsistencyConfig(),
        GammaConfig(gamma=0.5),
    ],
    ids=lambda config: config.type,
)


class ExactVelocity(Velocity):
    """The mixture's velocity alone, without the detour over the map."""

    def velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return mixture().velocity(x, t[:, None, None])


def line(count: int = 33) -> Tensor:
    """Start points `[B, 1, 1]` where noise lives."""
    return torch.linspace(-2.5, 2.5, count).double().reshape(-1, 1, 1)


def exact_map(x: Tensor, t: float, r: float) -> Tensor:
    return mixture().map(x, torch.full_like(x, t), torch.full_like(x, r))


def run(config: SamplerConfig, x: Tensor, times: Tensor) -> Tensor:
    network = exact_role("student").network if config.network == "flow_map" else ExactVelocity()
    return config.build().sample(network, x, times, NoCond(), whole(len(x)))


def slope(log_steps: list[float], log_errors: list[float]) -> float:
    """The slope of a least-squares line."""
    a, b = torch.tensor(log_steps).double(), torch.tensor(log_errors).double()
    return float(((a - a.mean()) * (b - b.mean())).sum() / (a - a.mean()).square().sum())


@ODE
@pytest.mark.parametrize(("first", "last"), [(1.0, 0.0), (0.85, 0.2)])
def test_the_error_falls_with_the_declared_order(config: SamplerConfig, first: float, last: float) -> None:
    exact, counts = exact_map(line(), first, last), (64, 128, 256, 512)
    errors = []
    for steps in counts:
        times = torch.linspace(first, last, steps + 1).double()
        errors.append(float((run(config, line(), times) - exact).square().mean().sqrt()))
    order = slope([math.log(1 / steps) for steps in counts], [math.log(error) for error in errors])
    assert order == pytest.approx(config.build().order(), abs=0.1)


def test_euler_takes_the_velocity_at_the_start_of_the_step() -> None:
    x, times = line(), torch.tensor([0.9, 0.5]).double()
    t = torch.full_like(x, 0.9)
    torch.testing.assert_close(run(EulerConfig(), x, times), x - 0.4 * mixture().velocity(x, t))


def test_samplers_that_follow_the_map_declare_no_order() -> None:
    assert FlowMapConfig().build().order() is None
    assert ConsistencyConfig().build().order() is None
    assert GammaConfig().build().order() is None


@given(
    inner=st.lists(st.floats(0.01, 0.99), max_size=6, unique=True),
    first=st.floats(0.7, 1.0),
    last=st.sampled_from([0.0, 0.005]),
    shift=st.sampled_from([1.0, 5.0]),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_the_exact_map_arrives_exactly_on_any_grid(inner: list[float], first: float, last: float, shift: float) -> None:
    times = torch.tensor(sorted({first, last, *(v for v in inner if last < v < first)}, reverse=True)).double()
    times = shift * times / (1 + (shift - 1) * times)
    arrived = run(FlowMapConfig(), line(), times)
    torch.testing.assert_close(arrived, exact_map(line(), float(times[0]), float(times[-1])), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("steps", [1, 2, 3, 8])
@pytest.mark.parametrize(("first", "last"), [(1.0, 0.0), (0.9, 0.3)])
def test_consistency_sampling_with_the_exact_map_has_the_right_distribution(
    steps: int, first: float, last: float
) -> None:
    count = 8000
    draw = whole(count, seed=1)
    start = noised(data(draw), draw.normal("start", (1, 1)).double(), torch.full((count,), first).double())
    times = torch.linspace(first, last, steps + 1).double()
    x = run(ConsistencyConfig(), start, times).detach().flatten()
    assert kstest(x.numpy(), lambda points: cdf(MIXTURE, last, points)).pvalue > 1e-3


def test_consistency_sampling_adds_fresh_noise_at_each_step() -> None:
    """The noises, worked out from what the network was given, are standard normal and uncorrelated."""
    count, times, diary = 4000, torch.linspace(1, 0, 5).double(), Diary()
    network = NotedFlowMap(exact_role("student").network, diary)
    start = whole(count).normal("start", (1, 1)).double()
    ConsistencyConfig().build().sample(network, start, times, NoCond(), whole(count))
    noises = [start.flatten()]
    for k in range(1, 4):
        x0 = exact_map(diary.x[k - 1], float(times[k - 1]), 0.0)
        noises.append(((diary.x[k] - (1 - times[k]) * x0) / times[k]).flatten())
    correlations = torch.corrcoef(torch.stack(noises))
    limit = 4 / math.sqrt(count)
    assert (correlations - torch.eye(4)).abs().max() < limit
    assert all(abs(noise.std() - 1) < limit and abs(noise.mean()) < limit for noise in noises)


def test_consistency_sampling_takes_its_noise_from_the_draw() -> None:
    x, times, student = line(), torch.linspace(1, 0, 4).double(), exact_role("student").network
    once, again, other = (
        ConsistencyConfig().build().sample(student, x, times, NoCond(), draw)
        for draw in (whole(33), whole(33), whole(33, step=1))
    )
    assert torch.equal(once, again)
    assert not torch.allclose(once, other)


def test_the_last_consistency_step_adds_no_noise() -> None:
    x = line()
    torch.testing.assert_close(run(ConsistencyConfig(), x, torch.tensor([1.0, 0.0]).double()), exact_map(x, 1, 0))


@EVERY
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_sampler_makes_as_many_calls_as_its_configuration_says(config: SamplerConfig, steps: int) -> None:
    diary = Diary()
    role = exact_role("student", config.network)
    wrap = NotedFlowMap if config.network == "flow_map" else NotedVelocity
    x = config.build().sample(wrap(role.network, diary), line(5), grid(steps).double(), NoCond(), whole(5))
    assert x.shape == (5, 1, 1)
    assert diary.calls == steps * config.calls_per_step


@EVERY
def test_a_sampler_calls_the_network_at_the_times_of_the_grid(config: SamplerConfig) -> None:
    diary, times = Diary(), torch.tensor([0.9, 0.6, 0.2]).double()
    role = exact_role("student", config.network)
    wrap = NotedFlowMap if config.network == "flow_map" else NotedVelocity
    config.build().sample(wrap(role.network, diary), line(5), times, NoCond(), whole(5))
    assert all(t.shape == r.shape == (5,) for t, r in zip(diary.t, diary.r, strict=True))
    seen = torch.tensor([(t[0], r[0]) for t, r in zip(diary.t, diary.r, strict=True)])
    expected = {
        "euler": [(0.9, 0.9), (0.6, 0.6)],
        "heun": [(0.9, 0.9), (0.6, 0.6), (0.6, 0.6), (0.2, 0.2)],
        "unipc": [(0.9, 0.9), (0.6, 0.6)],
        "dpm_solver": [(0.9, 0.9), (0.6, 0.6)],
        "flow_map": [(0.9, 0.6), (0.6, 0.2)],
        "consistency": [(0.9, 0.0), (0.6, 0.0)],
        "gamma": [(0.9, 0.3), (0.6, 0.1)],
    }
    torch.testing.assert_close(seen, torch.tensor(expected[config.type]).double())


@pytest.mark.parametrize(
    "config", [FlowMapConfig(), ConsistencyConfig(), GammaConfig()], ids=lambda config: config.type
)
def test_a_flow_map_sampler_refuses_a_network_with_one_time(config: SamplerConfig) -> None:
    with pytest.raises(TypeError, match="one time only"):
        config.build().sample(ExactVelocity(), line(), grid(2), NoCond(), whole(33))


@EVERY
def test_gradients_flow_to_the_start(config: SamplerConfig) -> None:
    x = line(5).requires_grad_()
    run(config, x, grid(2).double()).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().min() > 0
