"""du/dt along a trajectory: order, ends of the interval, batching, frames."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from flowmap.blocks import TangentConfig
from flowmap.interfaces import Cond, FlowMap, NoCond
from flowmap.path import like
from flowmap.tangent import tangent

from .support import Diary, NotedFlowMap, Rows, analytic_role, exact_role, whole
from .test_samplers import slope


class Polynomial(FlowMap):
    """u = x^2 t^3 + sin(2 t) r + x r, of which the derivative is written out below."""

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        t, r = like(t, x), like(r, x)
        return x**2 * t**3 + (2 * t).sin() * r + x * r

    def derivative(self, x: Tensor, t: Tensor, r: Tensor, v: Tensor) -> Tensor:
        t, r = like(t, x), like(r, x)
        return 2 * x * v * t**3 + 3 * x**2 * t**2 + 2 * (2 * t).cos() * r + v * r


def point(frames: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, t, r, v in float64 for four samples of three frames; r <= t, t well inside [0, 1]."""
    draw = whole(4)
    x, v = (draw.normal(name, (3, 2)).double() for name in "xv")
    a, b = (0.15 + 0.7 * draw.uniform(name, (3,) if frames else ()).double() for name in "ab")
    return x, torch.maximum(a, b), torch.minimum(a, b), v


def central(network: FlowMap, x: Tensor, t: Tensor, r: Tensor, v: Tensor, **fields: object) -> Tensor:
    return tangent(network, x, t, r, v, NoCond(), TangentConfig.model_validate(fields))


FRAMES = pytest.mark.parametrize("frames", [False, True], ids=["per sample", "per frame"])


@FRAMES
@pytest.mark.parametrize("method", ["central", "jvp"])
def test_the_derivative_is_the_written_out_one(method: str, frames: bool) -> None:
    x, t, r, v = point(frames)
    expected = Polynomial().derivative(x, t, r, v)
    ours = central(Polynomial(), x, t, r, v, method=method, step=1e-4)
    tolerance = 1e-12 if method == "jvp" else 1e-6
    torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)


@FRAMES
def test_the_central_difference_is_of_second_order(frames: bool) -> None:
    x, t, r, v = point(frames)
    exact = central(Polynomial(), x, t, r, v, method="jvp")
    steps = (0.04, 0.02, 0.01, 0.005)
    errors = [float((central(Polynomial(), x, t, r, v, step=step) - exact).norm()) for step in steps]
    assert slope([math.log(s) for s in steps], [math.log(e) for e in errors]) == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_the_one_sided_difference_is_of_first_order(end: float) -> None:
    x, _, _, v = point()
    t = torch.full((4,), end).double()
    r = torch.full((4,), 0.5).double()
    exact = Polynomial().derivative(x, t, r, v)
    steps = (0.04, 0.02, 0.01, 0.005)
    errors = [float((central(Polynomial(), x, t, r, v, step=step) - exact).norm()) for step in steps]
    assert all(error < 20 * step for error, step in zip(errors, steps, strict=True))
    assert slope([math.log(s) for s in steps], [math.log(e) for e in errors]) > 0.9


@pytest.mark.parametrize("t", [0.0, 0.001, 0.004, 0.996, 0.999, 1.0])
def test_near_the_ends_the_derivative_is_right_to_first_order(t: float) -> None:
    """Also where only part of a step fits: a wrong divisor would be off by up to a factor of two."""
    x, _, _, v = point()
    times, r = torch.full((4,), t).double(), torch.full((4,), 0.3).double()
    truth = Polynomial().derivative(x, times, r, v)
    ours = central(Polynomial(), x, times, r, v, step=0.005)
    assert (ours - truth).norm() < 0.02 * truth.norm()


@FRAMES
@pytest.mark.parametrize("batched", [True, False])
def test_the_network_is_never_asked_outside_the_unit_interval(batched: bool, frames: bool) -> None:
    ends = torch.tensor([0.0, 0.003, 0.5, 0.998, 1.0])
    t = ends[:, None].expand(5, 3).clone() if frames else ends
    if frames:
        t[:, 1] = 0.7
    diary, x = Diary(), torch.ones(5, 3, 2)
    central(NotedFlowMap(Polynomial(), diary), x, t, t * 0, x, step=0.005, batched=batched)
    assert diary.calls == (1 if batched else 2)
    for times in diary.t:
        assert times.min() >= 0
        assert times.max() <= 1
    asked = torch.cat(diary.t)
    torch.testing.assert_close(asked[:5], (t + 0.005).clamp(max=1))
    torch.testing.assert_close(asked[5:], (t - 0.005).clamp(min=0))


@FRAMES
def test_the_points_move_with_their_times(frames: bool) -> None:
    """Where the step is cut short, x moves by v times the same cut step."""
    t = torch.tensor([0.0, 0.5, 1.0]).double()
    t = t[:, None].expand(3, 2).contiguous() if frames else t
    x = whole(3).normal("x", (2, 2)).double()
    v = whole(3).normal("v", (2, 2)).double()
    diary = Diary()
    central(NotedFlowMap(Polynomial(), diary), x, t, t * 0, v, step=0.01)
    asked_t, asked_x = diary.t[0], diary.x[0]
    both = torch.cat([t, t])
    torch.testing.assert_close(asked_x, torch.cat([x, x]) + like(asked_t - both, asked_x) * torch.cat([v, v]))
    assert torch.equal(diary.r[0], both * 0)


@FRAMES
def test_batched_and_sequential_differences_agree_to_rounding(frames: bool) -> None:
    x, t, r, v = point(frames)
    W, b = whole(2).normal("W", (2,)).double(), whole(1).normal("b").double()
    role = analytic_role("student", W, b)
    x, v = (value.reshape(4, 3, 2, 1, 1) for value in (x, v))
    cond = Rows(whole(4).normal("cond", (1,)).double())
    one, two = (tangent(role.network, x, t, r, v, cond, TangentConfig(batched=batched)) for batched in (True, False))
    torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fields", [{"batched": True}, {"batched": False}, {"method": "jvp"}], ids=str)
def test_the_derivative_carries_no_gradient(fields: dict[str, object]) -> None:
    x, t, r, v = point()
    student, diary = exact_role("student", theta=(0.1, 0.2, 0.3, 0.4, 0.5)), Diary()
    derivative = central(NotedFlowMap(student.network, diary), x.requires_grad_(), t, r, v, **fields)
    assert not derivative.requires_grad
    assert not any(diary.grad)


def test_r_is_held_fixed() -> None:
    class EndTime(FlowMap):
        def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
            return like(r, x).expand_as(x)

    x, t, r, v = point()
    for method in ("central", "jvp"):
        assert torch.equal(central(EndTime(), x, t, r, v, method=method), torch.zeros_like(x))


def test_the_exact_map_satisfies_the_meanflow_identity() -> None:
    """u = v - (t - r) du/dt along the exact velocity, by forward mode to rounding."""
    network = exact_role("student").network
    x, t, r, _ = point()
    v = network.velocity(x, t, NoCond())
    derivative = central(network, x, t, r, v, method="jvp")
    u = network.mean_velocity(x, t, r, NoCond())
    torch.testing.assert_close(u, v - like(t - r, x) * derivative, rtol=1e-7, atol=1e-7)


def test_in_float32_the_published_step_agrees_with_forward_mode() -> None:
    network = exact_role("student", theta=(0.1, 0.2, 0.3, 0.4, 0.5)).network
    x, t, r, v = (value.float() for value in point())
    ours, truth = (central(network, x, t, r, v, method=method) for method in ("central", "jvp"))
    assert (ours - truth).norm() < 0.01 * truth.norm()
