"""How much it takes to add an objective: the tutorial's promise, as a test."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, final

import pytest
import torch
from pydantic import Field

from flowmap.interfaces import Loss, Objective, Scene, Turn
from flowmap.maths.distances import pseudo_huber
from flowmap.maths.pairs import draw_pairs, per_branch
from flowmap.networks.points import along_path, on_path
from flowmap.plugin import Finding, ObjectiveConfig, RoleSpec, StageFacts
from flowmap.schema.settings import BranchesConfig, TangentConfig, uniform_times
from flowmap.testing import check_objective

from .maths.support import GAUSSIAN, MIXTURE
from .maths.test_stationary import axis, losses_and_gradient, scene_for

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
]


class HuberEulerianConfig(ObjectiveConfig):
    """The Eulerian identity under a pseudo-Huber distance, long jumps weighted down by (1 + t - r)^-p."""

    type: Literal["huber_eulerian"] = "huber_eulerian"
    branches: BranchesConfig = Field(default_factory=BranchesConfig, description="shares of the global batch")
    power: float = Field(1.0, ge=0, description="p, in the weight of a jump")
    tangent: TangentConfig = Field(default_factory=TangentConfig, description="how du/dt is computed")

    def roles(self) -> Mapping[str, RoleSpec]:
        return {"student": RoleSpec("flow_map", True, "learns"), "teacher": RoleSpec("velocity", False, "teaches")}

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        return ()

    def build(self) -> Objective:
        return HuberEulerian(self)


@final
class HuberEulerian(Objective):
    """(1 + t - r)^-p huber(u(x_t, t, r), sg[v - (t - r) du/dt])."""

    def __init__(self, config: HuberEulerianConfig) -> None:
        self._config = config

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("student", self._losses),)

    def _losses(self, scene: Scene) -> Iterator[Loss]:
        student, pairs = scene.flow_map("student"), draw_pairs(scene.draw, self._config.branches, uniform_times())
        at = on_path(scene, pairs, "teacher")
        target = at.v - along_path(student, at, self._config.tangent)
        raw = pseudo_huber(student.mean_velocity(at.x, at.t, at.r, at.cond), target, scale=0.01)
        weight = (1 + at.t - at.r) ** -self._config.power
        yield Loss("huber_eulerian", (weight * raw).mean(), per_branch(raw, pairs))


def test_a_new_objective_with_its_configuration_takes_fewer_than_forty_lines() -> None:
    lines = [line for part in (HuberEulerianConfig, HuberEulerian) for line in inspect.getsource(part).splitlines()]
    assert len(lines) < 40


@pytest.mark.parametrize("method", ["central", "jvp"])
def test_it_keeps_the_contract_of_objectives(method: str) -> None:
    check_objective(HuberEulerianConfig.model_validate({"tangent": {"method": method}}))


@pytest.mark.parametrize("config", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
def test_the_exact_map_is_at_rest_and_a_displaced_one_is_pushed_back(config: object) -> None:
    objective = HuberEulerianConfig(tangent=TangentConfig(method="jvp"))
    score, gradient = losses_and_gradient(objective, scene_for(objective, config=config))
    assert score < 1e-9
    assert gradient.norm() < 1e-5
    for index in range(5):
        for sign in (-1, 1):
            _, gradient = losses_and_gradient(objective, scene_for(objective, axis(index, 0.1 * sign), config))
            assert sign * gradient[index] > 0


def test_long_jumps_count_less() -> None:
    """An error that grows with the jump costs less, one at r = t the same."""
    gap, flat = axis(3, 0.1), torch.zeros(5)
    costs = []
    for power in (0.0, 2.0):
        objective = HuberEulerianConfig(power=power, tangent=TangentConfig(method="jvp"))
        costs.append([losses_and_gradient(objective, scene_for(objective, theta))[0] for theta in (gap, flat)])
    assert costs[1][0] < 0.7 * costs[0][0]
