"""Every objective is at rest at the exact flow map, and only there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise, product

import pytest
import torch
from flowmap_consistency.configs import ConsistencyConfig
from flowmap_distribution.backward_simulation import BackwardSimulation, segments
from flowmap_distribution.configs import BackwardSimulationConfig
from flowmap_flow.configs import DiscreteFlowMapConfig, FlowMapConfig, FlowMatchingConfig
from flowmap_flow.forward import ForwardFlowMap
from flowmap_gaussian.configs import MixtureConfig
from flowmap_samplers.configs import FlowMapConfig as FlowMapSamplerConfig
from torch import Tensor

from flowmap.interfaces import NoCond, Role, Scene
from flowmap.maths.draw import Draw
from flowmap.maths.pairs import Pairs
from flowmap.maths.path import grid
from flowmap.networks.tangent import tangent
from flowmap.plugin import ObjectiveConfig
from flowmap.schema.settings import BranchesConfig, TangentConfig, TimesConfig

from .support import GAUSSIAN, MIXTURE, data, exact_role, make_scene, noted, rms, whole

# Directions of the error theta . (1, x, t, t - r, x (t - r)), and how the tests name them.
DIRECTIONS = {"constant": 0, "x": 1, "t": 2, "gap": 3, "x gap": 4}
TEACHERS_VELOCITY: dict[str, ObjectiveConfig] = {
    "flow_map": FlowMapConfig(velocity="teacher", rebalance=False),
    "flow_map jvp": FlowMapConfig(velocity="teacher", rebalance=False, tangent=TangentConfig(method="jvp")),
    "discrete_flow_map": DiscreteFlowMapConfig(),
    "discrete_flow_map euler": DiscreteFlowMapConfig(solver="euler"),
    "consistency": ConsistencyConfig(),
    "consistency euler": ConsistencyConfig(solver="euler"),
}
MAPS = pytest.mark.parametrize("config", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])


def axis(index: int, size: float) -> Tensor:
    theta = torch.zeros(5).double()
    theta[index] = size
    return theta


def scene_for(
    objective: ObjectiveConfig,
    theta: Tensor | Sequence[float] = (),
    config: MixtureConfig = MIXTURE,
    count: int = 256,
    step: int = 0,
    average: Tensor | None = None,
) -> Scene:
    """The exact roles that `objective` needs, the student displaced by `theta`, its average by `average`."""
    roles = [
        exact_role(name, needed.kind, config, theta if name == "student" else ())
        for name, needed in objective.roles().items()
    ]
    scene = make_scene(roles, data(whole(count, step, seed=1), config), whole(count, step))
    if average is not None:
        scene.roles["student"].average = {"theta": average.clone()}
    return scene


def losses_and_gradient(objective: ObjectiveConfig, scene: Scene, turn: int = 0) -> tuple[float, Tensor]:
    """The sum of a turn's losses, and its gradient with respect to the trained role's theta."""
    built = objective.build().turns()[turn]
    theta = scene.roles[built.role].own["theta"]
    theta.grad, total = None, 0.0
    for loss in built.losses(scene):
        loss.value.backward()
        total += float(loss.value.detach())
    assert theta.grad is not None
    return total, theta.grad


# -- objectives with the teacher's velocity: at rest but for the error of their discretisation


@MAPS
@pytest.mark.parametrize("name", list(TEACHERS_VELOCITY))
def test_the_exact_map_is_stationary(name: str, config: MixtureConfig) -> None:
    objective = TEACHERS_VELOCITY[name]

    def size(*theta: Tensor) -> Tensor:
        return losses_and_gradient(objective, scene_for(objective, *theta, config=config, count=2048))[1].norm()

    displaced = [size(axis(i, 0.1)) for i in range(3)]
    # What is left is the teacher's step: 1/32 of the way in a straight line, or by Heun.
    assert size() < (0.5 if name.endswith("euler") else 0.02) * min(displaced)


@pytest.mark.parametrize("name", list(TEACHERS_VELOCITY))
def test_a_displaced_map_scores_worse_and_is_pushed_back(name: str) -> None:
    """On the same draws, in every direction and on both sides; the average that targets are made with is exact."""
    objective = TEACHERS_VELOCITY[name]
    at_rest, _ = losses_and_gradient(objective, scene_for(objective, average=torch.zeros(5)))
    for (direction, index), sign in product(DIRECTIONS.items(), (-1, 1)):
        moved = scene_for(objective, axis(index, 0.1 * sign), average=torch.zeros(5))
        score, gradient = losses_and_gradient(objective, moved)
        assert score > at_rest, (direction, sign)
        assert sign * gradient[index] > 0, (direction, sign)


def test_with_forward_mode_the_exact_map_is_stationary_to_rounding() -> None:
    objective = TEACHERS_VELOCITY["flow_map jvp"]
    score, gradient = losses_and_gradient(objective, scene_for(objective))
    assert score < 1e-12
    assert gradient.norm() < 1e-7


def shrinkage(gradients: Sequence[Tensor]) -> list[float]:
    """By how much the gradient's norm falls from each to the next."""
    norms = [float(gradient.norm()) for gradient in gradients]
    return [one / two for one, two in pairwise(norms)]


def test_the_residual_gradient_of_flow_map_shrinks_with_the_square_of_its_step() -> None:
    """On times a step away from both ends, where the difference is central."""
    count = 256
    a, b = (0.1 + 0.8 * whole(count).uniform(name).double() for name in "ab")
    pairs = Pairs(torch.maximum(a, b), torch.minimum(a, b), torch.full((count,), 2))
    noise, gradients = whole(count).normal("noise", (1, 1)).double(), []
    for step in (0.08, 0.04, 0.02):
        config = FlowMapConfig(velocity="teacher", rebalance=False, tangent=TangentConfig(step=step))
        objective, scene = config.build(), scene_for(config, config=GAUSSIAN)
        assert isinstance(objective, ForwardFlowMap)
        loss = objective.loss(scene, noise, pairs).value
        gradients.append(torch.autograd.grad(loss, scene.roles["student"].own["theta"])[0])
    assert shrinkage(gradients) == pytest.approx([4, 4], rel=0.1)


@pytest.mark.parametrize(("solver", "least"), [("euler", 2.5), ("heun", 4.5)])
def test_the_residual_gradient_of_discrete_flow_map_shrinks_with_the_teachers_step(solver: str, least: float) -> None:
    """Nearly with its square for Euler and its cube for Heun; pairs closer than a step cost a little."""
    gradients = []
    for step in (1 / 8, 1 / 16, 1 / 32):
        objective = DiscreteFlowMapConfig(solver=solver, step=step)
        gradients.append(losses_and_gradient(objective, scene_for(objective, config=GAUSSIAN, count=2048))[1])
    assert min(shrinkage(gradients)) > least


@pytest.mark.parametrize(("solver", "least"), [("euler", 2.5), ("heun", 4.5)])
def test_the_residual_gradient_of_consistency_shrinks_with_its_grid(solver: str, least: float) -> None:
    gradients = []
    for points in (16, 32, 64):
        objective = ConsistencyConfig(solver=solver, points=points)
        gradients.append(losses_and_gradient(objective, scene_for(objective, config=GAUSSIAN, count=2**15))[1])
    assert min(shrinkage(gradients)) > least


def test_heun_leaves_less_to_learn_wrongly_than_euler() -> None:
    for kind in (DiscreteFlowMapConfig, ConsistencyConfig):
        heun, euler = (
            losses_and_gradient(kind(solver=solver), scene_for(kind(solver=solver)))[1] for solver in ("heun", "euler")
        )
        assert heun.norm() < 0.5 * euler.norm()


@pytest.mark.parametrize("name", ["discrete_flow_map", "consistency"])
def test_targets_are_made_with_the_moving_average(name: str) -> None:
    """An exact student whose average is displaced is asked to move; the other way round it is pushed back."""
    objective, off = TEACHERS_VELOCITY[name], axis(0, 0.3)
    asked, _ = losses_and_gradient(objective, scene_for(objective, average=off))
    kept, _ = losses_and_gradient(objective, scene_for(objective, average=torch.zeros(5)))
    assert asked > 100 * kept
    same, _ = losses_and_gradient(objective, scene_for(objective, off, average=off))
    without, _ = losses_and_gradient(objective, scene_for(objective, off))
    assert same == pytest.approx(without)


@pytest.mark.parametrize("name", list(TEACHERS_VELOCITY))
def test_the_teacher_is_not_trained(name: str) -> None:
    objective = TEACHERS_VELOCITY[name]
    scene = scene_for(objective, axis(0, 0.1), count=16)
    losses_and_gradient(objective, scene)
    assert scene.roles["teacher"].own["theta"].grad is None


@pytest.mark.parametrize("kind", [DiscreteFlowMapConfig, ConsistencyConfig])
def test_the_teachers_step_does_not_go_past_the_end_of_the_jump(kind: type[ObjectiveConfig]) -> None:
    """The student is asked for t >= r alone: a pair closer than a step is the teacher's whole."""
    objective = kind()
    scene = scene_for(objective)
    student, diary = noted(scene.roles["student"])
    losses_and_gradient(objective, replace(scene, roles={**scene.roles, "student": student}))
    assert diary.calls == 2
    assert all((t >= r).all() for t, r in zip(diary.t, diary.r, strict=True))


def test_consistency_knows_the_map_to_zero_alone() -> None:
    """An error that vanishes at r = 0 costs nothing; discrete_flow_map sees it."""
    error = torch.tensor([0, 0, 1.0, -1.0, 0]).double()  # t - (t - r) = r
    for objective, sees in ((ConsistencyConfig(), False), (DiscreteFlowMapConfig(), True)):
        average = torch.zeros(5)
        moved, _ = losses_and_gradient(objective, scene_for(objective, 0.2 * error, average=average))
        at_rest, _ = losses_and_gradient(objective, scene_for(objective, average=average))
        assert (moved > 10 * at_rest) == sees


# -- objectives with the velocity of the data: at rest on average

DATA_VELOCITY: dict[str, ObjectiveConfig] = {
    "flow_matching": FlowMatchingConfig(),
    "flow_matching uniform": FlowMatchingConfig(times=TimesConfig(distribution="uniform", shift=5.0)),
    "flow_map": FlowMapConfig(rebalance=False),
    "flow_map beta08 s5": FlowMapConfig(rebalance=False, weight="beta08", shift=5.0),
    "flow_map free": FlowMapConfig(rebalance=False, branches=BranchesConfig(diffusion=0, consistency=0)),
}
BATCHES, BATCH = 24, 2000


def mean_gradient(
    objective: ObjectiveConfig, theta: Tensor | Sequence[float] = (), turn: int = 0
) -> tuple[Tensor, Tensor]:
    """The mean of the gradient over independent batches, and its standard error."""
    each = torch.stack(
        [
            losses_and_gradient(objective, scene_for(objective, theta, GAUSSIAN, BATCH, step), turn)[1].clone()
            for step in range(BATCHES)
        ]
    )
    return each.mean(0), each.std(0) / math.sqrt(BATCHES)


@pytest.mark.parametrize("name", list(DATA_VELOCITY))
def test_on_average_the_exact_map_is_stationary(name: str) -> None:
    mean, error = mean_gradient(DATA_VELOCITY[name])
    seen = mean[:3] if name.startswith("flow_matching") else mean
    assert error.max() < 0.02
    assert (seen.abs() < 4 * error[: len(seen)]).all()


@pytest.mark.parametrize("name", list(DATA_VELOCITY))
@pytest.mark.parametrize("direction", ["constant", "x", "t"])
def test_on_average_a_displaced_map_is_pushed_back(name: str, direction: str) -> None:
    index = DIRECTIONS[direction]
    mean, error = mean_gradient(DATA_VELOCITY[name], axis(index, 0.2))
    assert mean[index] > 6 * error[index]


@pytest.mark.parametrize(
    ("name", "direction"),
    [(n, d) for n in DATA_VELOCITY for d in DIRECTIONS if not (n.startswith("flow_matching") and "gap" in d)],
)
def test_on_average_a_displaced_map_scores_worse(name: str, direction: str) -> None:
    """The mean of both sides, on the same draws: what is linear in the displacement is noise, or cancels."""
    objective, index = DATA_VELOCITY[name], DIRECTIONS[direction]

    def score(size: float) -> float:
        return losses_and_gradient(objective, scene_for(objective, axis(index, size), MIXTURE, 512))[0]

    assert score(0.3) + score(-0.3) > 2 * score(0.0) * (1 + 1e-4)


def test_the_derivative_along_a_sample_is_on_average_that_along_the_velocity() -> None:
    """Why the velocity of the data will do: du/dt is linear in v."""
    student = exact_role("student").network
    x = torch.linspace(-1, 1, 5).double().reshape(5, 1, 1)
    t, r = torch.full((5,), 0.6).double(), torch.full((5,), 0.2).double()
    draw = whole(5)
    spread = draw.normal("v", (1, 1)).double()
    v = student.velocity(x, t, NoCond())
    config = TangentConfig(method="jvp")
    sides = [tangent(student, x, t, r, v + sign * spread, NoCond(), config) for sign in (-1, 1)]
    torch.testing.assert_close(0.5 * (sides[0] + sides[1]), tangent(student, x, t, r, v, NoCond(), config))


def test_without_its_derivative_the_loss_would_have_another_minimum() -> None:
    """What (t - r) du/dt is for: with r < t the velocity itself is not the answer."""
    objective = TEACHERS_VELOCITY["flow_map jvp"]
    scene = scene_for(objective, config=GAUSSIAN)
    student = scene.flow_map("student")
    x, t, r = scene.batch.x0, torch.full((256,), 0.9).double(), torch.full((256,), 0.1).double()
    gap = student.velocity(x, t, NoCond()) - student.mean_velocity(x, t, r, NoCond())
    assert rms(gap) > 0.1


# -- distribution matching


def simulation(steps: int, **fields: object) -> BackwardSimulationConfig:
    return BackwardSimulationConfig.model_validate({"rollout_steps": (steps,), "sampler": "flow_map", **fields})


def generated(theta: Tensor, times: Tensor) -> MixtureConfig:
    """What a displaced student of the single Gaussian generates: its map is affine, so a Gaussian."""
    student = exact_role("student", config=GAUSSIAN, theta=theta).network
    z = torch.tensor([0.0, 1.0]).double().reshape(2, 1, 1)
    with torch.no_grad():
        zero, one = FlowMapSamplerConfig().build().sample(student, z, times, NoCond(), whole(2)).flatten().tolist()
    return MixtureConfig(means=(zero,), stds=(abs(one - zero),), weights=(1.0,))


def dmd_scene(theta: Tensor, times: Tensor, count: int = 4096, step: int = 0, size: int = 1) -> Scene:
    """A displaced student, the exact teacher, and the exact critic of what this student generates."""
    roles: list[Role] = [
        exact_role("student", "flow_map", GAUSSIAN, theta),
        exact_role("teacher", "velocity", GAUSSIAN),
        exact_role("critic", "velocity", generated(theta, times)),
    ]
    return make_scene(roles, torch.zeros(count, 1, size), whole(count, step))


@pytest.mark.parametrize(
    "theta", [torch.zeros(5), torch.tensor([0.3, -0.2, 0.1, 0.2, 0.1])], ids=["exact", "displaced"]
)
@pytest.mark.parametrize("steps", [1, 4])
def test_a_critic_equal_to_the_teacher_has_nothing_to_say(theta: Tensor, steps: int) -> None:
    objective = simulation(steps)
    score, gradient = losses_and_gradient(objective, scene_for(objective, theta))
    assert score == 0
    assert torch.equal(gradient, torch.zeros(5).double())


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("direction", list(DIRECTIONS))
def test_with_an_exact_critic_a_displaced_student_is_pushed_back(direction: str, sign: float, steps: int) -> None:
    """A step against the gradient brings the generated distribution closer to the data's."""
    index, objective = DIRECTIONS[direction], simulation(steps)
    theta = axis(index, 0.2 * sign)
    times = times_of(objective, whole(4096))
    score, gradient = losses_and_gradient(objective, dmd_scene(theta, times))
    assert score > 0
    before, after = (distance(generated(value, times)) for value in (theta, theta - 0.02 * gradient / gradient.norm()))
    assert after < before


def times_of(objective: BackwardSimulationConfig, draw: Draw) -> Tensor:
    """The segments that the objective draws."""
    built = objective.build()
    assert isinstance(built, BackwardSimulation)
    return built._times(draw)


def distance(config: MixtureConfig) -> float:
    """The Wasserstein-2 distance of a Gaussian to the data's."""
    return math.hypot(config.means[0] - GAUSSIAN.means[0], config.stds[0] - GAUSSIAN.stds[0])


def test_descending_the_dmd_gradient_with_an_exact_critic_finds_the_data() -> None:
    theta, objective, times = torch.tensor([0.3, -0.2, 0.0, 0.0, 0.0]).double(), simulation(1), grid(1)
    start = distance(generated(theta, times))
    for step in range(40):
        _, gradient = losses_and_gradient(objective, dmd_scene(theta, times, 256, step, size=8))
        theta -= 0.05 * gradient
    assert distance(generated(theta, times)) < 0.01 * start


def test_an_exact_critic_is_stationary_on_average_and_a_displaced_one_is_pushed_back() -> None:
    theta, objective, times = torch.tensor([0.3, -0.2, 0.0, 0.0, 0.0]).double(), simulation(1), grid(1)

    def mean(critic: Tensor) -> tuple[Tensor, Tensor]:
        gradients = []
        for step in range(BATCHES):
            scene = dmd_scene(theta, times, BATCH, step)
            with torch.no_grad():
                scene.roles["critic"].own["theta"].copy_(critic)
            gradients.append(losses_and_gradient(objective, scene, turn=1)[1].clone())
        each = torch.stack(gradients)
        return each.mean(0)[:3], each.std(0)[:3] / math.sqrt(BATCHES)

    at_rest, error = mean(torch.zeros(5))
    assert error.max() < 0.02
    assert (at_rest.abs() < 4 * error).all()
    for index in range(3):
        pushed, error = mean(axis(index, 0.2))
        assert pushed[index] > 6 * error[index]


def test_the_critic_is_trained_on_what_the_student_generates_and_not_on_data() -> None:
    """With the exact velocity of the data as critic, a displaced student's samples ask it to move."""
    theta, objective, times = torch.tensor([0.5, 0, 0, 0, 0]).double(), simulation(1), grid(1)
    scene = dmd_scene(theta, times, BATCH)
    roles = {**scene.roles, "critic": exact_role("critic", "velocity", GAUSSIAN)}
    _, gradient = losses_and_gradient(objective, replace(scene, roles=roles), turn=1)
    # The student generates 0.5 too little: e - x must come out 0.5 larger.
    assert gradient[0] < -0.2


@pytest.mark.parametrize("turn", [0, 1])
def test_each_turn_trains_its_own_role_alone(turn: int) -> None:
    objective = simulation(2)
    scene = dmd_scene(axis(0, 0.2), grid(2), 64)
    losses_and_gradient(objective, scene, turn)
    trained = objective.build().turns()[turn].role
    grads = {name: role.own["theta"].grad is not None for name, role in scene.roles.items()}
    assert grads == {name: name == trained for name in ("student", "teacher", "critic")}


def test_the_gradient_of_dmd_passes_through_every_segment() -> None:
    """Against a finite difference of the rollout: d/dtheta of sum(g x / N), with g held fixed."""
    objective, theta = simulation(4), torch.tensor([0.2, 0.1, 0.0, 0.1, 0.0]).double()
    times = times_of(objective, whole(4096))
    scene = dmd_scene(theta, times)
    _, gradient = losses_and_gradient(objective, scene)
    rolled: Callable[[Tensor], Tensor] = rollout_of(scene, times)
    step, differences = 1e-4, []
    pull = held_gradient(scene, rolled(theta))
    for index in range(5):
        two_sided = rolled(theta + axis(index, step)) - rolled(theta - axis(index, step))
        differences.append(float((2 * pull * two_sided / (2 * step)).mean()))
    torch.testing.assert_close(gradient, torch.tensor(differences).double(), rtol=1e-4, atol=1e-6)


def rollout_of(scene: Scene, times: Tensor) -> Callable[[Tensor], Tensor]:
    start = scene.draw.normal("start noise", (1, 1))

    def rolled(theta: Tensor) -> Tensor:
        student = exact_role("student", config=GAUSSIAN, theta=theta).network
        with torch.no_grad():
            return FlowMapSamplerConfig().build().sample(student, start, times, NoCond(), scene.draw)

    return rolled


def held_gradient(scene: Scene, x: Tensor) -> Tensor:
    """g = (fake - real) / mean|x - real| per sample, by the formula, with the objective's own draws."""
    tau = scene.draw.uniform("score time")[:, None, None]
    y = (1 - tau) * x + tau * scene.draw.normal("score noise", (1, 1))
    with torch.no_grad():
        fake, real = (
            y - tau * scene.velocity(name).velocity(y, tau[:, 0, 0], NoCond()) for name in ("critic", "teacher")
        )
    return (fake - real) / (x - real).abs().mean(dim=(1, 2), keepdim=True)


def test_a_co_trained_forward_loss_is_added_with_its_weight() -> None:
    forward = FlowMapConfig(rebalance=False)
    gradients = []
    for weight in (1.0, 3.0):
        objective = simulation(1, forward=forward, forward_weight=weight)
        gradients.append(losses_and_gradient(objective, scene_for(objective, axis(0, 0.2)))[1])
    # The critic equals the teacher here: the whole gradient is the forward loss's.
    torch.testing.assert_close(gradients[1], 3 * gradients[0])
    assert gradients[0].norm() > 0.1


# -- the path of the pieces: what the loop gives an objective is enough


@pytest.mark.parametrize("steps", [1, 2, 4, 16])
def test_segments_are_at_most_three_and_leave_none_empty(steps: int) -> None:
    for fine in range(steps):
        times = segments(steps, fine, 5.0)
        assert times[0] == 1
        assert times[-1] == 0
        assert (times.diff() < 0).all()
        # A segment is missing exactly where it would have no length.
        assert len(times) - 1 == 1 + (fine > 0) + (fine < steps - 1)


def test_every_fine_step_and_every_grid_is_drawn() -> None:
    objective = BackwardSimulationConfig(rollout_steps=(1, 2, 4), sampler="flow_map")
    seen = set()
    for step in range(200):
        draw = whole(4, step)
        times = times_of(objective, draw)
        seen.add(tuple(times.tolist()))
        assert torch.equal(times, times_of(objective, draw.part(2, 2)))
    expected = {tuple(segments(n, g, 1.0).tolist()) for n in (1, 2, 4) for g in range(n)}
    assert seen == expected
