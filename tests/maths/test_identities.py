"""What one objective of the flow-map family is of another, and each of its equation, written out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from flowmap_flow import matching, semigroup
from flowmap_flow.composed_configs import SemigroupConfig, ShortcutConfig
from flowmap_flow.configs import DiscreteFlowMapConfig, FlowMapConfig, FlowMatchingConfig
from flowmap_flow.derivative_configs import EulerianConfig, LagrangianConfig, MeanFlowConfig, TransitionConfig
from flowmap_flow.shortcut import dyadic_pairs
from flowmap_gaussian.configs import MixtureConfig
from torch import Tensor

from flowmap.interfaces import NoCond, Role, Scene
from flowmap.maths.draw import Draw
from flowmap.maths.pairs import Pairs, draw_pairs
from flowmap.maths.path import noised
from flowmap.plugin import ObjectiveConfig
from flowmap.schema.settings import BranchesConfig, TangentConfig, TimesConfig, uniform_times

from .support import GAUSSIAN, MIXTURE, Diary, Rows, analytic_role, data, exact_role, make_scene, noted, whole
from .test_stationary import losses_and_gradient

SHAPE = (3, 2)
THETA = torch.tensor([0.3, -0.1, 0.2, 0.1, -0.2]).double()
AVERAGE = 0.5 * THETA
TIMES = TimesConfig(mean=-0.4, std=1.0)
HALF = BranchesConfig(diffusion=0.5, consistency=0.25)
JVP = TangentConfig(method="jvp")
R_IS_T = BranchesConfig(diffusion=1.0, consistency=0.0)


def scene_of(objective: ObjectiveConfig, draw: Draw | None = None, config: MixtureConfig = MIXTURE) -> Scene:
    """A displaced student whose average is displaced less, and an exact teacher, on samples of several elements."""
    draw = draw or whole(24)
    student = exact_role("student", config=config, theta=THETA)
    student.average = {"theta": AVERAGE.clone()}
    roles = [student, exact_role("teacher", "velocity", config)]
    x0 = data(whole(draw.total, draw.step, seed=1), config, SHAPE)[list(draw.rows)]
    return make_scene(roles[: len(objective.roles())], x0, draw)


def gradient(objective: ObjectiveConfig, draw: Draw | None = None, config: MixtureConfig = MIXTURE) -> Tensor:
    return losses_and_gradient(objective, scene_of(objective, draw, config))[1].clone()


def assert_same(one: Tensor, two: Tensor) -> None:
    assert one.norm() > 0.01
    assert (one - two).norm() < 1e-10 * one.norm()


# -- one objective is another


def test_mean_flow_is_eulerian_with_a_stop_gradient() -> None:
    shared = {"times": TIMES, "branches": HALF, "tangent": JVP}
    one, two = MeanFlowConfig(velocity="teacher", power=0.0, **shared), EulerianConfig(**shared)
    assert_same(gradient(one), gradient(two))
    # And not only because both ignore the derivative.
    assert (gradient(one) - gradient(two.model_copy(update={"warmup": 5}))).norm() > 0.1


@pytest.mark.parametrize("velocity", ["data", "teacher"])
@pytest.mark.parametrize("tangent", [JVP, TangentConfig()], ids=["jvp", "central"])
def test_mean_flow_is_the_forward_objective_without_its_weights(velocity: str, tangent: TangentConfig) -> None:
    shared = {"velocity": velocity, "branches": HALF, "tangent": tangent}
    one = MeanFlowConfig(power=0.0, times=uniform_times(5.0), **shared)
    assert_same(gradient(one), gradient(FlowMapConfig(rebalance=False, shift=5.0, **shared)))


def test_shortcut_is_semigroup_at_the_midpoint_of_dyadic_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = gradient(ShortcutConfig(bootstrap=0.5, levels=5))
    monkeypatch.setattr(semigroup, "draw_pairs", lambda draw, branches, times: dyadic_pairs(draw, 0.5, 5))
    assert_same(gradient(SemigroupConfig(velocity="data", middle="midpoint")), expected)
    assert (gradient(SemigroupConfig(velocity="data", middle="uniform")) - expected).norm() > 1e-3


def test_semigroup_by_way_of_a_teachers_step_is_the_discrete_flow_map() -> None:
    """With the teacher's own exact map as average: its step and the average's first jump are the same to Heun's error.

    The discrete flow map goes by way of t - step; so does the semigroup, if s is put there.
    """
    step = 0.01
    shared = {"branches": BranchesConfig(diffusion=0.5, consistency=0.0)}
    scene = scene_of(SemigroupConfig())
    pairs = draw_pairs(scene.draw, shared["branches"], uniform_times())
    scene.roles["student"].average = {"theta": torch.zeros(5).double()}
    discrete = losses_and_gradient(DiscreteFlowMapConfig(step=step, **shared), scene)[1].clone()
    at = semigroup.on_path(scene, pairs, "teacher")
    loss = semigroup.semigroup_loss(scene, at, torch.maximum(pairs.t - step, pairs.r), "").value
    (ours,) = torch.autograd.grad(loss, scene.roles["student"].own["theta"])
    torch.testing.assert_close(ours, discrete, rtol=1e-4, atol=1e-5)


OF_DATA: dict[str, ObjectiveConfig] = {
    "mean_flow": MeanFlowConfig(branches=R_IS_T, power=0.0),
    "eulerian": EulerianConfig(branches=R_IS_T, velocity="self"),
    "lagrangian": LagrangianConfig(branches=R_IS_T, velocity="self"),
    "lagrangian central": LagrangianConfig(branches=R_IS_T, velocity="self", tangent=TangentConfig()),
    "semigroup": SemigroupConfig(branches=R_IS_T, velocity="data"),
    "transition": TransitionConfig(power=0.0, cosine=False, branches=R_IS_T),
}
OF_A_TEACHER: dict[str, ObjectiveConfig] = {
    "mean_flow": MeanFlowConfig(branches=R_IS_T, velocity="teacher", power=0.0),
    "eulerian": EulerianConfig(branches=R_IS_T),
    "lagrangian": LagrangianConfig(branches=R_IS_T),
    "semigroup": SemigroupConfig(branches=R_IS_T),
    "discrete": DiscreteFlowMapConfig(branches=R_IS_T),
}


def pairs_of(objective: ObjectiveConfig, draw: Draw) -> Pairs:
    times = getattr(objective, "times", uniform_times())
    return draw_pairs(draw, R_IS_T, times)


@pytest.mark.parametrize("name", list(OF_DATA))
def test_at_r_equal_t_alone_the_family_is_flow_matching(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = OF_DATA[name]
    monkeypatch.setattr(matching, "draw_times", lambda draw, times: pairs_of(objective, draw).t)
    assert_same(gradient(objective), gradient(FlowMatchingConfig()))


@pytest.mark.parametrize("name", list(OF_A_TEACHER))
def test_at_r_equal_t_alone_the_family_is_regression_on_the_teachers_velocity(name: str) -> None:
    objective = OF_A_TEACHER[name]
    scene = scene_of(objective)
    t = pairs_of(objective, scene.draw).t
    x = noised(scene.batch.x0, scene.draw.normal("noise", SHAPE), t)
    student, teacher = (scene.velocity(role).velocity(x, t, NoCond()) for role in ("student", "teacher"))
    loss = (student - teacher.detach()).square().mean()
    assert_same(gradient(objective), torch.autograd.grad(loss, scene.roles["student"].own["theta"])[0])


@pytest.mark.parametrize("name", list(OF_DATA))
def test_at_r_equal_t_alone_nothing_else_is_computed(name: str) -> None:
    objective = OF_DATA[name]
    scene = scene_of(objective)
    student, diary = noted(scene.roles["student"])
    losses_and_gradient(objective, replace(scene, roles={**scene.roles, "student": student}))
    assert (diary.calls, sum(len(x) for x in diary.x)) == (1, 24)


def test_where_two_jumps_are_the_target_no_velocity_is_asked_for() -> None:
    """The teacher's, or the student's own for its null, is wanted at r = t: of half of the batch."""
    for objective, role, expected in (
        (SemigroupConfig(), "teacher", [12]),
        (SemigroupConfig(velocity="data", cfg_scale=2.0), "student", [12, 12, 12, 24]),
        (ShortcutConfig(bootstrap=0.25, cfg_scale=2.0), "student", [18, 6, 6, 24]),
    ):
        scene = scene_of(objective, config=GAUSSIAN)
        twin, diary = noted(scene.roles[role])
        losses_and_gradient(objective, replace(scene, roles={**scene.roles, role: twin}))
        assert [len(x) for x in diary.x] == expected


# -- processes; that the gradient does not depend on them is in test_split

EVERYTHING: dict[str, ObjectiveConfig] = {
    "mean_flow": MeanFlowConfig(),
    "mean_flow teacher": MeanFlowConfig(velocity="teacher", tangent=TangentConfig()),
    "eulerian": EulerianConfig(normalize=True),
    "eulerian self": EulerianConfig(velocity="self"),
    "lagrangian": LagrangianConfig(),
    "lagrangian self": LagrangianConfig(velocity="self", tangent=TangentConfig(batched=False)),
    "semigroup": SemigroupConfig(),
    "semigroup data": SemigroupConfig(velocity="data"),
    "shortcut": ShortcutConfig(),
    "transition": TransitionConfig(),
    "discrete": DiscreteFlowMapConfig(),
}


@pytest.mark.parametrize("name", list(EVERYTHING))
def test_all_processes_make_the_same_calls_of_the_same_networks(name: str) -> None:
    """With a sample each, most processes have none that moves, or none that rests."""
    objective, draw, seen = EVERYTHING[name], whole(24), []
    for process in range(8):
        parts = []
        for part in draw.split(8, process, 1):
            scene = scene_of(objective, part, GAUSSIAN)
            log: list[str] = []
            roles = {n: observed(role, log) for n, role in scene.roles.items()}
            losses_and_gradient(objective, replace(scene, roles=roles))
            parts.append(log)
        seen.append(parts)
    assert all(log for parts in seen for log in parts)
    assert all(parts == seen[0] for parts in seen)


def observed(role: Role, log: list[str]) -> Role:
    """The same role; every call of its network, and whether it has a graph, goes into `log`."""
    twin, diary = noted(role)

    class Listening(Diary):
        def note(self, x: Tensor, *others: object) -> None:
            # Not every network takes a batch of nothing.
            assert len(x)
            log.append(f"{role.name} {torch.is_grad_enabled()}")

    assert isinstance(diary, Diary)
    twin.network.diary = Listening()  # type: ignore[attr-defined]
    return twin


# -- each is its equation, with conditions and guidance, written out sample by sample

W, B = torch.tensor([[0.3, -0.2], [0.5, 0.1]]).double(), torch.tensor([0.2]).double()
COUNT, FRAMES = 12, 3
SCALE, DROP = 2.5, 0.5


def conditional_scene() -> Scene:
    draw = whole(COUNT)
    student = analytic_role("student", W, B)
    student.average = {"W": 0.7 * W, "b": 0.4 * B}
    cond, null = Rows(draw.normal("cond", (1,)).double()), Rows(torch.full((COUNT, 1), -0.7).double())
    x0 = draw.normal("x0", (FRAMES, 2, 1, 1)).double()
    return make_scene([student, analytic_role("teacher", W.T.contiguous(), B)], x0, draw, cond, null)


Network = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def u_of(role: Role) -> Network:
    """u(x, t, r, c) of one sample `[F, C, H, W]`, with scalar times and condition."""
    return lambda x, t, r, c: role.module(x[None], t[None], r[None], c[None])[0]


def total_derivative(u: Network, x: Tensor, t: Tensor, r: Tensor, c: Tensor, v: Tensor) -> Tensor:
    along: Tensor = torch.func.jvp(lambda x, t: u(x, t, r, c), (x, t), (v, torch.ones_like(t)))[1]
    return along.detach()


Expected = Callable[[Scene, Network, Network, Pairs, int, Tensor, Tensor, Tensor, Tensor], Tensor]


def by_hand(scene: Scene, pairs: Pairs, one: Expected, dropping: bool = True) -> Tensor:
    """The gradient of the mean of `one` sample's loss, over samples."""
    draw, (student, teacher) = scene.draw, (u_of(scene.roles[name]) for name in ("student", "teacher"))
    assert isinstance(scene.batch.cond, Rows)
    assert isinstance(scene.batch.null, Rows)
    noise = draw.normal("noise", (FRAMES, 2, 1, 1))
    dropped = draw.uniform("drop") < DROP if dropping else torch.zeros(COUNT, dtype=torch.bool)
    assert not dropping or 0 < int(dropped.sum()) < COUNT
    total = torch.zeros(()).double()
    for i in range(COUNT):
        null = scene.batch.null.values[i]
        c = null if dropped[i] else scene.batch.cond.values[i]
        x = (1 - pairs.t[i]) * scene.batch.x0[i] + pairs.t[i] * noise[i]
        total = total + one(scene, student, teacher, pairs, i, x, noise[i] - scene.batch.x0[i], c, null) / COUNT
    parameters = list(scene.roles["student"].own.values())
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, parameters)])


def ours(objective: ObjectiveConfig, scene: Scene) -> Tensor:
    (turn,), student = objective.build().turns(), scene.roles["student"]
    (loss,) = turn.losses(scene)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss.value, list(student.own.values()))])


def guided_data(u: Network, x: Tensor, t: Tensor, v: Tensor, c: Tensor, null: Tensor) -> Tensor:
    if torch.equal(c, null):
        return v
    return (SCALE * v + (1 - SCALE) * u(x, t, t, null)).detach()


def guided_teacher(teacher: Network, x: Tensor, t: Tensor, c: Tensor, null: Tensor) -> Tensor:
    return (teacher(x, t, t, null) + SCALE * (teacher(x, t, t, c) - teacher(x, t, t, null))).detach()


VELOCITY = pytest.mark.parametrize("velocity", ["data", "teacher"])


@VELOCITY
def test_guided_mean_flow_is_its_equation(velocity: str) -> None:
    """Conditions are dropped where the student's null is in the target, and not with a teacher's."""
    fields = {"velocity": velocity, "cfg_scale": SCALE, "drop_condition": DROP, "power": 0.75, "constant": 0.01}
    config = MeanFlowConfig(branches=HALF, **fields)
    scene = conditional_scene()

    def one(
        scene: Scene, u: Network, teacher: Network, p: Pairs, i: int, x: Tensor, v: Tensor, c: Tensor, null: Tensor
    ) -> Tensor:
        t, r = p.t[i].double(), p.r[i].double()
        of_data = velocity == "data"
        v = guided_data(u, x, t, v, c, null) if of_data else guided_teacher(teacher, x, t, c, null)
        delta = u(x, t, r, c) - (v - (t - r) * total_derivative(u, x, t, r, c, v))
        weight = (delta.detach().square().sum() + 0.01) ** -0.75
        return weight * delta.square().mean()

    expected = by_hand(scene, draw_pairs(scene.draw, HALF, config.times), one, dropping=velocity == "data")
    torch.testing.assert_close(ours(config, scene), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "fields",
    [
        {"interval": "angle", "power": 0.0, "cosine": False, "direction": "guided"},
        {"interval": "angle", "power": 0.0, "cosine": False},
        {"power": 0.5, "constant": 0.02, "cosine": False},
        {},
    ],
    ids=["along the guided velocity", "along the data's", "adaptive", "as released"],
)
def test_guided_transition_is_its_equation(fields: dict[str, Any]) -> None:
    config = TransitionConfig(**fields, cfg_scale=SCALE, drop_condition=DROP, sigma_d=0.5, tangent=JVP)
    scene = conditional_scene()

    def one(
        scene: Scene, u: Network, _: Network, p: Pairs, i: int, x: Tensor, v: Tensor, c: Tensor, null: Tensor
    ) -> Tensor:
        t, r = p.t[i].double(), p.r[i].double()
        guided = guided_data(u, x, t, v, c, null)
        way = guided if config.direction == "guided" else v
        target = (guided - (t - r) * total_derivative(u, x, t, r, c, way)).detach()
        found = u(x, t, r, c)
        loss = (found - target).square().mean()
        if config.cosine:
            # Of the two channels of each of the frames.
            dots, sizes = (found * target).sum(1), found.norm(dim=1) * target.norm(dim=1)
            loss = loss + (1 - dots / sizes).mean()
        rise = t.tan() - r.tan() if config.interval == "time" else t / (1 - t) - r / (1 - r)
        weight = (0.5 + rise) ** -0.5 if r < t else 1.0
        return weight * (loss.detach() + config.constant) ** -config.power * loss

    expected = by_hand(scene, draw_pairs(scene.draw, config.branches, config.times), one)
    torch.testing.assert_close(ours(config, scene), expected, rtol=1e-5, atol=1e-7)


def test_guided_normalized_eulerian_is_its_equation() -> None:
    config = EulerianConfig(cfg_scale=SCALE, normalize=True, constant=0.2, branches=HALF)
    scene = conditional_scene()

    def one(
        scene: Scene, u: Network, teacher: Network, p: Pairs, i: int, x: Tensor, _: Tensor, c: Tensor, null: Tensor
    ) -> Tensor:
        t, r = p.t[i].double(), p.r[i].double()
        v = guided_teacher(teacher, x, t, c, null)
        g = u(x, t, r, c).detach() - v + (t - r) * total_derivative(u, x, t, r, c, v)
        target = u(x, t, r, c).detach() - g / (g.norm() + 0.2)
        return (u(x, t, r, c) - target).square().mean()

    expected = by_hand(scene, draw_pairs(scene.draw, HALF, config.times), one, dropping=False)
    torch.testing.assert_close(ours(config, scene), expected, rtol=1e-6, atol=1e-8)


def test_guided_lagrangian_is_its_equation() -> None:
    """Against second derivatives by reverse mode: d/dr of the map with a graph, then its gradient."""
    config = LagrangianConfig(cfg_scale=SCALE, branches=HALF)
    scene = conditional_scene()

    def one(
        scene: Scene, u: Network, teacher: Network, p: Pairs, i: int, x: Tensor, _: Tensor, c: Tensor, null: Tensor
    ) -> Tensor:
        t, r = p.t[i].double(), p.r[i].double().requires_grad_()
        ends = (x - (t - r) * u(x, t, r, c)).flatten()
        speed = torch.stack([torch.autograd.grad(end, r, create_graph=True)[0] for end in ends]).reshape(x.shape)
        y, r = ends.detach().reshape(x.shape), r.detach()
        v = guided_teacher(teacher, y, r, c, null)
        return (speed - v).square().mean()

    expected = by_hand(scene, draw_pairs(scene.draw, HALF, config.times), one, dropping=False)
    torch.testing.assert_close(ours(config, scene), expected, rtol=1e-6, atol=1e-8)


def two_jumps(scene: Scene, x: Tensor, t: Tensor, r: Tensor, s: Tensor, c: Tensor) -> Tensor:
    """(x - X_{s->r}(X_{t->s}(x))) / (t - r), with the averaged student."""
    with scene.roles["student"].averaged(), torch.no_grad():
        u = u_of(scene.roles["student"])
        y = x - (t - s) * u(x, t, s, c)
        return (x - (y - (s - r) * u(y, s, r, c))) / (t - r)


@VELOCITY
@pytest.mark.parametrize("middle", ["uniform", "midpoint"])
def test_guided_semigroup_is_its_equation(middle: str, velocity: str) -> None:
    fields = {"velocity": velocity, "middle": middle, "cfg_scale": SCALE, "drop_condition": DROP}
    config = SemigroupConfig(branches=HALF, **fields)
    scene = conditional_scene()
    share = scene.draw.uniform("middle")

    def one(
        scene: Scene, u: Network, teacher: Network, p: Pairs, i: int, x: Tensor, v: Tensor, c: Tensor, null: Tensor
    ) -> Tensor:
        t, r = p.t[i].double(), p.r[i].double()
        if r < t:
            target = two_jumps(scene, x, t, r, r + (share[i] if middle == "uniform" else 0.5) * (t - r), c)
        elif velocity == "data":
            target = guided_data(u, x, t, v, c, null)
        else:
            target = guided_teacher(teacher, x, t, c, null)
        return (u(x, t, r, c) - target).square().mean()

    expected = by_hand(scene, draw_pairs(scene.draw, HALF, config.times), one, dropping=velocity == "data")
    torch.testing.assert_close(ours(config, scene), expected, rtol=1e-5, atol=1e-7)


def test_guided_shortcut_is_its_equation_and_guides_at_r_equal_t_alone() -> None:
    config = ShortcutConfig(cfg_scale=SCALE, drop_condition=DROP, bootstrap=0.5, levels=3)
    scene = conditional_scene()

    def one(
        scene: Scene, u: Network, _: Network, p: Pairs, i: int, x: Tensor, v: Tensor, c: Tensor, null: Tensor
    ) -> Tensor:
        t, r = p.t[i].double(), p.r[i].double()
        moves = bool(r < t)
        target = two_jumps(scene, x, t, r, (t + r) / 2, c) if moves else guided_data(u, x, t, v, c, null)
        return (u(x, t, r, c) - target).square().mean()

    expected = by_hand(scene, dyadic_pairs(scene.draw, 0.5, 3), one)
    torch.testing.assert_close(ours(config, scene), expected, rtol=1e-5, atol=1e-7)


def test_of_a_self_taught_student_the_velocity_has_its_own_condition() -> None:
    for config, place in (
        (EulerianConfig(velocity="self", branches=HALF), "t"),
        (LagrangianConfig(velocity="self", branches=HALF), "r"),
    ):
        scene = conditional_scene()

        def one(
            scene: Scene,
            u: Network,
            _: Network,
            p: Pairs,
            i: int,
            x: Tensor,
            v: Tensor,
            c: Tensor,
            null: Tensor,
            place: str = place,
        ) -> Tensor:
            t, r = p.t[i].double(), p.r[i].double()
            if place == "t":
                v = u(x, t, t, c).detach() if r < t else v
                target = v - (t - r) * total_derivative(u, x, t, r, c, v)
                return (u(x, t, r, c) - target).square().mean()
            y = (x - (t - r) * u(x, t, r, c)).detach()
            v = u(y, r, r, c).detach() if r < t else v
            slope = torch.func.jvp(lambda r: u(x, t, r, c), (r,), (torch.ones_like(r),))[1]
            return (u(x, t, r, c) - (t - r) * slope - v).square().mean()

        expected = by_hand(scene, draw_pairs(scene.draw, HALF, config.times), one, dropping=False)
        torch.testing.assert_close(ours(config, scene), expected, rtol=1e-6, atol=1e-8)
