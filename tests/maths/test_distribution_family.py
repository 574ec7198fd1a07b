"""Distribution matching: who rolls out how, what gets a gradient, and where it points."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
import torch
from flowmap_consistency.configs import ConsistencyConfig
from flowmap_distribution.backward_simulation import BackwardSimulation
from flowmap_distribution.configs import (
    BackwardSimulationConfig,
    CausVidConfig,
    Dmd2Config,
    RcmConfig,
    SelfForcingConfig,
    TrajectoryConfig,
)
from flowmap_distribution.matching import score_times
from flowmap_distribution.parts import DistributionConfig, RcmTimesConfig, ScoreTimesConfig
from flowmap_distribution.rollouts import LastStep, exit_times, falling_times
from flowmap_distribution.trajectory import Trajectory
from flowmap_flow.configs import DiscreteFlowMapConfig, FlowMatchingConfig
from flowmap_gaussian.configs import MixtureConfig
from flowmap_samplers.configs import ConsistencyConfig as ConsistencySamplerConfig
from flowmap_samplers.configs import FlowMapConfig as FlowMapSamplerConfig
from flowmap_wan.views import Forced
from pydantic import ValidationError
from torch import Tensor

from flowmap.interfaces import Batch, Cond, Loss, NoCond, Role, Scene, Velocity, Window, World
from flowmap.maths.draw import Draw
from flowmap.maths.path import grid, like, noised, shifted
from flowmap.planning.count import count
from flowmap.plugin import FrameView, NetworkKind, ObjectiveConfig, StageFacts

from ..test_cost import trained
from ..wan import support as wan
from ..wan.test_contracts import plan_of
from .support import GAUSSIAN, Diary, Rows, analytic_role, data, exact_role, make_scene, mixture, noted, whole
from .test_stationary import DIRECTIONS, axis

PLAIN = {"low": 0.02, "high": 0.98, "shift": 1.0, "limits": "range"}
HALFWAY = {"low": 0.5, "high": 0.500001, "shift": 1.0}  # where all samples' rollouts go by one time
# Each at its shortest and with several steps; rCM with the consistency objective that needs no derivative.
FAMILY: dict[str, DistributionConfig] = {
    "dmd2 1": Dmd2Config(steps=1, score_times=PLAIN),
    "dmd2 4": Dmd2Config(score_times=PLAIN),
    "self_forcing 3": SelfForcingConfig(steps=3, shift=2.0),
    "causvid 1": CausVidConfig(steps=1, score_times=PLAIN),
    "causvid 4": CausVidConfig(score_times=PLAIN),
    "rcm": RcmConfig(forward=ConsistencyConfig(), score_times=HALFWAY),
}
EVERY = pytest.mark.parametrize("objective", FAMILY.values(), ids=FAMILY.keys())


def scene_of(
    theta: Tensor | Sequence[float] = (),
    critic: MixtureConfig = GAUSSIAN,
    count: int = 64,
    step: int = 0,
    size: int = 1,
) -> Scene:
    """A student of the Gaussian data displaced by `theta`, the exact teacher, and the exact velocity of `critic`."""
    roles = [
        exact_role("student", "flow_map", GAUSSIAN, theta),
        exact_role("teacher", "velocity", GAUSSIAN),
        exact_role("critic", "velocity", critic),
    ]
    draw = whole(count, step)
    return make_scene(roles, data(whole(count, step, seed=1), GAUSSIAN, (1, size)), draw)


def losses_of(objective: ObjectiveConfig, scene: Scene, turn: int = 0) -> Iterator[Loss]:
    return objective.build().turns()[turn].losses(scene)


def matched(objective: ObjectiveConfig, scene: Scene) -> tuple[float, Tensor]:
    """The distribution loss, which comes first, and its gradient."""
    loss = next(losses_of(objective, scene))
    assert loss.branch == "dmd"
    theta = scene.roles["student"].own["theta"]
    return float(loss.value.detach()), torch.autograd.grad(loss.value, theta)[0]


def with_diary(scene: Scene, name: str = "student") -> tuple[Scene, Diary]:
    role, diary = noted(scene.roles[name])
    return replace(scene, roles={**scene.roles, name: role}), diary


# -- where it points


def affine(theta: Tensor, t: float) -> tuple[float, float]:
    """X_{t->0}(x) = a x + b of a displaced student of the single Gaussian."""
    x, time = torch.tensor([0.0, 1.0]).double().reshape(2, 1, 1), torch.full((2,), t).double()
    network = exact_role("student", config=GAUSSIAN, theta=theta).network
    with torch.no_grad():
        zero, one = network.jump(x, time, 0 * time, NoCond()).flatten().tolist()  # type: ignore[attr-defined]
    return one - zero, zero


def rolled_out(theta: Tensor, times: Tensor) -> MixtureConfig:
    """What consistency steps along `times` make of noise: a Gaussian, as every step is affine."""
    mean, std = 0.0, 1.0
    for t, r in pairwise(times.tolist()):
        a, b = affine(theta, t)
        mean, std = (1 - r) * (a * mean + b), math.hypot((1 - r) * a * std, r)
    return MixtureConfig(means=(mean,), stds=(abs(std),), weights=(1.0,))


def denoised(theta: Tensor, steps: int) -> MixtureConfig:
    """What one jump makes of data noised to each of the times of the grid."""
    (m,), (s,) = GAUSSIAN.means, GAUSSIAN.stds
    means, stds = [], []
    for t in grid(steps).tolist()[:-1]:
        a, b = affine(theta, t)
        means.append(a * (1 - t) * m + b)
        stds.append(abs(a) * math.hypot((1 - t) * s, t))
    return MixtureConfig(means=tuple(means), stds=tuple(stds), weights=(1 / steps,) * steps)


def generated(objective: DistributionConfig, theta: Tensor, draw: Draw) -> MixtureConfig:
    """What the displaced student makes in this turn, as the papers describe it."""
    if isinstance(objective, CausVidConfig):
        return denoised(theta, objective.steps)
    if isinstance(objective, RcmConfig):
        return rolled_out(theta, falling_times(draw, objective.most_steps, score_times(objective.score_times))[:, 0])
    assert isinstance(objective, Dmd2Config | SelfForcingConfig)
    return rolled_out(theta, exit_times(draw, objective.steps, objective.shift))


def quantiles(config: MixtureConfig) -> Tensor:
    levels = torch.linspace(0.0005, 0.9995, 1000).tolist()
    z = torch.tensor([NormalDist().inv_cdf(level) for level in levels]).double()
    parts = [m + s * z for m, s in zip(config.means, config.stds, strict=True)]
    return torch.cat(parts).sort().values


def distance(config: MixtureConfig) -> float:
    """The Wasserstein-2 distance to the data, by quantiles."""
    ours = quantiles(config)
    return float((ours - quantiles(GAUSSIAN).repeat_interleave(len(config.means))).square().mean().sqrt())


@EVERY
@pytest.mark.parametrize("theta", [(), (0.3, -0.2, 0.1, 0.2, 0.1)], ids=["exact", "displaced"])
def test_a_critic_equal_to_the_teacher_says_exactly_nothing(
    objective: DistributionConfig, theta: Sequence[float]
) -> None:
    score, gradient = matched(objective, scene_of(theta))
    assert score == 0
    assert torch.equal(gradient, torch.zeros(5).double())


@EVERY
@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("direction", ["constant", "x", "gap"])
def test_with_an_exact_critic_a_displaced_student_is_pushed_back(
    objective: DistributionConfig, direction: str, sign: float
) -> None:
    """A step against the gradient brings what the student makes closer to the data."""
    theta = axis(DIRECTIONS[direction], 0.2 * sign)
    draw = whole(2**15)
    score, gradient = matched(objective, scene_of(theta, generated(objective, theta, draw), 2**15))
    assert score > 0
    stepped = theta - 0.02 * gradient / gradient.norm()
    before, after = (distance(generated(objective, value, draw)) for value in (theta, stepped))
    assert after < before


@pytest.mark.parametrize("name", ["dmd2 4", "causvid 4", "rcm"])
def test_descending_with_an_exact_critic_finds_the_data(name: str) -> None:
    objective, theta = FAMILY[name], torch.tensor([0.3, -0.2, 0.0, 0.0, 0.0]).double()
    start = max(distance(generated(objective, theta, whole(1, step))) for step in range(8))
    for step in range(60):
        made = generated(objective, theta, whole(256, step))
        theta -= 0.08 * matched(objective, scene_of(theta, made, 256, step, size=8))[1]
    end = max(distance(generated(objective, theta, whole(1, step))) for step in range(8))
    assert end < 0.12 * start


# -- the loss in so many words


@pytest.mark.parametrize("w", [1.0, 3.0])
def test_the_loss_is_half_the_square_of_the_published_gradient(w: float) -> None:
    """Written out for DMD2 in one step, with networks that are nothing special: value, gradient, and raw number."""
    W = torch.tensor([[0.3, -0.2], [0.5, 0.1]])
    matrices = {"student": W, "teacher": W.T.contiguous(), "critic": 0.5 * W}
    roles = [analytic_role(name, matrix, torch.tensor([0.2])) for name, matrix in matrices.items()]
    draw = whole(5)
    cond, null = Rows(draw.normal("cond", (1,))), Rows(torch.full((5, 1), -0.7))
    scene = make_scene(roles, torch.zeros(5, 3, 2, 1, 1), draw, cond, null)
    loss = next(losses_of(Dmd2Config(steps=1, cfg_scale=w), scene))

    start, one = draw.normal("start noise", (3, 2, 1, 1)), torch.ones(5)
    x = start - scene.flow_map("student").mean_velocity(start, one, 0 * one, cond)
    tau = shifted(0.001 + 0.998 * draw.uniform("score time"), 5.0)
    y = noised(x, draw.normal("score noise", (3, 2, 1, 1)), tau)
    teacher = scene.velocity("teacher")
    with_cond, without = (teacher.velocity(y, tau, c) for c in (cond, null))
    real = y - like(tau, y) * (without + w * (with_cond - without))
    fake = y - like(tau, y) * scene.velocity("critic").velocity(y, tau, cond)
    g = ((fake - real) / (x - real).abs().mean(dim=(1, 2, 3, 4), keepdim=True)).detach()
    expected = 0.5 * (x - (x - g).detach()).square().mean()
    torch.testing.assert_close(loss.value, expected.double())
    torch.testing.assert_close(loss.raw["gradient_rms"], g.square().mean(dim=(1, 2, 3, 4)).sqrt())
    parameters = list(roles[0].own.values())
    for ours, theirs in zip(*(torch.autograd.grad(value, parameters) for value in (loss.value, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_critics_loss_is_flow_matching_of_the_rollout() -> None:
    """Written out for DMD2 in one step: |v(x_tau, tau) - (e - x)|^2, x the student's sample."""
    W = torch.tensor([[0.3, -0.2], [0.5, 0.1]])
    roles = [analytic_role(name, W, torch.tensor([0.2])) for name in ("student", "teacher", "critic")]
    draw = whole(5)
    cond = Rows(draw.normal("cond", (1,)))
    scene = make_scene(roles, torch.zeros(5, 3, 2, 1, 1), draw, cond, cond)
    (loss,) = losses_of(Dmd2Config(steps=1), scene, turn=1)
    start, noise = (draw.normal(name, (3, 2, 1, 1)) for name in ("start noise", "critic noise"))
    x = start - scene.flow_map("student").mean_velocity(start, torch.ones(5), torch.zeros(5), cond)
    tau = shifted(0.001 + 0.998 * draw.uniform("critic time"), 5.0)
    predicted = scene.velocity("critic").velocity((1 - like(tau, x)) * x + like(tau, x) * noise, tau, cond)
    torch.testing.assert_close(loss.value, (predicted - noise + x).square().mean())
    (weighted,) = losses_of(Dmd2Config(steps=1, critic_sigma_d=0.5), scene, turn=1)
    weight = like((1 - tau) ** 2 + 4 * tau**2, x)
    torch.testing.assert_close(weighted.value, (weight * (predicted - noise + x).square()).mean())


@EVERY
def test_every_loss_but_rcms_has_the_half_of_dmd2(objective: DistributionConfig) -> None:
    """And is the mean square of its gradient."""
    scene = scene_of((0.2, 0.1, 0, 0, 0), MixtureConfig(means=(0.1,), stds=(0.6,), weights=(1.0,)), size=3)
    loss = next(losses_of(objective, scene))
    factor = 1.0 if isinstance(objective, RcmConfig) else 0.5
    assert float(loss.value.detach()) == pytest.approx(factor * float(loss.raw["gradient_rms"].square().mean()))


def test_score_times_keep_to_their_range_and_the_critic_learns_at_times_of_the_same_law() -> None:
    scene = scene_of(count=4000)
    for turn, role in ((0, "teacher"), (1, "critic")):
        watched, diary = with_diary(scene, role)
        next(losses_of(Dmd2Config(), watched, turn))
        t = diary.t[-1]
        assert float(t.min()) == pytest.approx(0.001 * 5 / 1.004, abs=5e-3)
        assert float(t.max()) == pytest.approx(0.999 * 5 / 4.996, abs=1e-3)
        # Unshifted they are uniform: half of them above 1/2.
        assert float((t > 5 / 6).float().mean()) == pytest.approx(0.5, abs=0.03)


def test_the_critic_learns_what_the_student_makes() -> None:
    """With the velocity of the data as critic, samples that come out 0.5 too low ask it to move by 0.5."""
    for objective in FAMILY.values():
        scene = scene_of((0.5, 0, 0, 0, 0), count=4096)
        loss = next(losses_of(objective, scene, turn=1))
        loss.value.backward()
        gradient = scene.roles["critic"].own["theta"].grad
        assert gradient is not None
        assert gradient[0] < -0.1
        assert scene.roles["student"].own["theta"].grad is None


def test_a_co_trained_objective_has_its_weight() -> None:
    gradients = []
    for weight in (1.0, 3.0):
        objective = RcmConfig(forward=DiscreteFlowMapConfig(), forward_weight=weight)
        scene = scene_of((0.2, 0, 0, 0, 0))
        dmd, forward = losses_of(objective, scene)
        assert dmd.branch == "dmd"
        gradients.append(torch.autograd.grad(forward.value, scene.roles["student"].own["theta"])[0])
    torch.testing.assert_close(gradients[1], 3 * gradients[0])
    assert gradients[0].norm() > 0.1
    assert RcmConfig().forward_weight == 100
    assert RcmConfig().forward.type == "scm"


# -- one step with a gradient


def test_only_the_last_call_of_a_consistency_rollout_has_a_gradient() -> None:
    objective, seen = Dmd2Config(steps=4, shift=2.0), set()
    for step in range(40):
        scene, diary = with_diary(scene_of(count=8, step=step))
        next(losses_of(objective, scene))
        last = diary.calls - 1
        assert diary.grad == [False] * last + [True]
        torch.testing.assert_close(torch.stack([t[0] for t in diary.t]), grid(4, 2.0)[: last + 1])
        assert not any(r.any() for r in diary.r)
        seen.add(last)
    assert seen == {0, 1, 2, 3}


RCM_LAW = score_times(RcmTimesConfig())


EXITS = [partial(exit_times, steps=4, shift=1.0), partial(falling_times, most=4, law=RCM_LAW)]


@pytest.mark.parametrize("drawn", EXITS)
def test_exits_are_evenly_drawn_and_the_same_in_all_processes(drawn: Callable[[Draw], Tensor]) -> None:
    counts = dict.fromkeys(range(2, 6), 0)
    for step in range(400):
        draw = whole(8, step)
        times = drawn(draw)
        part = drawn(draw.part(3, 2))
        assert torch.equal(times if times.ndim == 1 else times[:, 3:5], part)
        counts[len(times)] += 1
    assert all(70 < count < 130 for count in counts.values())


def test_a_rollout_of_rcm_goes_down_by_times_of_the_scores_law() -> None:
    objective, seen = RcmConfig(forward=ConsistencyConfig(), most_steps=3, score_times={"low": 0.3}), set()
    second: list[Tensor] = []
    for step in range(60):
        scene, diary = with_diary(scene_of(count=64, step=step))
        next(losses_of(objective, scene))
        assert diary.grad == [False] * (diary.calls - 1) + [True]
        times = torch.stack(diary.t)
        assert (times[0] == 1).all()
        assert (times[1:] <= times[:-1]).all()
        assert not any(r.any() for r in diary.r)
        seen.add(diary.calls)
        second += list(times[1:2])
    assert seen == {1, 2, 3}
    # 5 a / (1 + 4 a) of a uniform a on [0.3, 1]: its quartiles, of some 2500 draws.
    at = torch.tensor([0.25, 0.5, 0.75])
    torch.testing.assert_close(torch.cat(second).quantile(at), shifted(0.3 + 0.7 * at, 5.0), atol=0.01, rtol=0)


@pytest.mark.parametrize("kind", [Dmd2Config, SelfForcingConfig, CausVidConfig, RcmConfig])
def test_score_times_follow_the_law_of_whose_they_are(kind: type[DistributionConfig]) -> None:
    """Self-Forcing and CausVid shift [0, 1] and clamp; FastGen's DMD2 and rCM shift what lies between their ends."""
    config = ScoreTimesConfig.model_validate(kind().score_times.model_dump())  # type: ignore[attr-defined]
    uniform = whole(4000).uniform("score time")
    expected = {
        "dmd2": shifted(0.001 + 0.998 * uniform, 5.0),
        "rcm": shifted(uniform, 5.0),
        "causvid": shifted(uniform, 8.0).clamp(0.02, 0.98),
    }.get(kind.type_name(), shifted(uniform, 5.0).clamp(0.02, 0.98))
    torch.testing.assert_close(score_times(config)(whole(4000), "score time"), expected, rtol=0, atol=0)


def test_fresh_noise_is_added_before_each_step() -> None:
    """The noises, worked out from what the student was given, are standard normal and uncorrelated."""
    count, objective = 6000, Dmd2Config(steps=4)
    step = next(s for s in range(99) if len(exit_times(whole(count, s), 4, 1.0)) == 5)
    scene, diary = with_diary(scene_of(count=count, step=step))
    next(losses_of(objective, scene))
    noises = [diary.x[0].flatten().double()]
    for k in range(1, 4):
        t = float(diary.t[k][0])
        before = torch.full_like(diary.x[k - 1], float(diary.t[k - 1][0]))
        x0 = mixture(GAUSSIAN).map(diary.x[k - 1], before, 0 * before)
        noises.append(((diary.x[k] - (1 - t) * x0) / t).flatten())
    limit = 4 / math.sqrt(count)
    assert (torch.corrcoef(torch.stack(noises)) - torch.eye(4)).abs().max() < limit
    assert all(abs(noise.std() - 1) < limit and abs(noise.mean()) < limit for noise in noises)


def test_what_is_rolled_out_with_one_gradient_is_what_the_sampler_makes() -> None:
    """To the last draw: with all steps taken, training sees the samples that sampling will."""
    for config in (ConsistencySamplerConfig(), FlowMapSamplerConfig()):
        inner, student = config.build(), exact_role("student", config=GAUSSIAN, theta=(0.2, 0.1, 0, 0, 0)).network
        x, times = whole(16).normal("x", (3, 1)).double(), grid(4, 2.0)
        expected = inner.sample(student, x, times, NoCond(), whole(16))
        assert torch.equal(LastStep(inner).sample(student, x, times, NoCond(), whole(16)), expected)


def test_for_a_model_of_one_chunk_self_forcing_is_dmd2() -> None:
    theta, critic = (0.2, 0.1, 0, 0.1, 0), MixtureConfig(means=(0.1,), stds=(0.6,), weights=(1.0,))
    kinds: tuple[type[DistributionConfig], ...] = (Dmd2Config, SelfForcingConfig)
    found = [matched(kind(score_times=PLAIN), scene_of(theta, critic)) for kind in kinds]  # type: ignore[call-arg]
    assert found[0][0] == found[1][0] > 0
    assert torch.equal(found[0][1], found[1][1])


# -- full unrolling


def full(steps: int, unroll: str = "full") -> BackwardSimulationConfig:
    return BackwardSimulationConfig.model_validate(
        {"rollout_steps": (steps,), "sampler": "flow_map", "unroll": unroll, "shift": 2.0}
    )


def fine_step(steps: int, step: int) -> Tensor:
    built = full(steps, "segments").build()
    assert isinstance(built, BackwardSimulation)
    return built._times(whole(64, step))


def test_full_unrolling_takes_every_step_of_the_grid_with_gradient() -> None:
    scene, diary = with_diary(scene_of())
    next(losses_of(full(8), scene))
    assert diary.grad == [True] * 8
    torch.testing.assert_close(torch.stack([t[0] for t in diary.t]), grid(8, 2.0)[:-1])
    torch.testing.assert_close(torch.stack([r[0] for r in diary.r]), grid(8, 2.0)[1:])


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_full_unrolling_is_the_segments_where_these_are_the_grid(steps: int) -> None:
    step = next(s for s in range(99) if len(fine_step(steps, s)) == steps + 1)
    theta, critic = (0.2, 0.1, 0, 0.1, 0), MixtureConfig(means=(0.1,), stds=(0.6,), weights=(1.0,))
    found = [matched(full(steps, unroll), scene_of(theta, critic, step=step)) for unroll in ("full", "segments")]
    assert found[0][0] == found[1][0] > 0
    torch.testing.assert_close(found[0][1], found[1][1])


def test_the_gradient_of_full_unrolling_passes_through_every_step() -> None:
    """Against a finite difference of the whole rollout, with the published gradient held fixed."""
    theta, critic = torch.tensor([0.2, 0.1, 0.0, 0.1, 0.0]).double(), MixtureConfig(means=(0.1,), stds=(0.6,))
    scene = scene_of(theta, critic, count=512)
    _, gradient = matched(full(5), scene)
    start, times = scene.draw.normal("start noise", (1, 1)).double(), grid(5, 2.0).double()

    def rolled(value: Tensor) -> Tensor:
        network, x = exact_role("student", config=GAUSSIAN, theta=value).network, start
        with torch.no_grad():
            for t, r in pairwise(times):
                x = x - (t - r) * network.mean_velocity(x, t.expand(512), r.expand(512), NoCond())  # type: ignore[attr-defined]
        return x

    x = rolled(theta)
    tau = shifted(scene.draw.uniform("score time"), 2.0)
    y = noised(x, scene.draw.normal("score noise", (1, 1)), tau)
    with torch.no_grad():
        fake, real = (y - like(tau, y) * scene.velocity(n).velocity(y, tau, NoCond()) for n in ("critic", "teacher"))
    pull = 2 * (fake - real) / (x - real).abs()
    step, differences = 1e-4, []
    for index in range(5):
        two_sided = rolled(theta + axis(index, step)) - rolled(theta - axis(index, step))
        differences.append(float((pull * two_sided / (2 * step)).mean()))
    torch.testing.assert_close(gradient, torch.tensor(differences).double(), rtol=1e-4, atol=1e-5)


# -- rhythm


def taken(objective: ObjectiveConfig, steps: int) -> list[list[str]]:
    """The branches of each of the first `steps` steps, as the loop takes its turns."""
    found = []
    for step in range(steps):
        branches = []
        for turn in objective.build().turns():
            if turn.taken(step):
                branches += [loss.branch for loss in turn.losses(scene_of(count=8, step=step))]
        found.append(branches)
    return found


@pytest.mark.parametrize("kind", [Dmd2Config, SelfForcingConfig, CausVidConfig])
def test_the_critic_takes_five_updates_for_one_of_the_student(kind: type[DistributionConfig]) -> None:
    steps = taken(kind(), 10)
    assert steps == [["dmd", "critic"] if step % 5 == 0 else ["critic"] for step in range(10)]


def test_a_step_of_rcm_is_the_students_or_the_critics() -> None:
    """As released: up to `start` the student's, of consistency alone; then one of it and some of the critic."""
    both, critic = ["dmd", "consistency"], ["critic"]
    steps = taken(RcmConfig(forward=ConsistencyConfig(), start=3, critic_steps=2), 10)
    assert steps == [["consistency"]] * 3 + [both, critic, critic] * 2 + [both]


def test_rcm_starts_where_the_warm_up_of_its_consistency_objective_ends() -> None:
    assert RcmConfig().begins == 1000
    assert RcmConfig(forward={"type": "scm", "warmup": 30}).begins == 30
    assert RcmConfig(forward={"type": "scm", "warmup": 30}, start=0).begins == 0
    assert RcmConfig(forward=ConsistencyConfig()).begins == 0


def test_what_rcm_leaves_out_of_an_scm_is_rcms() -> None:
    released = {"sigma_d": 1.0, "mean": 0.7, "std": 1.6, "warmup": 1000, "bins": 0, "ramp": "rcm", "cfg_scale": 5.0}
    for given in ({}, {"forward": "scm"}, {"forward": {"type": "scm"}}):
        assert RcmConfig(**given, cfg_scale=5.0).forward.model_dump(include=set(released)) == released
    own = RcmConfig(forward={"type": "scm", "std": 1.0, "ramp": "paper"}, cfg_scale=5.0).forward
    assert own.model_dump(include=set(released)) == released | {"std": 1.0, "ramp": "paper"}


# -- samples that are not finite


class Spoilt(Velocity):
    """The velocity of `network`, but for one element of the sample `row`, which is `value`."""

    def __init__(self, network: Velocity, row: int, value: float) -> None:
        self.network, self.row, self.value = network, row, value

    def velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        spoilt = torch.zeros_like(x, dtype=torch.bool)
        spoilt[self.row, 0, 0] = True
        return torch.where(spoilt, self.value, self.network.velocity(x, t, cond))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("role", ["teacher", "critic"])
def test_a_sample_with_a_score_that_is_not_finite_adds_nothing_to_rcm(role: str, value: float) -> None:
    count, row = 16, 5
    theta, critic = (0.2, 0.1, 0, 0.1, 0), MixtureConfig(means=(0.1,), stds=(0.6,), weights=(1.0,))
    objective = RcmConfig(forward=ConsistencyConfig(), most_steps=1)
    scene = scene_of(theta, critic, count, size=3)
    good = scene.roles[role]
    bad = Role(role, Spoilt(good.network, row, value), good.module, good.own)
    score, gradient = matched(objective, replace(scene, roles={**scene.roles, role: bad}))

    # Without that row, of the same draws: one sample fewer in the same mean.
    rest = [
        matched(
            objective, replace(scene, draw=scene.draw.part(first, 1), batch=Batch(scene.batch.x0[:1], *[NoCond()] * 2))
        )
        for first in range(count)
        if first != row
    ]
    assert score == pytest.approx(sum(value for value, _ in rest) / count)
    torch.testing.assert_close(gradient, torch.stack([g for _, g in rest]).sum(0) / count)


def test_an_element_that_is_not_a_number_is_all_that_others_leave_out() -> None:
    """As published for DMD2: the gradient is 0 there and nowhere else. (Infinite scores are not hidden.)"""
    scene = scene_of((0.2, 0, 0, 0, 0), MixtureConfig(means=(0.1,), stds=(0.6,), weights=(1.0,)), 4, size=3)
    critic = scene.roles["critic"]
    bad = Role("critic", Spoilt(critic.network, 2, math.nan), critic.module, critic.own)
    loss = next(losses_of(Dmd2Config(steps=1), replace(scene, roles={**scene.roles, "critic": bad})))
    whole_loss = next(losses_of(Dmd2Config(steps=1), scene))
    kept, all_of_it = (float(value.raw["gradient_rms"][2]) for value in (loss, whole_loss))
    assert 0 < kept < all_of_it
    assert torch.equal(loss.raw["gradient_rms"][:2], whole_loss.raw["gradient_rms"][:2])


# -- noised data


def test_one_chunk_is_noised_to_one_time_of_the_grid_each_sample() -> None:
    scene, diary = with_diary(scene_of(count=400))
    next(losses_of(CausVidConfig(steps=4, shift=3.0), scene))
    assert diary.calls == 1
    assert diary.t[0].shape == (400,)
    times, counts = diary.t[0].unique(return_counts=True)
    torch.testing.assert_close(times.flip(0), grid(4, 3.0)[:-1])
    assert counts.min() > 60
    assert not diary.r[0].any()
    noise = (diary.x[0] - like(1 - diary.t[0], diary.x[0]) * scene.batch.x0) / like(diary.t[0], diary.x[0])
    torch.testing.assert_close(noise.float(), scene.draw.normal("start noise", (1, 1)))


# -- trajectories


def trajectory(scene: Scene, **fields: Any) -> Tensor:
    built = TrajectoryConfig(**fields).build()
    assert isinstance(built, Trajectory)
    return built.points(scene)


@pytest.mark.parametrize(("sampler", "shrinks", "end"), [("euler", 2, 0.021), ("heun", 4, 4e-4), ("unipc", 3.5, 4e-3)])
def test_the_points_lie_on_the_teachers_trajectory(sampler: str, shrinks: float, end: float) -> None:
    """Against the exact flow of the Gaussian, at every time of the coarse grid; the error is the sampler's.

    It grows with the start: at the `end` it is held against that.
    """
    scene, errors = scene_of(), []
    start = scene.draw.normal("start noise", (1, 1)).double()
    exact = torch.stack([mixture(GAUSSIAN).map(start, torch.ones(1), t) for t in grid(3, 2.0)])
    for steps in (24, 48):
        points = trajectory(scene, sampler=sampler, trajectory_steps=steps, steps=3, shift=2.0)
        assert points.shape == (4, 64, 1, 1)
        errors.append((points - exact).abs().flatten(1).amax(1))
    assert errors[1][0] == 0
    assert ((points - exact)[3].abs() / start.abs()).max() < end
    assert (errors[0][1:3] / errors[1][1:3] > 0.9 * shrinks).all()


def test_a_trajectory_is_the_guided_teachers() -> None:
    """Euler's method written out, with null + w (cond - null)."""
    W, w = torch.tensor([[0.3, -0.2], [0.5, 0.1]]), 2.5
    roles = [analytic_role(name, matrix, torch.tensor([0.2])) for name, matrix in (("student", W), ("teacher", W.T))]
    draw = whole(4)
    cond, null = Rows(draw.normal("cond", (1,))), Rows(torch.full((4, 1), -0.7))
    scene = make_scene(roles, torch.zeros(4, 3, 2, 1, 1), draw, cond, null)
    points = trajectory(scene, cfg_scale=w, trajectory_steps=6, steps=2)
    x, expected, times = draw.normal("start noise", (3, 2, 1, 1)), [], grid(6)
    with torch.no_grad():
        for k in range(6):
            if k % 3 == 0:
                expected.append(x)
            t = times[k].expand(4)
            with_cond, without = (roles[1].network.velocity(x, t, c) for c in (cond, null))
            x = x - (times[k] - times[k + 1]) * (without + w * (with_cond - without))
    torch.testing.assert_close(points, torch.stack([*expected, x]))


def test_the_student_is_asked_from_the_trajectory_and_told_its_end() -> None:
    scene, diary = with_diary(scene_of((0.3, 0, 0, 0, 0), count=200))
    scene, teacher = with_diary(scene, "teacher")
    objective = TrajectoryConfig(sampler="heun", trajectory_steps=24, steps=3, shift=2.0)
    loss = next(losses_of(objective, scene))
    start = scene.draw.normal("start noise", (1, 1)).double()
    t = diary.t[0]
    assert set(t.tolist()) == set(grid(3, 2.0)[:-1].tolist())
    torch.testing.assert_close(
        diary.x[0].double(), mixture(GAUSSIAN).map(start, torch.ones(1), like(t, start)), atol=3e-3, rtol=0
    )
    # D = x - t (u + 0.3): off by 0.3 t from the end, whatever the trajectory.
    assert float(loss.value.detach()) == pytest.approx(float((0.3 * t).square().mean()), rel=0.03)
    assert teacher.calls == 2 * 24
    assert not any(teacher.grad)


def test_an_exact_student_rests_on_the_teachers_trajectories_and_a_displaced_one_is_pushed_back() -> None:
    def found(theta: Tensor) -> tuple[float, Tensor]:
        scene = scene_of(theta)
        loss = next(losses_of(TrajectoryConfig(sampler="heun"), scene))
        return float(loss.value.detach()), torch.autograd.grad(loss.value, scene.roles["student"].own["theta"])[0]

    score, at_rest = found(torch.zeros(5).double())
    assert score < 1e-5
    for index in range(3):
        for sign in (-1, 1):
            moved, gradient = found(axis(index, 0.1 * sign))
            assert moved > 10 * score
            assert sign * gradient[index] > 10 * at_rest.norm()


# -- what is refused


def levels(objective: ObjectiveConfig, conditional: bool = True) -> dict[tuple[str | int, ...], str]:
    return {finding.field: finding.level for finding in objective.findings(StageFacts(64, conditional))}


def test_combinations_that_are_known_to_fail_are_named() -> None:
    for kind in (Dmd2Config, SelfForcingConfig, CausVidConfig):
        assert levels(kind()) == {("forward",): "warning"}
        assert levels(kind(forward=ConsistencyConfig())) == {}
        with pytest.raises(ValidationError, match="'flow_matching' cannot be co-trained"):
            kind(forward=FlowMatchingConfig())
        assert levels(kind(cfg_scale=3.0), conditional=False)[("cfg_scale",)] == "error"
        assert ("cfg_scale",) not in levels(kind(cfg_scale=3.0))
        guided = kind(forward=ConsistencyConfig(cfg_scale=3.0))
        assert levels(guided, conditional=False) == {("forward", "cfg_scale"): "error"}
    assert levels(RcmConfig(forward=ConsistencyConfig())) == {}
    with pytest.raises(ValidationError, match="'dmd2' cannot be co-trained"):
        RcmConfig(forward=Dmd2Config())
    for kind in (Dmd2Config, SelfForcingConfig, RcmConfig):
        assert levels(kind.model_validate({"sampler": "euler"}))[("sampler",)] == "error"
    assert levels(TrajectoryConfig()) == {}
    assert levels(TrajectoryConfig.model_validate({"sampler": "consistency"})) == {("sampler",): "error"}
    assert levels(TrajectoryConfig(steps=5)) == {("trajectory_steps",): "error"}
    assert levels(TrajectoryConfig(cfg_scale=2.0), conditional=False) == {("cfg_scale",): "error"}


def test_a_number_of_steps_that_fits_is_named() -> None:
    for steps in (3, 5, 7, 100):
        found = [f.message for f in TrajectoryConfig(steps=steps, trajectory_steps=47).findings(StageFacts(8, False))]
        use = int(found[0].split("use ")[1])
        assert use % steps == 0
        assert use > 0


def test_score_times_need_a_range() -> None:
    with pytest.raises(ValidationError, match="low must be below high"):
        ScoreTimesConfig(low=0.5, high=0.5)


# -- causal models

CHUNKS = (1, 2, 1, 2)
FAR: dict[str, ObjectiveConfig] = {
    "backward_simulation full": BackwardSimulationConfig(rollout_steps=(3,), unroll="full", cfg_scale=2.0),
    "dmd2": Dmd2Config(steps=3),
    "dmd2 whole": Dmd2Config(steps=3, score="whole", replay=False),
    "self_forcing": SelfForcingConfig(steps=3, cfg_scale=2.0),
    "self_forcing forced": SelfForcingConfig(steps=3, score="forced"),
    "causvid": CausVidConfig(steps=3, cfg_scale=2.0),
    "causvid forced": CausVidConfig(steps=3, score="forced"),
    "rcm": RcmConfig(forward=ConsistencyConfig(points=8)),
    "trajectory": TrajectoryConfig(trajectory_steps=6, steps=3, cfg_scale=2.0),
}


def far_scene(step: int = 0, count: int = 2, **fields: Any) -> Scene:
    """A tiny causal Wan model, on videos of four chunks of which the last two are at full resolution."""
    backbone = wan.causal(CHUNKS, (4, 4), full_chunks=2, **fields)
    kinds: dict[str, NetworkKind] = {"student": "flow_map", "teacher": "velocity", "critic": "velocity"}
    roles = {name: wan.make(backbone, name, kind, seed) for seed, (name, kind) in enumerate(kinds.items(), 2)}
    roles["teacher"].freeze()
    x0 = wan.noise(count, sum(CHUNKS), wan.CHANNELS, 4, 4)
    batch = Batch(x0, wan.text(count), wan.text(count, seed=99))
    return Scene(roles, batch, wan.draw(count, step=step), wan.chunking(backbone), World())


def far_window(scene: Scene) -> Window:
    return scene.chunking.window(sum(CHUNKS), scene.draw.child("context"))


def far_windows() -> list[Window]:
    """Those of the first steps."""
    chunking = far_scene().chunking
    return [chunking.window(sum(CHUNKS), wan.draw(2, step=step).child("context")) for step in range(99)]


def step_with(fits: Callable[[Window], bool]) -> int:
    return next(step for step, window in enumerate(far_windows()) if fits(window))


@pytest.mark.parametrize("objective", FAR.values(), ids=FAR.keys())
def test_a_causal_model_takes_every_turn(objective: ObjectiveConfig) -> None:
    for index, turn in enumerate(objective.build().turns()):
        scene = far_scene(step_with(lambda window: window.start > 0))
        for loss in losses_of(objective, scene, index):
            assert bool(loss.value.isfinite())
            loss.value.backward()
        for name, role in scene.roles.items():
            grads = list(wan.gradients(role).values())
            assert all(bool(grad.isfinite().all()) for grad in grads)
            assert any(bool(grad.any()) for grad in grads) == (name == turn.role)


@pytest.mark.parametrize("score", ["forced", "whole"])
def test_one_exit_step_carries_the_gradient_of_every_chunk(score: FrameView) -> None:
    objective = SelfForcingConfig(steps=4, score=score, replay=False)
    # The scores see neither the first nor the last chunk in full.
    inner = [s for s, window in enumerate(far_windows()) if window.start > 0 and window.stop < sum(CHUNKS)]
    step = next(s for s in inner if len(exit_times(wan.draw(2, step=s), 4, 1.0)) == 4)
    scene, diary = with_diary(far_scene(step))
    window = Window(0, sum(CHUNKS)) if score == "whole" else far_window(scene)
    next(losses_of(objective, scene))
    # Calls at t = 0 only read finished chunks.
    asked = [(float(t[0]), grad) for t, grad in zip(diary.t, diary.grad, strict=True) if t.any()]
    ends = [sum(CHUNKS[: i + 1]) for i in range(4)]
    expected = []
    for end in ends[: 1 + ends.index(window.stop)]:
        expected += [(1.0, False), (0.75, False), (0.5, end > window.start)]
    assert asked == expected


def test_replayed_chunks_have_the_gradient_of_chunks_whose_graphs_are_held() -> None:
    step = next(s for s in range(99) if len(exit_times(wan.draw(2, step=s), 4, 1.0)) == 4)
    found = []
    for replay in (False, True):
        scene = far_scene(step)
        loss = next(losses_of(SelfForcingConfig(steps=4, replay=replay), scene))
        loss.value.backward()
        found.append((float(loss.value.detach()), wan.gradients(scene.roles["student"])))
    assert found[0][0] == found[1][0]
    assert wan.relative(found[1][1], found[0][1]) < 2e-5


@pytest.mark.parametrize("kind", ["causvid", "trajectory"])
def test_every_chunk_has_a_time_of_its_own(kind: str) -> None:
    step = step_with(lambda window: window.start == 1)
    scene, diary = with_diary(far_scene(step, count=40))
    objective = CausVidConfig(steps=4) if kind == "causvid" else TrajectoryConfig(trajectory_steps=4, steps=4)
    next(losses_of(objective, scene))
    (t,) = diary.t
    assert t.shape == (40, 3)
    assert torch.equal(t[:, 0], t[:, 1])
    different = (t[:, 1] != t[:, 2]).float().mean()
    assert 0.5 < different < 0.95
    assert set(t.flatten().tolist()) == set(grid(4)[:-1].tolist())


@pytest.mark.parametrize("score", ["whole", "forced"])
def test_what_is_scored_is_the_video_with_the_windows_frames_made_anew(score: FrameView) -> None:
    step = step_with(lambda window: window.start > 0 and window.stop < sum(CHUNKS))
    scene, teacher = with_diary(far_scene(step), "teacher")
    scene, student = with_diary(scene)
    next(losses_of(CausVidConfig(score=score), scene))
    window, frames = far_window(scene), slice(0, sum(CHUNKS))
    if score == "forced":
        frames = slice(window.start, window.stop)
    (y,), (tau,) = teacher.x, teacher.t
    assert y.shape[1] == frames.stop - frames.start
    x = (y - like(tau, y) * scene.draw.normal("score noise", y.shape[1:])) / (1 - like(tau, y))
    expected = scene.batch.x0.clone()
    with torch.no_grad():
        made = scene.flow_map("student").jump(student.x[0], student.t[0], student.r[0], student.conds[0])
    expected[:, window.start : window.stop] = made
    torch.testing.assert_close(x, expected[:, frames], atol=2e-4, rtol=1e-3)
    assert not torch.allclose(made, scene.batch.x0[:, window.start : window.stop], atol=0.05)


def test_points_of_a_trajectory_are_picked_by_chunk() -> None:
    step = step_with(lambda window: window.start == 1)
    scene, diary = with_diary(far_scene(step))
    objective = TrajectoryConfig(trajectory_steps=8, steps=4, cfg_scale=2.0)
    next(losses_of(objective, scene))
    # The student sees the ends of the chunks before, clean.
    view = diary.conds[0].view
    assert isinstance(view, Forced)
    points, times = trajectory(scene, trajectory_steps=8, steps=4, cfg_scale=2.0), grid(4).tolist()
    for sample in range(2):
        for frame in range(diary.t[0].shape[1]):
            place = times.index(float(diary.t[0][sample, frame]))
            assert torch.equal(diary.x[0][sample, frame], points[place, sample, 1 + frame])
    assert torch.equal(view.context, points[-1][:, :1])
    assert torch.equal(view.clean, points[-1][:, 1:4])


RECIPES = {
    "full": '{ type = "backward_simulation", rollout_steps = [3], unroll = "full" }',
    "dmd2": '{ type = "dmd2", critic_steps = 2 }',
    "self_forcing": '{ type = "self_forcing", cfg_scale = 3.0, critic_steps = 2, forward = "flow_map" }',
    "causvid": '{ type = "causvid", critic_steps = 3 }',
    "rcm": '{ type = "rcm", forward = "consistency", start = 2, critic_steps = 2 }',
    "trajectory": '{ type = "trajectory", trajectory_steps = 4, steps = 2, cfg_scale = 2.0, sampler = "unipc" }',
}


@pytest.mark.parametrize("objective", RECIPES.values(), ids=RECIPES.keys())
@pytest.mark.parametrize("kind", ["far_wan21", "wan21"])
def test_the_plan_counts_what_the_loop_does(kind: str, objective: str, here: Path) -> None:
    plan = plan_of(here, kind, objective)
    cost = count(plan)
    calls, backwards = trained(plan)
    assert {role: Counter(vars(counted)) for role, counted in cost.calls.items()} == calls
    assert sum(cost.backwards.values()) == backwards
