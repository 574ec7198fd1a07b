"""du/dt along a trajectory: order, ends of the interval, batching, frames."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from flowmap.interfaces import Cond, FlowMap, NoCond
from flowmap.maths.path import like
from flowmap.networks.tangent import Question, tangent, value_and_slope
from flowmap.schema.settings import TangentConfig

from .support import GAUSSIAN, MIXTURE, Diary, NotedFlowMap, Rows, analytic_role, exact_role, whole
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
    assert all(error < 1.2 * step * exact.norm() for error, step in zip(errors, steps, strict=True))
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


# -- in r, with gradient


class Curved(FlowMap):
    """u = x sin(3 r) t + w r^3, with a parameter w; the derivative in r is written out below."""

    def __init__(self) -> None:
        self.w = torch.tensor(0.7).double().requires_grad_()

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        t, r = like(t, x), like(r, x)
        return x * (3 * r).sin() * t + self.w * r**3

    def derivative(self, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        t, r = like(t, x), like(r, x)
        return 3 * x * (3 * r).cos() * t + 3 * self.w * r**2


ALL = torch.arange(4)


def in_r(
    network: FlowMap, x: Tensor, t: Tensor, r: Tensor, rows: Tensor = ALL, **fields: object
) -> tuple[Tensor, Tensor]:
    return value_and_slope(network, Question(x, t, r, NoCond()), rows, TangentConfig.model_validate(fields))


METHODS = pytest.mark.parametrize(
    "fields",
    [{"method": "jvp"}, {"step": 1e-5}, {"step": 1e-5, "batched": False}],
    ids=["jvp", "central", "one by one"],
)


@FRAMES
@METHODS
def test_the_slope_in_r_and_its_gradient_are_the_written_out_ones(fields: dict[str, object], frames: bool) -> None:
    x, t, r, _ = point(frames)
    network, rows = Curved(), torch.tensor([2, 0])
    u, slope_r = in_r(network, x, t, r, rows, **fields)
    torch.testing.assert_close(u, network.mean_velocity(x, t, r, NoCond()), rtol=1e-12, atol=1e-12)
    expected = network.derivative(x, t, r)[rows]
    torch.testing.assert_close(slope_r, expected, rtol=1e-7, atol=1e-7)
    graded = (u.sum(), slope_r.square().sum(), expected.square().sum())
    of_u, ours, truth = (torch.autograd.grad(value, network.w, retain_graph=True)[0] for value in graded)
    torch.testing.assert_close(of_u, like(r, x).expand_as(x).pow(3).sum())
    torch.testing.assert_close(ours, truth, rtol=1e-7, atol=1e-7)


@METHODS
def test_the_exact_map_moves_with_the_velocity_of_where_it_arrives(fields: dict[str, object]) -> None:
    """d/dr X_{t->r}(x) = u - (t - r) du/dr = v(X, r), for the closed forms of one Gaussian and of a mixture."""
    x, t, r, _ = point()
    for config in (GAUSSIAN, MIXTURE):
        network = exact_role("student", config=config).network
        u, slope_r = in_r(network, x, t, r, **fields)
        gap = like(t - r, x)
        v = network.velocity(x - gap * u, r, NoCond())
        torch.testing.assert_close(u - gap * slope_r, v, rtol=1e-6, atol=1e-6)


def test_of_one_gaussian_the_slope_in_r_is_the_derivative_of_the_closed_form() -> None:
    """X = m (1 - r) + s(r) / s(t) (x - m (1 - t)), s(t)^2 = (1 - t)^2 s0^2 + t^2; u = (x - X) / (t - r)."""
    x, t, r, _ = point()
    mean, std = GAUSSIAN.means[0], GAUSSIAN.stds[0]
    at, to = like(t, x), like(r, x)
    wide, narrow = (((1 - s) ** 2 * std**2 + s**2).sqrt() for s in (at, to))
    end = mean * (1 - to) + narrow / wide * (x - mean * (1 - at))
    end_in_r = -mean + (to - (1 - to) * std**2) / narrow / wide * (x - mean * (1 - at))
    expected = -end_in_r / (at - to) + (x - end) / (at - to) ** 2
    _, slope_r = in_r(exact_role("student", config=GAUSSIAN).network, x, t, r, method="jvp")
    torch.testing.assert_close(slope_r, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("r", "order"), [(0.3, 2), (0.0, 1), (0.8, 1)])
def test_the_difference_in_r_is_one_sided_at_zero_and_at_t(r: float, order: int) -> None:
    x, _, _, _ = point()
    t, r_ = torch.full((4,), 0.8).double(), torch.full((4,), r).double()
    truth = Curved().derivative(x, t, r_)
    steps = (0.04, 0.02, 0.01, 0.005)
    errors = [float((in_r(Curved(), x, t, r_, step=step)[1] - truth).detach().norm()) for step in steps]
    found = slope([math.log(s) for s in steps], [math.log(e) for e in errors])
    assert found == pytest.approx(order, abs=0.1) if order == 2 else found > 0.9


@FRAMES
@pytest.mark.parametrize("batched", [True, False])
def test_in_r_the_network_is_never_asked_beyond_t_or_below_zero(batched: bool, frames: bool) -> None:
    t = torch.tensor([0.003, 0.5, 0.5, 0.5, 1.0])
    r = torch.tensor([0.001, 0.0, 0.498, 0.3, 1.0])
    t, r = (value[:, None].expand(5, 3).clone() if frames else value for value in (t, r))
    diary, x = Diary(), torch.ones(5, 3, 2)
    _, slope_r = in_r(NotedFlowMap(Curved(), diary), x, t, r, torch.arange(5), step=0.005, batched=batched)
    assert diary.calls == (1 if batched else 3)
    assert slope_r.isfinite().all()
    asked_t, asked_r = torch.cat(diary.t), torch.cat(diary.r)
    assert torch.equal(asked_t, torch.cat([t, t, t]))
    torch.testing.assert_close(asked_r, torch.cat([r, torch.minimum(r + 0.005, t), (r - 0.005).clamp(min=0)]))
    assert all(torch.equal(asked, x[:1].expand_as(asked)) for asked in diary.x)


@METHODS
def test_in_r_no_more_is_asked_than_needed(fields: dict[str, object]) -> None:
    x, t, r, _ = point()
    diary, none = Diary(), ALL[:0]
    _, slope_r = in_r(NotedFlowMap(Curved(), diary), x, t, r, none, **fields)
    assert slope_r.shape == (0, 3, 2)
    assert (diary.calls, len(diary.x[0])) == (1, 4)
    assert diary.grad == [True]
    asked = Diary()
    in_r(NotedFlowMap(Curved(), asked), x, t, r, ALL[:1], **fields)
    assert sum(len(value) for value in asked.x) == (4 if fields.get("method") == "jvp" else 6)
