"""TrigFlow and rectified flow are the same paths, in either direction and at both ends."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from flowmap.maths.trigflow import RIGHT_ANGLE, TrigFlow

from .support import whole

SIGMAS = pytest.mark.parametrize("sigma_d", [0.5, 1.0, 2.3])
COUNT = 501


def angles() -> Tensor:
    """From end to end, both included."""
    return torch.linspace(0, RIGHT_ANGLE, COUNT, dtype=torch.float64)


def normal(name: str, shape: tuple[int, ...] = (2, 3)) -> Tensor:
    return whole(COUNT).normal(name, shape).double()


def wide(a: Tensor) -> Tensor:
    return a[:, None, None]


@SIGMAS
def test_times_and_angles_are_each_others_inverse(sigma_d: float) -> None:
    flow, a = TrigFlow(sigma_d), angles()
    torch.testing.assert_close(flow.angle_of(flow.time_of(a)), a, rtol=0, atol=1e-12)
    t = torch.linspace(0, 1, COUNT).double()
    torch.testing.assert_close(flow.time_of(flow.angle_of(t)), t, rtol=0, atol=1e-12)
    assert flow.time_of(a[:1]) == 0
    assert flow.time_of(a[-1:]) == pytest.approx(1, abs=1e-15)


@SIGMAS
def test_the_noise_level_is_the_same_in_both(sigma_d: float) -> None:
    a = angles()[1:-1]
    t = TrigFlow(sigma_d).time_of(a)
    torch.testing.assert_close(t / (1 - t), sigma_d * torch.tan(a))


@SIGMAS
def test_points_and_velocities_come_back(sigma_d: float) -> None:
    flow, a, x, u = TrigFlow(sigma_d), angles(), normal("x"), normal("u")
    x_trig = flow.trig_point(x, a)
    torch.testing.assert_close(flow.rectified_point(x_trig, a), x, rtol=1e-12, atol=1e-12)
    F = flow.trig_velocity(u, x_trig, a)
    torch.testing.assert_close(flow.rectified_velocity(F, x_trig, a), u, rtol=1e-12, atol=1e-12)
    assert all(value.isfinite().all() for value in (x_trig, F))


@SIGMAS
def test_a_sample_is_at_the_same_place_on_both_paths(sigma_d: float) -> None:
    flow, a, x0, noise = TrigFlow(sigma_d), angles(), normal("x0"), normal("noise")
    x_trig, t = flow.noised(x0, noise, a), wide(flow.time_of(a))
    torch.testing.assert_close(x_trig, wide(a.cos()) * x0 + sigma_d * wide(a.sin()) * noise)
    torch.testing.assert_close(flow.rectified_point(x_trig, a), (1 - t) * x0 + t * noise, rtol=1e-12, atol=1e-12)


@SIGMAS
def test_both_predict_the_same_data(sigma_d: float) -> None:
    """x - t u = cos a x_trig - sigma_d sin a F, at every angle; solved for F it is the form that fails at a = 0."""
    flow, a, x, u = TrigFlow(sigma_d), angles(), normal("x"), normal("u")
    x_trig, t = flow.trig_point(x, a), wide(flow.time_of(a))
    data, F = x - t * u, flow.trig_velocity(u, x_trig, a)
    cos, sin = wide(a.cos()), wide(a.sin())
    torch.testing.assert_close(cos * x_trig - sigma_d * sin * F, data, rtol=1e-12, atol=1e-12)
    singular = (cos * x_trig - data) / (sigma_d * sin)
    assert singular[0].isnan().any() or singular[0].isinf().any()
    torch.testing.assert_close(F[1:], singular[1:], rtol=1e-9, atol=1e-9)


@SIGMAS
def test_near_the_data_the_form_without_a_quotient_keeps_its_digits(sigma_d: float) -> None:
    """Against its limit u + x at a -> 0; the quotient has lost them all in float64 already."""
    flow, x, u = TrigFlow(sigma_d), normal("x"), normal("u")
    a = torch.full((COUNT,), 1e-13, dtype=torch.float64)
    x_trig = flow.trig_point(x, a)
    torch.testing.assert_close(flow.trig_velocity(u, x_trig, a), u + x, rtol=1e-9, atol=1e-9)
    quotient = (wide(a.cos()) * x_trig - (x - wide(flow.time_of(a)) * u)) / (sigma_d * wide(a.sin()))
    assert (quotient - (u + x)).abs().max() > 1e-4


@SIGMAS
def test_the_velocity_of_a_sample_becomes_that_of_the_other_path(sigma_d: float) -> None:
    """sigma_d F = dx_trig/da of e - x0: in closed form, and as the derivative of the path."""
    flow, a, x0, noise = TrigFlow(sigma_d), angles(), normal("x0"), normal("noise")
    x_trig, slope = torch.func.jvp(lambda a: flow.noised(x0, noise, a), (a,), (torch.ones_like(a),))
    F = flow.trig_velocity(noise - x0, x_trig, a)
    torch.testing.assert_close(sigma_d * F, slope, rtol=1e-12, atol=1e-12)
    closed = sigma_d * wide(a.cos()) * noise - wide(a.sin()) * x0
    torch.testing.assert_close(sigma_d * F, closed, rtol=1e-12, atol=1e-12)


@SIGMAS
def test_a_trajectory_of_one_path_is_a_trajectory_of_the_other(sigma_d: float) -> None:
    """For any curve x(t): the TrigFlow image of it moves with sigma_d F(dx/dt). By forward-mode derivative."""
    flow, a, z = TrigFlow(sigma_d), angles(), normal("z")

    def curve(t: Tensor) -> Tensor:
        return torch.sin(3 * wide(t)) * z + wide(t) ** 2

    t = flow.time_of(a)
    x, dx_dt = torch.func.jvp(curve, (t,), (torch.ones_like(t),))
    ones = torch.ones_like(a)
    x_trig, slope = torch.func.jvp(lambda a: flow.trig_point(curve(flow.time_of(a)), a), (a,), (ones,))
    torch.testing.assert_close(sigma_d * flow.trig_velocity(dx_dt, x_trig, a), slope, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(x, flow.rectified_point(x_trig, a))


def test_at_sigma_one_these_are_the_formulas_of_rcm() -> None:
    """c_in = c_skip = 1 / (cos + sin), c_out = -sin / (cos + sin), c_noise = sin / (cos + sin)."""
    flow, a, x_trig, u = TrigFlow(1.0), angles(), normal("x"), normal("u")
    cos, sin = a.cos(), a.sin()
    c_in = 1 / (cos + sin)
    torch.testing.assert_close(flow.scale(a), c_in, rtol=1e-13, atol=0)
    torch.testing.assert_close(flow.time_of(a), sin * c_in, rtol=1e-13, atol=1e-15)
    x0 = wide(c_in) * x_trig + wide(-sin * c_in) * u
    F = flow.trig_velocity(u, x_trig, a)
    torch.testing.assert_close(wide(cos) * x_trig - wide(sin) * F, x0, rtol=1e-12, atol=1e-12)


def test_float32_goes_in_and_out_but_not_in_between() -> None:
    """At the last angle before pi/2 float32's cosine is negative; nothing leaves [0, 1] or turns nan."""
    flow, a = TrigFlow(0.5), angles().float()
    a[-1] = math.pi / 2
    assert float(a[-1]) > math.pi / 2
    t = flow.time_of(a)
    assert t.dtype == torch.float64
    assert ((t >= 0) & (t <= 1)).all()
    x, u = normal("x").float(), normal("u").float()
    x_trig = flow.trig_point(x, a)
    F = flow.trig_velocity(u, x_trig, a)
    assert x_trig.dtype == F.dtype == flow.rectified_velocity(F, x_trig, a).dtype == torch.float32
    exact = flow.trig_velocity(u.double(), x_trig.double(), a.double())
    # Rounded once, at the end.
    assert torch.equal(F, exact.float())


def test_times_for_each_frame_are_possible() -> None:
    flow, x, u = TrigFlow(0.5), normal("x", (2, 3)), normal("u", (2, 3))
    a = torch.stack([angles(), angles().flip(0)], dim=1)
    whole_x = flow.trig_velocity(u, flow.trig_point(x, a), a)
    for frame in range(2):
        one = slice(frame, frame + 1)
        alone = flow.trig_velocity(u[:, one], flow.trig_point(x[:, one], a[:, frame]), a[:, frame])
        torch.testing.assert_close(whole_x[:, one], alone)
