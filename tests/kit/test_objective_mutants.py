"""Each mutant of an objective is caught by the check that is meant for it, and by no other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from flowmap.interfaces import Batch, Loss, Objective, Scene, StudentObjective
from flowmap.maths.path import like, noised
from flowmap.plugin import Finding, ObjectiveConfig, RoleSpec
from flowmap.testing.capabilities import Capabilities

from .reference import broken, outcomes

pytestmark = pytest.mark.usefixtures("one_thread")

TWO = {"student": RoleSpec("velocity", True, ""), "teacher": RoleSpec("velocity", False, "")}


def squares(scene: Scene, batch: Batch | None = None, **names: str) -> Tensor:
    """Flow matching's squares `[B, ...]`."""
    batch, draw = batch or scene.batch, scene.draw
    noise, t = draw.normal(names.get("noise", "noise"), batch.x0.shape[1:]), draw.uniform("t")
    return (velocity(scene, batch, noise, t) - (noise - batch.x0)).square()


def velocity(scene: Scene, batch: Batch, noise: Tensor, t: Tensor) -> Tensor:
    return scene.velocity("student").velocity(noised(batch.x0, noise, t), t, batch.cond)


def objective(value: Callable[[Scene], Tensor], group: int = 1) -> ObjectiveConfig:
    class Stub(StudentObjective):
        def losses(self, scene: Scene) -> Iterator[Loss]:
            yield Loss("only", value(scene))

    class ReferenceConfig(ObjectiveConfig):
        """The reference."""

        type: Literal["reference"] = "reference"

        def roles(self) -> Mapping[str, RoleSpec]:
            return TWO

        def group(self) -> int:
            return group

        def findings(self, facts: Any) -> Iterable[Finding]:
            return []

        def build(self) -> Objective:
            return Stub()

    return ReferenceConfig()


def matching(scene: Scene) -> Tensor:
    return squares(scene).mean()


def self_normalised(scene: Scene) -> Tensor:
    """Each sample's loss over itself: always 1, with the gradient of its logarithm."""
    each = squares(scene).flatten(1).mean(1)
    return (each / each.detach()).mean()


def with_a_world(scene: Scene) -> Tensor:
    """Over the mean of all, of which the World knows."""
    each = squares(scene).flatten(1).mean(1)
    total = scene.world.total("losses", torch.stack([each.detach().sum(), torch.tensor(float(len(each)))]))
    return (each / (total[0] / total[1])).mean()


def mean_of_groups(scene: Scene) -> Tensor:
    """The spread of four samples at equal times."""
    noise, t = scene.draw.normal("noise", scene.batch.x0.shape[1:]), scene.draw.groups(4).uniform("t")
    u = velocity(scene, scene.batch, noise, t) - (noise - scene.batch.x0)
    return u.unflatten(0, (-1, 4)).mean(1).square().mean()


GOOD = {
    "flow matching": objective(matching),
    "always 1": objective(self_normalised),
    "by a world": objective(with_a_world),
    "over sets": objective(mean_of_groups, group=4),
}


@pytest.mark.parametrize("name", GOOD)
def test_the_references_keep_every_law(name: str) -> None:
    found = outcomes(GOOD[name])
    assert {o.check.name: o.sentence for o in found if o.status in ("failed", "not run")} == {}
    applied = {o.check.name for o in found if o.status == "passed"}
    assert ("parts_add_up" in applied) == (name != "by a world")


def uphill(scene: Scene) -> Tensor:
    return 10 - matching(scene)


def other_conditions(scene: Scene) -> Tensor:
    batch = scene.batch
    return squares(scene, replace(batch, cond=batch.cond.take(torch.arange(len(batch.x0)).flip(0)))).mean()


def rolled_conditions(scene: Scene) -> Tensor:
    """Joined the wrong way round: the second half under the conditions of the first."""
    batch, half = scene.batch, len(scene.batch.x0) // 2
    rows = torch.arange(len(batch.x0)).roll(half)
    return squares(scene, replace(batch, cond=batch.cond.take(rows))).mean()


def one_name(scene: Scene) -> Tensor:
    """The noise of the path, and that of an augmentation, under one name."""
    batch, shape = scene.batch, scene.batch.x0.shape[1:]
    return squares(scene, replace(batch, x0=batch.x0 + 0.1 * scene.draw.normal("noise", shape))).mean()


def one_name_for_uniforms(scene: Scene) -> Tensor:
    """The times, and which samples count twice, under one name: those with early times."""
    twice = scene.draw.uniform("t") < 0.5
    return (squares(scene) * (1 + like(twice.float(), scene.batch.x0))).mean()


def one_name_for_integers(scene: Scene) -> Tensor:
    """Two integers that are one."""
    draw = scene.draw
    one, other = (torch.tensor(draw.below("which", [4] * draw.count)) for _ in range(2))
    return (squares(scene) * like(1.0 + one - other, scene.batch.x0)).mean()


def one_name_for_all(scene: Scene) -> Tensor:
    """Two numbers of the whole batch that are one."""
    one, other = (scene.draw.shared("share").random() for _ in range(2))
    return squares(scene).mean() * (1 + one - other)


def one_name_for_a_part(scene: Scene) -> Tensor:
    """The first sample's times again, as its weight."""
    weight = torch.cat([0.5 + scene.draw.part(0, 1).uniform("t"), torch.ones(scene.draw.count - 1)])
    return (squares(scene) * like(weight, scene.batch.x0)).mean()


def centred(scene: Scene) -> Tensor:
    """Samples see each other by their mean."""
    error = squares(scene).sqrt()
    return (error - 0.9 * error.mean(0).detach()).square().mean()


def by_the_batch(scene: Scene) -> Tensor:
    """A weight that goes by how many samples there are in the scene."""
    each = squares(scene).flatten(1).mean(1)
    return (each * torch.linspace(0.5, 1.5, len(each))).mean()


def batch_normalised(scene: Scene) -> Tensor:
    value = matching(scene)
    return value / value.detach()


def by_its_value(scene: Scene) -> Tensor:
    """Asks the teacher again where samples are far."""
    value = matching(scene)
    t = scene.draw.uniform("other t")
    if scene.batch.x0.abs().mean() > 0.1:
        scene.velocity("teacher").velocity(scene.batch.x0, t, scene.batch.cond)
    return value


def told_rounded_times(scene: Scene) -> Tensor:
    """The network is told the times in bfloat16."""
    batch, draw = scene.batch, scene.draw
    noise, t = draw.normal("noise", batch.x0.shape[1:]), draw.uniform("t")
    told = t.bfloat16().float()
    u = scene.velocity("student").velocity(noised(batch.x0, noise, t), told, batch.cond)
    return (u - (noise - batch.x0)).square().mean()


def in_half_precision(dtype: torch.dtype) -> Callable[[Scene], Tensor]:
    return lambda scene: squares(scene).to(dtype).float().mean()


def forgets_the_teacher(scene: Scene) -> Tensor:
    """Learns nothing: the target is its own answer."""
    batch, draw = scene.batch, scene.draw
    noise, t = draw.normal("noise", batch.x0.shape[1:]), draw.uniform("t")
    u = velocity(scene, batch, noise, t)
    return (u - 3 * u.detach()).square().mean()


MUTANTS: dict[str, tuple[ObjectiveConfig, str]] = {
    "a sum": (objective(lambda scene: squares(scene).sum()), "losses_are_means"),
    "a sum over samples": (objective(lambda scene: squares(scene).flatten(1).mean(1).sum()), "losses_are_means"),
    "the wrong sign": (objective(uphill), "leads_to_the_flow"),
    "flipped conditions": (objective(other_conditions), "conditions_stay_with_samples"),
    "rolled conditions": (objective(rolled_conditions), "conditions_stay_with_samples"),
    "one name for two draws": (objective(one_name), "names_are_drawn_once"),
    "one name for two uniforms": (objective(one_name_for_uniforms), "names_are_drawn_once"),
    "one name for two integers": (objective(one_name_for_integers), "names_are_drawn_once"),
    "one name for what all share": (objective(one_name_for_all), "names_are_drawn_once"),
    "samples see each other": (objective(centred), "parts_add_up"),
    "weights by place": (objective(by_the_batch), "parts_add_up"),
    "normalised by the micro-batch": (objective(batch_normalised), "parts_add_up"),
    "times in bfloat16": (objective(told_rounded_times), "numbers_are_not_rounded"),
    "a loss in bfloat16": (objective(in_half_precision(torch.bfloat16)), "numbers_are_not_rounded"),
    "a loss in float16": (objective(in_half_precision(torch.float16)), "numbers_are_not_rounded"),
    "calls by values": (objective(by_its_value), "plan_counts_its_calls"),
    "away from everything": (objective(forgets_the_teacher), "leads_to_the_flow"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught_by_its_check_alone(name: str) -> None:
    config, check = MUTANTS[name]
    assert list(broken(config)) == [check]


def test_a_part_of_the_samples_is_found_in_the_whole() -> None:
    # Whose first sample weighs more goes by the micro-batch too.
    assert broken(objective(one_name_for_a_part), Capabilities(plain_mean=False)) == {
        "names_are_drawn_once": "'reference' draws under one name twice ('t'), which gives the same numbers; give what "
        "is drawn names of its own, or keep it"
    }


def test_a_sum_is_told_by_its_numbers() -> None:
    said = broken(MUTANTS["a sum"][0])["losses_are_means"]
    assert "'only' of 'reference' must be a mean over its samples; of 12 samples it is" in said


def test_an_objective_that_leads_elsewhere_says_so() -> None:
    config = MUTANTS["away from everything"][0]
    assert broken(config, Capabilities(follows_the_flow=False)) == {}


def test_where_numbers_are_rounded_is_said() -> None:
    said = broken(MUTANTS["times in bfloat16"][0])["numbers_are_not_rounded"]
    place = r"\(tests/kit/test_objective_mutants\.py:\d+, in told_rounded_times\)"
    assert re.search(f"it makes numbers of bfloat16 {place}, so times or losses are rounded", said)
