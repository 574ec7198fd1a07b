"""No objective's gradient depends on how the global batch is split into micro-batches and processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from flowmap_consistency.configs import ScmConfig
from torch import Tensor

from flowmap.interfaces import Batch, OneChunk, Scene, Turn, World
from flowmap.maths.draw import Draw
from flowmap.plugin import ObjectiveConfig, StageFacts
from flowmap.plugin.catalogue import catalogue

from .support import Rows, analytic_role

COUNT, SHAPE = 24, (3, 2, 1, 2)
STEP = 1500  # a warm-up of sCM's has begun, and rCM's is over
W, B = torch.tensor([[0.3, -0.2], [0.5, 0.1]]).double(), torch.tensor([0.2]).double()
# Roles that differ, so that no loss is at rest.
TURNED = {"student": 1.0, "teacher": -0.7, "critic": 0.4, "first": 1.6}

Case = tuple[str, dict[str, Any]]
OURS = [c.name for c in catalogue().components if c.kind == "objective" and c.distribution.startswith("flowmap ")]
DEFAULTS: dict[str, Case] = {name: (name, {}) for name in OURS}
UNBINNED: dict[str, Case] = {"scm": ("scm", {"bins": 0})}  # see test_a_mean_over_bins_of_time_is_refused
PLAIN = {"interval": "angle", "power": 0.0, "cosine": False}
OTHERS: dict[str, Case] = {
    "flow_map guided": ("flow_map", {"cfg_scale": 2.0, "drop_condition": 0.5, "bidirectional": 1.0}),
    "flow_map teacher": ("flow_map", {"velocity": "teacher", "rebalance": False, "weight": "beta08"}),
    "mean_flow guided": ("mean_flow", {"cfg_scale": 2.0, "drop_condition": 0.5}),
    "mean_flow teacher": ("mean_flow", {"velocity": "teacher", "tangent": {"method": "central"}}),
    "eulerian normalized": ("eulerian", {"normalize": True, "warmup": 5000}),
    "eulerian self": ("eulerian", {"velocity": "self"}),
    "lagrangian self": ("lagrangian", {"velocity": "self", "tangent": {"method": "central", "batched": False}}),
    "semigroup data": ("semigroup", {"velocity": "data", "cfg_scale": 2.0, "drop_condition": 0.5}),
    "transition guided": ("transition", {"cfg_scale": 2.0, "drop_condition": 0.5, "direction": "guided"}),
    "transition plain": ("transition", {"sigma_d": 0.5, **PLAIN}),
    "consistency improved": ("consistency", {"schedule": "improved", "start_stage": 5, "distance": "pseudo_huber"}),
    "consistency_training late": ("consistency_training", {"start_stage": 5, "drop_condition": 0.5, "mapping": "time"}),
    "tcm teacher": ("tcm", {"velocity": "teacher", "cfg_scale": 2.0, "mapping": "time"}),
    "scm data": ("scm", {"bins": 0, "velocity": "data", "sigma_d": 1.0, "ramp": "rcm"}),
    "backward_simulation full": ("backward_simulation", {"unroll": "full", "forward": "mean_flow"}),
    "dmd2 noise levels": ("dmd2", {"critic_sigma_d": 0.5, "score_times": {"limits": "clamp"}}),
    "dmd2 co-trained": ("dmd2", {"cfg_scale": 2.0, "forward": "flow_map", "shift": 5.0}),
    "causvid guided": ("causvid", {"cfg_scale": 2.0, "shift": 5.0, "score_times": {"limits": "range"}}),
    "rcm from the start": ("rcm", {"cfg_scale": 2.0, "start": 0, "forward": {"type": "scm", "warmup": 5000}}),
}
EVERYTHING = DEFAULTS | UNBINNED | OTHERS


class Wide(Draw):
    """Draws in float64, as the networks here are."""

    def normal(self, name: str, shape: Sequence[int] = ()) -> Tensor:
        return super().normal(name, shape).double()


def configured(case: str) -> ObjectiveConfig:
    name, fields = EVERYTHING[case]
    config = catalogue().find("objective", name)(**fields)
    assert isinstance(config, ObjectiveConfig)
    return config


def part_of(objective: ObjectiveConfig, draw: Draw, world: World) -> Scene:
    """What a process sees that holds the rows of `draw`: networks, data and conditions."""
    roles = {name: analytic_role(name, TURNED[name] * W, B) for name in objective.roles()}
    roles["student"].average = {"W": 0.7 * W, "b": 0.4 * B}
    everything, mine = Wide.whole(1, "data", 0, "", draw.total), list(draw.rows)
    x0, cond = everything.normal("x0", SHAPE)[mine], everything.normal("cond", (1,))[mine]
    return Scene(roles, Batch(x0, Rows(cond), Rows(torch.full_like(cond, -0.7))), draw, OneChunk(), world)


def gradient(objective: ObjectiveConfig, turn: Turn, draw: Draw, world: World) -> Tensor:
    """What the trained role gets in one micro-batch, all its parameters one after the other."""
    scene = part_of(objective, draw, world)
    for loss in turn.losses(scene):
        loss.value.backward()
    own = scene.roles[turn.role].own.values()
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in own])


def whole_and_split(objective: ObjectiveConfig, processes: int, micro_batch: int) -> list[tuple[Tensor, Tensor]]:
    """Of every turn the gradient of the whole batch, and the mean over processes and micro-batches of theirs."""
    found = []
    for turn in objective.build().turns():
        draw = Wide.whole(0, "stage", STEP, turn.role, COUNT, group=objective.group())
        worlds = [World() for _ in range(processes)]
        parts = [
            gradient(objective, turn, part, world)
            for process, world in enumerate(worlds)
            for part in draw.split(processes, process, micro_batch)
        ]
        found.append((gradient(objective, turn, draw, World()), torch.stack(parts).mean(0)))
    return found


def adds_up_over_processes(objective: ObjectiveConfig) -> bool:
    """Whether the losses of one process go by those of the others, which have no way to each other here."""
    used = objective.model_dump()
    return bool(used.get("rebalance") or (used.get("forward") or {}).get("rebalance"))


@pytest.mark.parametrize("case", EVERYTHING)
@pytest.mark.parametrize(("processes", "micro_batch"), [(1, 4), (8, 1)])
def test_the_gradient_does_not_depend_on_how_the_batch_is_split(case: str, processes: int, micro_batch: int) -> None:
    objective = configured(case)
    if adds_up_over_processes(objective):
        processes = 1
    for expected, ours in whole_and_split(objective, processes, micro_batch):
        assert expected.norm() > 1e-4
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-7)


def test_a_mean_over_bins_of_time_is_refused() -> None:
    """The one exception: what a micro-batch is divided by goes by those before it."""
    ((expected, ours),) = whole_and_split(ScmConfig(), 1, 4)
    assert (ours - expected).norm() > 0.01 * expected.norm()
    facts = StageFacts(batch=COUNT, conditional=True, micro_batch=COUNT // 2)
    errors = [finding for finding in ScmConfig().findings(facts) if finding.level == "error"]
    assert [finding.field for finding in errors] == [("bins",)]
    assert not list(ScmConfig(bins=0).findings(facts))
