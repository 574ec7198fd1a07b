"""Whether an objective teaches its flow map the velocity u(x, t, t): what it says, what it does, who is warned."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flowmap.interfaces import Batch, Cond, OneChunk, Role, Scene, World
from flowmap.maths.path import like
from flowmap.plugin import ObjectiveConfig
from flowmap.plugin.catalogue import catalogue
from flowmap.recipe.read import read
from flowmap.testing import closed_form
from flowmap.testing.closed_form import Field, Rows
from flowmap.testing.contract import whole
from tests.conftest import edited
from tests.test_cost import OBJECTIVES as DEFAULTS

NEAR = 0.01  # the finest step of any grid that is rolled out here is 1/16
STEPS, COUNT = 40, 16
OBJECTIVES = {
    **DEFAULTS,
    "flow_map, to data only": '{ type = "flow_map", rebalance = false, branches = { diffusion = 0, consistency = 1 } }',
    "discrete_flow_map, to data only": '{ type = "discrete_flow_map", branches = { diffusion = 0, consistency = 1 } }',
    "rcm, flow_map": '{ type = "rcm", forward = "flow_map" }',
}


def objective_of(text: str) -> ObjectiveConfig:
    table: Any = tomllib.loads(f"x = {text}")["x"]
    table = {"type": table} if isinstance(table, str) else table
    config = catalogue().find("objective", table["type"]).model_validate(table)
    assert isinstance(config, ObjectiveConfig)
    return config


class Watched(Field):
    """Notes whether a call with a gradient goes from a t to an r next to it, and not to the data."""

    def __init__(self) -> None:
        super().__init__((0.3, 0.1, -0.2))
        self.near: list[bool] = []

    def forward(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        """Something linear."""
        if torch.is_grad_enabled():
            self.near.append(bool(((t - r < NEAR) & (t > 2 * NEAR)).any()))
        return self.theta[0] + self.theta[1] * x + self.theta[2] * like(t - r, x)


def trained_near_the_diagonal(config: ObjectiveConfig) -> bool:
    """Whether any of the student's calls with a gradient does so."""
    roles: dict[str, Role] = {}
    for name, spec in config.roles().items():
        module = Watched()
        roles[name] = Role(name, closed_form.network(spec.kind, module), module, dict(module.named_parameters()))
        if not spec.trained:
            roles[name].freeze()
    student = roles["student"]
    student.average = {key: parameter.detach() for key, parameter in student.own.items()}
    for turn in config.build().turns():
        for step in range(STEPS) if turn.role == "student" else ():
            draw = whole(COUNT, step, config.group())
            rows = torch.arange(COUNT)
            batch = Batch(closed_form.points(draw.child("data"), (1, 2)), Rows(rows), Rows(rows - COUNT))
            for loss in turn.losses(Scene(roles, batch, draw, OneChunk(), World())):
                loss.value.backward()
    assert isinstance(student.module, Watched)
    assert student.module.near
    return any(student.module.near)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("text", OBJECTIVES.values(), ids=OBJECTIVES.keys())
def test_an_objective_says_whether_it_teaches_the_velocity(text: str) -> None:
    config = objective_of(text)
    assert config.roles()["student"].diagonal == trained_near_the_diagonal(config)


@pytest.mark.parametrize(
    ("objective", "sampler", "warned"),
    [
        ("consistency", "unipc", True),
        ("consistency", "euler", True),
        ("consistency", "consistency", False),
        ("flow_map", "unipc", False),
    ],
)
def test_a_velocity_sampler_of_one_that_is_not_taught_it_is_warned_of(
    objective: str, sampler: str, warned: bool, here: Path
) -> None:
    (here / "r.toml").write_text(
        edited(
            ('{ type = "flow_map" }', f'"{objective}"'),
            ('samplers = ["flow_map"]', f'samplers = ["{sampler}"]'),
            ('roles.student = { from = "teacher" }', 'roles.student.from = "teacher"'),
        )
    )
    warnings = [w for w in read(Path("r.toml"), ())[1] if "samplers" in w]
    told = "warning: sampler 'unipc' follows the velocity u(x, t, t), which nothing teaches 'student'"
    assert any(told.replace("unipc", sampler) in warning for warning in warnings) == warned
    assert len(warnings) == warned
