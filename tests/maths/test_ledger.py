"""What a step costs, counted in the loop, against numbers derived by hand from the algorithms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from flowmap_distribution.backward_simulation import BackwardSimulation
from flowmap_distribution.configs import BackwardSimulationConfig

from flowmap.interfaces import NoCond
from flowmap.maths.draw import Draw
from flowmap.recipe.layout import make_plan
from flowmap.recipe.recipe import Recipe
from flowmap.recipe.tables import ComputeConfig
from flowmap.training.ledger import Ledger
from flowmap.training.loop import run_stage
from flowmap.training.processes import Processes
from flowmap.training.records import StepRecord
from flowmap.training.stage import open_stage

from .support import exact_role

B = 16
FLOW_MAP = {"type": "flow_map", "rebalance": False}  # half of the batch has r = t, so B / 2 rows move
MOVING = B // 2


def record(objective: dict[str, Any], tmp_path: Path) -> StepRecord:
    """One step of `objective` in the one training loop, on the exact backbone."""
    recipe = Recipe.model_validate(
        {
            "name": "ledger",
            "data": {"type": "gaussian"},
            "backbone": {"type": "gaussian"},
            "stages": [{"name": "stage", "steps": 1, "batch": B, "objective": objective}],
        }
    )
    stage = open_stage(make_plan(recipe, tmp_path).find("stage", 0), Processes(ComputeConfig(device="cpu")))
    return next(run_stage(stage, 0))


def calls(grad: int = 0, no_grad: int = 0, grad_samples: int = 0, no_grad_samples: int = 0) -> dict[str, int]:
    return {"grad": grad, "no_grad": no_grad, "grad_samples": grad_samples, "no_grad_samples": no_grad_samples}


def one_grad(no_grad: int, no_grad_samples: int) -> dict[str, int]:
    """One call of the whole batch with gradient, and these without."""
    return calls(1, no_grad, B, no_grad_samples)


def without(number: int, samples: int) -> dict[str, int]:
    return calls(no_grad=number, no_grad_samples=samples)


BY_HAND: dict[str, tuple[dict[str, Any], dict[str, dict[str, int]]]] = {
    "flow_matching": (
        {"type": "flow_matching"},
        {"student": one_grad(0, 0)},
    ),
    "flow_map: both sides of the difference in one call": (
        FLOW_MAP,
        {"student": one_grad(1, 2 * MOVING)},
    ),
    "flow_map: one call a side": (
        {**FLOW_MAP, "tangent": {"batched": False}},
        {"student": one_grad(2, 2 * MOVING)},
    ),
    "flow_map: one forward-mode call, which makes two passes": (
        {**FLOW_MAP, "tangent": {"method": "jvp"}},
        {"student": one_grad(2, 2 * MOVING)},
    ),
    "flow_map: nothing moves": (
        {**FLOW_MAP, "branches": {"diffusion": 1.0, "consistency": 0.0}},
        {"student": one_grad(0, 0)},
    ),
    "flow_map: everything moves": (
        {**FLOW_MAP, "branches": {"diffusion": 0.0, "consistency": 0.5}},
        {"student": one_grad(1, 2 * B)},
    ),
    "flow_map: guided by the student's null, in the call of the differences": (
        {**FLOW_MAP, "cfg_scale": 3.0},
        {"student": one_grad(1, 2 * MOVING + B)},
    ),
    "flow_map: guided, one call each": (
        {**FLOW_MAP, "cfg_scale": 3.0, "tangent": {"batched": False}},
        {"student": one_grad(3, 2 * MOVING + B)},
    ),
    "flow_map: guided, a forward-mode call and one for the null": (
        {**FLOW_MAP, "cfg_scale": 3.0, "tangent": {"method": "jvp"}},
        {"student": one_grad(3, 2 * MOVING + B)},
    ),
    "flow_map: guided, nothing moves": (
        {**FLOW_MAP, "cfg_scale": 3.0, "branches": {"diffusion": 1.0, "consistency": 0.0}},
        {"student": one_grad(1, B)},
    ),
    "flow_map: guided, everything moves": (
        {**FLOW_MAP, "cfg_scale": 3.0, "branches": {"diffusion": 0.0, "consistency": 0.5}},
        {"student": one_grad(1, 2 * B + B)},
    ),
    "flow_map: a teacher's velocity": (
        {**FLOW_MAP, "velocity": "teacher"},
        {"student": one_grad(1, 2 * MOVING), "teacher": without(1, B)},
    ),
    "flow_map: a teacher's velocity, guided": (
        {**FLOW_MAP, "velocity": "teacher", "cfg_scale": 3.0},
        {"student": one_grad(1, 2 * MOVING), "teacher": without(1, 2 * B)},
    ),
    # Shares of a quarter each with r = t and r = 0: three quarters move.
    "discrete_flow_map: heun": (
        {"type": "discrete_flow_map"},
        {"student": one_grad(1, 3 * B // 4), "teacher": without(2, B + 3 * B // 4)},
    ),
    "discrete_flow_map: euler": (
        {"type": "discrete_flow_map", "solver": "euler"},
        {"student": one_grad(1, 3 * B // 4), "teacher": without(1, B)},
    ),
    "discrete_flow_map: guided": (
        {"type": "discrete_flow_map", "cfg_scale": 2.0},
        {"student": one_grad(1, 3 * B // 4), "teacher": without(2, 2 * (B + 3 * B // 4))},
    ),
    "consistency: heun": (
        {"type": "consistency"},
        {"student": one_grad(1, B), "teacher": without(2, 2 * B)},
    ),
    "consistency: euler, guided": (
        {"type": "consistency", "solver": "euler", "cfg_scale": 2.0},
        {"student": one_grad(1, B), "teacher": without(1, 2 * B)},
    ),
}


@pytest.mark.parametrize("name", list(BY_HAND))
def test_a_step_costs_what_the_algorithm_says(name: str, tmp_path: Path) -> None:
    objective, expected = BY_HAND[name]
    step = record(objective, tmp_path)
    assert step.calls == expected
    assert step.backwards == 1


def segments_of(steps: int) -> dict[str, int]:
    """How many segments the rollouts of the student's and of the critic's turn have in the first step."""
    objective = BackwardSimulationConfig(rollout_steps=(steps,), sampler="flow_map").build()
    assert isinstance(objective, BackwardSimulation)
    turns = {"student": "0-student", "critic": "1-critic"}
    return {role: len(objective._times(Draw.whole(0, "stage", 0, turn, B))) - 1 for role, turn in turns.items()}


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 50])
@pytest.mark.parametrize("w", [1.0, 4.0])
def test_backward_simulation_costs_its_segments_and_three_scores(steps: int, w: float, tmp_path: Path) -> None:
    """Student: its segments with gradient, a score each of critic and teacher. Critic: segments without."""
    step = record({"type": "backward_simulation", "rollout_steps": [steps], "cfg_scale": w}, tmp_path)
    segments = segments_of(steps)
    assert step.calls == {
        "student": calls(segments["student"], segments["critic"], B * segments["student"], B * segments["critic"]),
        "teacher": without(1, B if w == 1 else 2 * B),
        "critic": one_grad(1, B),
    }
    assert step.backwards == 2


def test_the_rollouts_tried_here_have_one_two_and_three_segments() -> None:
    assert {count for steps in (1, 2, 4, 8, 50) for count in segments_of(steps).values()} == {1, 2, 3}


def test_a_co_trained_forward_objective_adds_its_calls_and_one_backward(tmp_path: Path) -> None:
    step = record({"type": "backward_simulation", "rollout_steps": [1], "forward": FLOW_MAP}, tmp_path)
    assert step.calls["student"] == calls(1 + 1, 1 + 1, 2 * B, B + 2 * MOVING)
    assert step.calls["critic"] == one_grad(1, B)
    assert step.backwards == 3
    assert step.losses.keys() == {"dmd", "flow_map", "critic"}


def test_taking_the_counts_starts_them_anew() -> None:
    ledger, x, t = Ledger(), torch.zeros(3, 1, 1), torch.ones(3)
    network = ledger.watch([exact_role("student")], ["student"])["student"].network
    network.velocity(x, t, NoCond())
    with torch.no_grad():
        network.velocity(x, t, NoCond())
    ledger.backwards += 1
    assert ledger.take() == {"calls": {"student": calls(1, 1, 3, 3)}, "backwards": 1}
    assert ledger.take() == {"calls": {"student": calls()}, "backwards": 0}


def test_a_frozen_network_costs_a_gradient_only_if_one_passes_through_it() -> None:
    ledger, t = Ledger(), torch.ones(3)
    network = ledger.watch([exact_role("teacher", "velocity")], [])["teacher"].network
    network.velocity(torch.zeros(3, 1, 1), t, NoCond())
    assert ledger.take()["calls"]["teacher"] == without(1, 3)
    network.velocity(torch.zeros(3, 1, 1, requires_grad=True), t, NoCond())
    assert ledger.take()["calls"]["teacher"] == calls(1, 0, 3, 0)


def test_a_watched_network_computes_what_the_network_computes() -> None:
    role = exact_role("student", theta=(0.1, 0.2, 0.3, 0.4, 0.5))
    watched = Ledger().watch([role], ["student"])["student"]
    x, t, r = torch.ones(3, 1, 1).double(), torch.full((3,), 0.8), torch.full((3,), 0.3)
    for network in (role.network, watched.network):
        assert torch.equal(network.velocity(x, t, NoCond()), role.network.velocity(x, t, NoCond()))
    ours, theirs = (n.mean_velocity(x, t, r, NoCond()) for n in (watched.network, role.network))
    assert torch.equal(ours, theirs)
    assert watched.own == role.own
    assert watched.average is role.average
