"""Equations 28 to 42 of docs/derivations.md against closed forms, and against the code whose docstrings cite them."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from flowmap_consistency.continuous import consistency_tangent
from flowmap_distribution.configs import Dmd2Config, RcmConfig
from flowmap_distribution.matching import critic_loss
from flowmap_flow.transition import interval_weight
from flowmap_samplers.configs import DpmSolverConfig, UniPCConfig
from torch import Tensor

from flowmap.interfaces import Batch, NoCond
from flowmap.maths.distances import normalized
from flowmap.maths.solver import mean_velocity
from flowmap.maths.trigflow import TrigFlow

from .support import GAUSSIAN, MIXTURE, exact_role, make_scene, mixture, whole

X = torch.linspace(-2, 2, 41, dtype=torch.float64)
SIGMA, ANGLE, H = 0.7, 0.9, 1e-4
FLOW = TrigFlow(SIGMA)


def at(time: float) -> Tensor:
    return torch.tensor(time, dtype=torch.float64)


def velocity(x: Tensor, t: float) -> Tensor:
    return mixture(MIXTURE).velocity(x, at(t))


def jump(x: Tensor, t: float, r: float) -> Tensor:
    return mixture(MIXTURE).map(x, at(t), at(r))


# TrigFlow


def place(a: float) -> tuple[float, float]:
    """c and the time of an angle, as eq. 29 has them."""
    c = 1 / (math.cos(a) + SIGMA * math.sin(a))
    return c, c * SIGMA * math.sin(a)


def trajectory(a: float) -> Tensor:
    """z at the angle `a` on the trajectories that are at X where the angle is ANGLE."""
    c, t = place(a)
    return jump(X, place(ANGLE)[1], t) / c


def of_angle(z: Tensor, made: Tensor, a: float) -> Tensor:
    return FLOW.trig_velocity(made.view(-1, 1, 1), z.view(-1, 1, 1), at(a).expand(len(z))).flatten()


def wrong(a: float) -> Tensor:
    """F along the trajectory of a student that is not the exact one."""
    c, t = place(a)
    z = trajectory(a)
    u = (c * z - jump(c * z, t, 0.0)) / t
    return of_angle(z, u + 0.3 * torch.sin(2 * z + a), a)


def change(of: Callable[[float], Tensor]) -> Tensor:
    """The derivative along the trajectory at ANGLE."""
    return (of(ANGLE + H) - of(ANGLE - H)) / (2 * H)


def test_equations_28_to_30_the_velocity_and_the_prediction_of_both_paths() -> None:
    c, t = place(ANGLE)
    z = trajectory(ANGLE)
    assert t / (SIGMA * (1 - t)) == pytest.approx(math.tan(ANGLE))
    assert float(FLOW.time_of(at(ANGLE))) == pytest.approx(t)
    assert (of_angle(z, velocity(c * z, t), ANGLE) - change(trajectory) / SIGMA).abs().max() < 1e-6
    x0, noise = X, X.flip(0) + 0.3
    z = math.cos(ANGLE) * x0 + SIGMA * math.sin(ANGLE) * noise
    u = torch.sin(X)
    data = math.cos(ANGLE) * z - SIGMA * math.sin(ANGLE) * of_angle(z, u, ANGLE)
    assert (data - (c * z - t * u)).abs().max() < 1e-12


def test_equations_31_to_34_the_change_of_the_prediction_along_a_trajectory() -> None:
    cos, sin = math.cos(ANGLE), math.sin(ANGLE)
    z, F, dz, dF = trajectory(ANGLE), wrong(ANGLE), change(trajectory), change(wrong)

    def prediction(a: float) -> Tensor:
        return math.cos(a) * trajectory(a) - SIGMA * math.sin(a) * wrong(a)

    found = -cos * (SIGMA * F - dz) - sin * (z + SIGMA * dF)
    assert found.abs().max() > 0.1
    assert (found - change(prediction)).abs().max() < 1e-5

    def g(k: float, ramp: str = "paper") -> Tensor:
        points = (part.view(-1, 1, 1) for part in (F, dz, z, dF))
        return consistency_tangent(*points, at(ANGLE).expand(len(z)), SIGMA, k, ramp).flatten()  # type: ignore[arg-type]

    for ramp in ("paper", "rcm"):
        assert (g(1.0, ramp) - cos * change(prediction)).abs().max() < 1e-5
    # Linear in k, and at k = 0 the way to the velocity alone.
    assert (g(0.0) - cos**2 * (dz - SIGMA * F)).abs().max() < 1e-12
    assert (g(0.25) - 0.75 * g(0.0) - 0.25 * g(1.0)).abs().max() < 1e-12
    held = cos * math.sqrt(1 - 0.25 * sin**2)
    assert (g(0.5, "rcm") - held * (dz - SIGMA * F) + cos * sin * (0.5 * z + SIGMA * dF)).abs().max() < 1e-12
    one = normalized(g(1.0)[None, None])
    assert float(one.norm()) == pytest.approx(float(g(1.0).norm() / (g(1.0).norm() + 0.1)))


# Distribution matching


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.9])
def test_equation_35_scores_differ_by_predictions(tau: float) -> None:
    found = []
    for config in (MIXTURE, GAUSSIAN):
        y = X.clone().requires_grad_()
        parts = zip(config.weights, config.means, config.stds, strict=True)
        density = sum(
            weight * torch.distributions.Normal((1 - tau) * mean, math.hypot((1 - tau) * std, tau)).log_prob(y).exp()
            for weight, mean, std in parts
        )
        (score,) = torch.autograd.grad(density.log().sum(), y)  # type: ignore[union-attr]
        data = X - tau * mixture(config).velocity(X, at(tau))
        assert (score - ((1 - tau) * data - X) / tau**2).abs().max() < 1e-5 / tau**2
        found.append((score, data))
    (fake, fake_data), (real, real_data) = found
    assert (fake - real - (1 - tau) / tau**2 * (fake_data - real_data)).abs().max() < 2e-5 / tau**2


@pytest.mark.parametrize("sigma_d", [0.0, 0.5, 1.0])
def test_equation_36_the_critic_counts_errors_of_data_as_edm_does(sigma_d: float) -> None:
    draw = whole(8)
    made = Batch(draw.normal("made", (1, 1)).double(), NoCond(), NoCond())
    scene = make_scene([exact_role("critic", "velocity")], made.x0, draw)
    tau = torch.linspace(0.1, 0.9, 8)
    loss = critic_loss(scene, made, tau, sigma_d)
    noise = draw.normal("critic noise", (1, 1))
    t = tau[:, None, None]
    y = (1 - t) * made.x0 + t * noise
    missed = tau * (scene.velocity("critic").velocity(y, tau, made.cond) - (noise - made.x0)).flatten()
    level = tau / (1 - tau)
    counts = (level**2 + sigma_d**2) / (level * sigma_d) ** 2 if sigma_d else 1 / tau**2
    torch.testing.assert_close(loss.value, (counts * missed**2).mean().to(loss.value))


def test_equation_37_the_shares_of_both_terms() -> None:
    rcm, dmd2 = RcmConfig().build(), Dmd2Config().build()
    assert (rcm.matching.factor, rcm.forward_weight, dmd2.matching.factor) == (1.0, 100.0, 0.5)  # type: ignore[attr-defined]
    assert RcmConfig().forward.model_dump()["bins"] == 0


# Transition models


def test_equation_38_intervals() -> None:
    t, r = torch.tensor([0.9, 0.5, 0.5]).double(), torch.tensor([0.2, 0.0, 0.5]).double()
    plain = [(0.8 + math.tan(0.9) - math.tan(0.2)) ** -0.5, (0.8 + math.tan(0.5)) ** -0.5, 1.0]
    assert interval_weight(t, r, 0.8).tolist() == pytest.approx(plain)
    rise = torch.tan(TrigFlow(1.0).angle_of(t)) - torch.tan(TrigFlow(1.0).angle_of(r))
    assert interval_weight(t, r, 0.8, "angle")[:2].tolist() == pytest.approx(((0.8 + rise) ** -0.5)[:2].tolist())
    torch.testing.assert_close(rise, (t - r) / ((1 - t) * (1 - r)))


# Steps of higher order


def test_equation_39_has_an_error_of_third_order_in_a_step() -> None:
    def error(h: float) -> float:
        t, s = at(0.8).expand(len(X)), at(0.8 - h).expand(len(X))
        mean = mean_velocity(mixture(MIXTURE).velocity, X, t, s, "heun")
        first = velocity(X, 0.8)
        assert (mean - (first + velocity(X - h * first, 0.8 - h)) / 2).abs().max() < 1e-12
        return float((X - h * mean - jump(X, 0.8, 0.8 - h)).abs().max())

    assert error(0.02) / error(0.01) == pytest.approx(8, rel=0.2)


def half_log(t: float) -> float:
    return math.log((1 - t) / t)


def integral(of: Callable[[float], Tensor], t: float, r: float) -> Tensor:
    """Of e^lambda of(lambda) between the times, by a quadrature of many points."""
    places, weights = np.polynomial.legendre.leggauss(40)
    middle, half = (half_log(t) + half_log(r)) / 2, (half_log(r) - half_log(t)) / 2
    levels = [middle + half * float(place) for place in places]
    terms = [half * float(w) * math.exp(level) * of(level) for w, level in zip(weights, levels, strict=True)]
    return torch.stack(terms).sum(0)


def test_equation_40_solves_the_ode() -> None:
    t, r = 0.8, 0.3

    def data(level: float) -> Tensor:
        s = 1 / (1 + math.exp(level))
        x = jump(X, t, s)
        return x - s * velocity(x, s)

    found = r / t * X + r * integral(data, t, r)
    assert (found - jump(X, t, r)).abs().max() < 1e-6
    constant = r / t * X + r * integral(lambda level: X - t * velocity(X, t), t, r)
    assert (constant - (X - (t - r) * velocity(X, t))).abs().max() < 1e-12


TIMES = [0.9, 0.75, 0.55, 0.4, 0.2, 0.1]


def step(x: Tensor, t: float, r: float, data: Tensor) -> Tensor:
    """Eq. 40 where the prediction is constant."""
    return r / t * x + (1 - r / t) * data


def corrected(x: Tensor, known: list[Tensor], data: Tensor, k: int) -> Tensor:
    """The point at TIMES[k] from the one `x` before it, with the prediction `data` there: eq. 42, first the mean."""
    t, r = TIMES[k - 1], TIMES[k]
    if k == 1:
        return step(x, t, r, (known[0] + data) / 2)
    points = [half_log(time) for time in TIMES[k - 2 : k + 1]]
    values = [known[k - 2], known[k - 1], data]

    def parabola(level: float) -> Tensor:
        parts = []
        for i, value in enumerate(values):
            others = [point for j, point in enumerate(points) if j != i]
            parts.append(value * math.prod((level - other) / (points[i] - other) for other in others))
        return torch.stack(parts).sum(0)

    return r / t * x + r * integral(parabola, t, r)


def multistep(correct: bool) -> Tensor:
    """Eqs. 41 and 42 along TIMES."""
    x, before, known = X.clone(), X, list[Tensor]()
    for k, (t, r) in enumerate(pairwise(TIMES)):
        data = x - t * velocity(x, t)
        if correct and k:
            x = corrected(before, known, data, k)
        known.append(data)
        before = x
        ahead = 0.0 * data
        if 0 < k < len(TIMES) - 2:
            passed = half_log(t) - half_log(TIMES[k - 1])
            ahead = (half_log(r) - half_log(t)) / (2 * passed) * (data - known[k - 1])
        x = step(x, t, r, data + ahead)
    return x


@pytest.mark.parametrize("config", [DpmSolverConfig(), UniPCConfig()], ids=["dpm_solver", "unipc"])
def test_equations_41_and_42_are_what_the_samplers_do(config: DpmSolverConfig | UniPCConfig) -> None:
    times = torch.tensor(TIMES, dtype=torch.float64)
    network = exact_role("teacher", "velocity").network
    made = config.build().sample(network, X.view(-1, 1, 1), times, NoCond(), whole(len(X)))
    expected = multistep(correct=config.type == "unipc")
    assert (made.flatten() - expected).abs().max() < 1e-5
    euler = X.clone()
    for t, r in pairwise(TIMES):
        euler = euler - (t - r) * velocity(euler, t)
    assert (euler - expected).abs().max() > 1e-2
