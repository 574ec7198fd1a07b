"""The exact mixture is exact: everything else in this folder leans on it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from flowmap_gaussian.configs import MixtureConfig
from flowmap_gaussian.exact import Mixture
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp
from scipy.stats import kstest, norm
from torch import Tensor

from flowmap.maths.path import noised

from .support import GAUSSIAN, MIXTURE, data, exact_role, mixture, whole

BOTH = pytest.mark.parametrize("config", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
POINTS = (-2.5, -0.9, 0.1, 0.8, 2.2)


def full(value: float, like: Tensor) -> Tensor:
    return torch.full_like(like, value)


def cdf(config: MixtureConfig, t: float, x: np.ndarray) -> np.ndarray:
    """The distribution function of x_t, by scipy."""
    return sum(
        w * norm.cdf(x, (1 - t) * m, math.hypot((1 - t) * s, t))
        for m, s, w in zip(config.means, config.stds, config.weights, strict=True)
    )


def velocity_by_quadrature(config: MixtureConfig, x: float, t: float) -> float:
    """E[e - x0 | x_t = x] from Bayes' rule alone: x0 has the mixture density, e = (x - (1 - t) x0) / t."""

    def density(x0: float) -> float:
        parts = zip(config.means, config.stds, config.weights, strict=True)
        prior = sum(w * norm.pdf(x0, m, s) for m, s, w in parts)
        return float(prior * norm.pdf((x - (1 - t) * x0) / t))

    knots = sorted({*config.means, min(max(x / (1 - t), -6.0), 6.0)})
    total = quad(density, -8, 8, points=knots, limit=400, epsabs=1e-13)[0]
    first = quad(lambda x0: density(x0) * ((x - (1 - t) * x0) / t - x0), -8, 8, points=knots, limit=400, epsabs=1e-13)[
        0
    ]
    return float(first / total)


@BOTH
@pytest.mark.parametrize("t", [0.05, 0.4, 0.9])
def test_the_velocity_is_the_conditional_mean_of_e_minus_x0(config: MixtureConfig, t: float) -> None:
    x = torch.tensor(POINTS[1:-1]).double()
    expected = [velocity_by_quadrature(config, float(point), t) for point in x]
    torch.testing.assert_close(
        mixture(config).velocity(x, full(t, x)), torch.tensor(expected).double(), rtol=1e-6, atol=1e-6
    )


def test_the_velocity_agrees_with_a_regression_on_samples() -> None:
    """Tests with its sign and the data's: E[(v - v_exact) f(x_t, t)] = 0 for any f."""
    draw = whole(100_000)
    x0, e = data(draw)[:, 0, 0], draw.normal("noise").double()
    t = draw.uniform("t").double()
    x_t = noised(x0, e, t)
    residual = e - x0 - mixture().velocity(x_t, t)
    for f in (torch.ones_like(t), x_t, t, x_t * t, x_t.sin()):
        score = residual * f
        assert abs(score.mean()) < 4 * score.std() / math.sqrt(len(t))


def test_at_the_ends_the_velocity_is_noise_minus_the_other_end() -> None:
    """At t = 1, x is the noise; at t = 0, x is the data and the noise has mean 0."""
    x = torch.tensor(POINTS).double()
    mean = sum(w * m for w, m in zip(MIXTURE.weights, MIXTURE.means, strict=True))
    torch.testing.assert_close(mixture().velocity(x, full(1.0, x)), x - mean)
    torch.testing.assert_close(mixture().velocity(x, full(0.0, x)), -x)


@BOTH
@pytest.mark.parametrize(("t", "r"), [(1.0, 0.0), (0.9, 0.35), (0.3, 0.01)])
def test_the_map_solves_the_ode_of_the_velocity(config: MixtureConfig, t: float, r: float) -> None:
    exact, x = mixture(config), torch.tensor(POINTS).double()

    def slope(time: float, state: np.ndarray) -> np.ndarray:
        at = torch.from_numpy(np.array(state))
        return exact.velocity(at, full(time, at)).numpy()

    solution = solve_ivp(slope, (t, r), x.numpy(), method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1]
    torch.testing.assert_close(exact.map(x, full(t, x), full(r, x)), torch.from_numpy(solution), rtol=1e-8, atol=1e-8)


@BOTH
def test_the_map_is_the_identity_at_r_equal_t(config: MixtureConfig) -> None:
    x = torch.tensor(POINTS).double()
    for t in (0.0, 0.1, 0.7, 1.0):
        torch.testing.assert_close(mixture(config).map(x, full(t, x), full(t, x)), x, rtol=0, atol=1e-9)


@given(
    x=st.floats(-4, 4),
    times=st.lists(st.floats(0, 1), min_size=3, max_size=3).map(sorted),
    single=st.booleans(),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_the_map_is_a_semigroup(x: float, times: list[float], single: bool) -> None:
    exact = mixture(GAUSSIAN if single else MIXTURE)
    r, s, t = (torch.tensor([value]).double() for value in times)
    start = torch.tensor([x]).double()
    direct, through = exact.map(start, t, r), exact.map(exact.map(start, t, s), s, r)
    # A point far outside every component sits where the distribution function has few digits left.
    torch.testing.assert_close(through, direct, rtol=1e-5, atol=1e-5)


@BOTH
def test_the_maps_derivative_in_r_is_the_velocity_there(config: MixtureConfig) -> None:
    exact, x = mixture(config), torch.tensor(POINTS).double()
    t, r = full(0.8, x), full(0.3, x)
    arrived, slope = torch.func.jvp(lambda r: exact.map(x, t, r), (r,), (torch.ones_like(r),))
    torch.testing.assert_close(slope, exact.velocity(arrived, r), rtol=1e-7, atol=1e-7)


@BOTH
def test_the_maps_derivative_along_a_trajectory_is_zero(config: MixtureConfig) -> None:
    """X_{t->r}(x_t) does not depend on t as x_t moves with the velocity: the Eulerian equation."""
    exact, x = mixture(config), torch.tensor(POINTS).double()
    t, r = full(0.8, x), full(0.3, x)
    tangents = (exact.velocity(x, t), torch.ones_like(t))
    _, slope = torch.func.jvp(lambda x, t: exact.map(x, t, r), (x, t), tangents)
    torch.testing.assert_close(slope, torch.zeros_like(x), rtol=0, atol=1e-7)


def test_one_gaussian_has_the_written_out_map_and_velocity() -> None:
    (m,), (s,) = GAUSSIAN.means, GAUSSIAN.stds
    exact, x, t, r = mixture(GAUSSIAN), torch.tensor(POINTS).double(), 0.7, 0.2
    spread = {a: math.sqrt((1 - a) ** 2 * s**2 + a**2) for a in (t, r)}
    arrived = (1 - r) * m + spread[r] / spread[t] * (x - (1 - t) * m)
    slope = -m + (t - (1 - t) * s**2) / spread[t] ** 2 * (x - (1 - t) * m)
    torch.testing.assert_close(exact.map(x, full(t, x), full(r, x)), arrived)
    torch.testing.assert_close(exact.velocity(x, full(t, x)), slope)
    torch.testing.assert_close(exact.mean_velocity(x, full(t, x), full(r, x)), (x - arrived) / (t - r))


def test_one_component_twice_is_that_component() -> None:
    """The mixture's code path (quantiles) against the single Gaussian's (affine)."""
    (m,), (s,) = GAUSSIAN.means, GAUSSIAN.stds
    twice = Mixture(MixtureConfig(means=(m, m), stds=(s, s), weights=(0.3, 0.7)))
    x = torch.tensor(POINTS).double()
    for t, r in ((1.0, 0.0), (0.6, 0.5)):
        arguments = x, full(t, x), full(r, x)
        torch.testing.assert_close(twice.map(*arguments), mixture(GAUSSIAN).map(*arguments))
    torch.testing.assert_close(twice.velocity(x, full(0.4, x)), mixture(GAUSSIAN).velocity(x, full(0.4, x)))


@BOTH
def test_the_map_carries_noise_to_the_data(config: MixtureConfig) -> None:
    z = whole(20_000).normal("z").double()
    x = mixture(config).map(z, full(1.0, z), full(0.0, z))
    means, stds, weights = (np.array(v) for v in (config.means, config.stds, config.weights))
    mean = float(weights @ means)
    std = math.sqrt(weights @ (stds**2 + means**2) - mean**2)
    assert abs(x.mean() - mean) < 4 * std / math.sqrt(len(z))
    assert abs(x.std() / std - 1) < 4 / math.sqrt(len(z))
    assert kstest(x.numpy(), lambda points: cdf(config, 0.0, points)).pvalue > 1e-3


@BOTH
@pytest.mark.parametrize("t", [0.25, 0.75])
def test_noised_data_have_the_marginal_the_map_assumes(config: MixtureConfig, t: float) -> None:
    draw = whole(20_000)
    x_t = noised(data(draw, config)[:, 0, 0], draw.normal("noise").double(), torch.full((20_000,), t).double())
    assert kstest(x_t.numpy(), lambda points: cdf(config, t, points)).pvalue > 1e-3


def test_the_mean_velocity_is_continuous_at_r_equal_t() -> None:
    x = torch.tensor(POINTS).double()
    t = full(0.6, x)
    at = mixture().mean_velocity(x, t, t)
    torch.testing.assert_close(at, mixture().velocity(x, t))
    torch.testing.assert_close(mixture().mean_velocity(x, t, t - 1e-6), at, rtol=1e-4, atol=1e-4)


def test_theta_adds_its_five_terms_to_the_exact_field() -> None:
    theta = (0.1, -0.2, 0.3, 0.4, -0.5)
    exact, moved = exact_role("a").network, exact_role("b", theta=theta).network
    x = torch.tensor(POINTS).double().reshape(-1, 1, 1)
    t, r = torch.full((5,), 0.8).double(), torch.full((5,), 0.3).double()
    cond = whole(1)  # not looked at
    difference = moved.mean_velocity(x, t, r, cond) - exact.mean_velocity(x, t, r, cond)
    expected = 0.1 - 0.2 * x + 0.3 * 0.8 + 0.4 * 0.5 - 0.5 * x * 0.5
    torch.testing.assert_close(difference, expected)


def test_a_velocity_role_is_the_diagonal_of_a_flow_map_role() -> None:
    theta = (0.1, -0.2, 0.3, 0.4, -0.5)
    one, two = exact_role("a", "velocity", theta=theta), exact_role("b", "flow_map", theta=theta)
    x, t = torch.tensor(POINTS).double().reshape(-1, 1, 1), torch.rand(5).double()
    cond = whole(1)
    torch.testing.assert_close(one.network.velocity(x, t, cond), two.network.velocity(x, t, cond))
