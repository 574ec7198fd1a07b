"""Classifier-free guidance: one convention, fused or not, and no call that is not needed."""

from __future__ import annotations

import pytest
import torch
from flowmap_flow.configs import FlowMapConfig
from flowmap_flow.forward import ForwardFlowMap
from torch import Tensor

from flowmap.interfaces import Scene
from flowmap.maths.pairs import Pairs
from flowmap.maths.path import like, noised
from flowmap.networks.guidance import guided_velocity
from flowmap.schema.settings import TangentConfig

from .support import Diary, Rows, analytic_role, make_scene, noted, whole

W, B = torch.tensor([[0.3, -0.2], [0.5, 0.1]]).double(), torch.tensor([0.2]).double()
COUNT, FRAMES = 6, 3


def conditions() -> tuple[Rows, Rows]:
    draw = whole(COUNT)
    return Rows(draw.normal("cond", (1,)).double()), Rows(torch.full((COUNT, 1), -0.7).double())


def sample(name: str) -> Tensor:
    return whole(COUNT).normal(name, (FRAMES, 2, 1, 1)).double()


@pytest.mark.parametrize("frames", [(), (FRAMES,)], ids=["per sample", "per frame"])
@pytest.mark.parametrize("w", [1.0, 1.5, 4.0])
def test_the_guided_velocity_is_null_plus_w_times_the_difference(w: float, frames: tuple[int, ...]) -> None:
    network, (cond, null) = analytic_role("teacher", W, B).network, conditions()
    x, t = sample("x"), whole(COUNT).uniform("t", frames).double()
    with_cond, without = (network.velocity(x, t, c) for c in (cond, null))
    expected = without + w * (with_cond - without)
    torch.testing.assert_close(guided_velocity(network, x, t, cond, null, w), expected)


def test_the_published_convention_is_one_more() -> None:
    """cond + 3 (cond - null) is cfg_scale 4."""
    network, (cond, null) = analytic_role("teacher", W, B).network, conditions()
    x, t = sample("x"), whole(COUNT).uniform("t").double()
    with_cond, without = (network.velocity(x, t, c) for c in (cond, null))
    published = with_cond + 3 * (with_cond - without)
    torch.testing.assert_close(guided_velocity(network, x, t, cond, null, 4.0), published)


def test_guidance_of_one_makes_one_call_of_the_batch_without_null() -> None:
    teacher, diary = noted(analytic_role("teacher", W, B))
    cond, null = conditions()
    guided_velocity(teacher.network, sample("x"), whole(COUNT).uniform("t").double(), cond, null, 1.0)
    assert diary.calls == 1
    assert diary.conds == [cond]
    assert len(diary.x[0]) == COUNT


def test_guidance_makes_one_call_of_twice_the_batch() -> None:
    teacher, diary = noted(analytic_role("teacher", W, B))
    cond, null = conditions()
    guided_velocity(teacher.network, sample("x"), whole(COUNT).uniform("t").double(), cond, null, 3.0)
    assert diary.calls == 1
    assert torch.equal(diary.conds[0].values, torch.cat([cond.values, null.values]))


def pairs() -> Pairs:
    t = 0.1 + 0.8 * whole(COUNT).uniform("t").double()
    branch = torch.tensor([0, 1, 2, 2, 0, 1])
    return Pairs(t, torch.where(branch == 0, t, torch.where(branch == 1, 0.0, 0.3 * t)), branch)


def forward(w: float, velocity: str = "data") -> tuple[ForwardFlowMap, Scene, Diary]:
    student, diary = noted(analytic_role("student", W, B))
    teacher = analytic_role("teacher", W.T.contiguous(), B)
    config = FlowMapConfig(cfg_scale=w, rebalance=False, velocity=velocity)
    objective = config.build()
    assert isinstance(objective, ForwardFlowMap)
    return objective, make_scene([student, teacher], sample("x0"), whole(COUNT), *conditions()), diary


def slow_derivative(scene: Scene, x: Tensor, v: Tensor, drawn: Pairs) -> Tensor:
    """du/dt of the conditional branch, by the formula of facts/anyflow.md, for every sample."""
    student, d, cond = scene.flow_map("student"), TangentConfig().step, scene.batch.cond
    late = student.mean_velocity(x + d * v, drawn.t + d, drawn.r, cond)
    early = student.mean_velocity(x - d * v, drawn.t - d, drawn.r, cond)
    return (late - early) / (2 * d)


def gradient(value: Tensor, scene: Scene) -> Tensor:
    return torch.autograd.grad(value, scene.roles["student"].own["W"])[0]


def test_fused_guidance_is_the_written_out_loss() -> None:
    """u_hat = (u - (1 - w) sg[null]) / w against v - (t - r) (du/dt) / w, v the sample velocity."""
    w, noise, drawn = 3.0, sample("noise"), pairs()
    objective, scene, _ = forward(w)
    x_t, v = noised(scene.batch.x0, noise, drawn.t), noise - scene.batch.x0
    student = scene.flow_map("student")
    null = student.mean_velocity(x_t, drawn.t, drawn.r, scene.batch.null).detach()
    target = (v - like(drawn.t - drawn.r, v) * slow_derivative(scene, x_t, v, drawn) / w).detach()
    u_hat = (student.mean_velocity(x_t, drawn.t, drawn.r, scene.batch.cond) - (1 - w) * null) / w
    expected = (u_hat - target).square().mean()
    ours = objective.loss(scene, noise, drawn).value
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(gradient(ours, scene), gradient(expected, scene))


def test_a_teachers_velocity_is_guided_in_the_target_and_not_again_in_the_student() -> None:
    w, noise, drawn = 3.0, sample("noise"), pairs()
    objective, scene, _ = forward(w, velocity="teacher")
    x_t, teacher = noised(scene.batch.x0, noise, drawn.t), scene.velocity("teacher")
    with_cond, without = (teacher.velocity(x_t, drawn.t, c) for c in (scene.batch.cond, scene.batch.null))
    v = (without + w * (with_cond - without)).detach()
    target = (v - like(drawn.t - drawn.r, v) * slow_derivative(scene, x_t, v, drawn)).detach()
    u = scene.flow_map("student").mean_velocity(x_t, drawn.t, drawn.r, scene.batch.cond)
    expected = (u - target).square().mean()
    ours = objective.loss(scene, noise, drawn).value
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(gradient(ours, scene), gradient(expected, scene))


def test_the_fused_student_is_where_its_guided_combination_fits_the_data() -> None:
    """The loss is |null + w (v - null) - u|^2 / w^2: zero if u itself is the guided velocity."""
    w, noise = 2.5, sample("noise")
    objective, scene, _ = forward(w)
    t = 0.1 + 0.8 * whole(COUNT).uniform("t").double()
    at_t = Pairs(t, t, torch.zeros(COUNT, dtype=torch.int64))
    x_t = noised(scene.batch.x0, noise, t)
    student = scene.flow_map("student")
    u, null = (student.velocity(x_t, t, c) for c in (scene.batch.cond, scene.batch.null))
    v = noise - scene.batch.x0
    off = (null + w * (v - null) - u).square().mean() / w**2
    torch.testing.assert_close(objective.loss(scene, noise, at_t).value, off)


@pytest.mark.parametrize("w", [1.0, 3.0])
def test_only_a_guided_student_is_asked_about_null(w: float) -> None:
    """In the call of the differences, and these only for the rows with r < t."""
    objective, scene, diary = forward(w)
    objective.loss(scene, sample("noise"), pairs())
    assert diary.grad == [False, True]
    (cond, null), moving = conditions(), pairs().moving()
    sides = [cond.values[moving]] * 2
    assert torch.equal(diary.conds[0].values, torch.cat(sides if w == 1 else [*sides, null.values]))
    assert torch.equal(diary.conds[1].values, cond.values)


@pytest.mark.parametrize("method", ["central", "jvp"])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("branches", [[0, 1, 2, 2, 0, 1], [0] * 6, [2] * 6], ids=["some", "none", "all"])
def test_however_many_calls_the_loss_is_the_same(branches: list[int], batched: bool, method: str) -> None:
    t, branch = pairs().t, torch.tensor(branches)
    drawn = Pairs(t, torch.where(branch == 0, t, torch.where(branch == 1, 0.0, 0.3 * t)), branch)
    objective, scene, diary = forward(3.0)
    expected = objective.loss(scene, sample("noise"), drawn).value
    diary.x.clear()
    tangent = TangentConfig(batched=batched, method=method)
    other = FlowMapConfig(cfg_scale=3.0, rebalance=False, tangent=tangent).build()
    assert isinstance(other, ForwardFlowMap)
    ours = other.loss(scene, sample("noise"), drawn).value
    torch.testing.assert_close(ours, expected, rtol=1e-12 if method == "central" else 1e-4, atol=0)
    moving = sum(index > 0 for index in branches)
    differences = ([moving] if method == "jvp" else [moving] * 2) if moving else []
    answered = [*differences, COUNT]
    apart = method == "jvp" or not batched
    assert [len(x) for x in diary.x] == [*(answered if apart else [sum(answered)]), COUNT]
