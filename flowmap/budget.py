"""How many steps a budget buys, so that contestants are compared at equal cost."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from flowmap.comparing import BudgetConfig
from flowmap.cost import Tally
from flowmap.equivalents import equivalents
from flowmap.errors import FlowmapError
from flowmap.loop import run_stage
from flowmap.plan import StagePlan, make_plan
from flowmap.processes import Processes
from flowmap.recipe import Recipe
from flowmap.stage import open_stage

_COUNTED = 4096  # steps that are counted one by one; of more, the mean of these
_WARM, _TIMED = 5, 40


def steps_within(recipe: Recipe, stage: str, budget: BudgetConfig, share: float) -> int:
    """The steps of `stage` for which `share` of the `budget` pays; with calls, the number that comes nearest.

    Raises FlowmapError if it does not pay for a single step.
    """
    amount = budget.amount * share
    plan = make_plan(recipe, Path("nowhere")).find(stage, recipe.seeds[0])
    if budget.by == "steps":
        steps = round(amount)
    elif budget.by == "calls":
        steps = _steps_of_calls(plan, amount)
    else:
        steps = round(amount / seconds_per_step(recipe, stage))
    if steps < 1:
        raise FlowmapError(
            f"contestant '{recipe.name}': {amount:g} {budget.by} do not pay for one step of stage '{stage}'; "
            "raise budget.amount"
        )
    return steps


def _steps_of_calls(plan: StagePlan, amount: float) -> int:
    tally, recomputes = Tally(plan), plan.recipe.backbone.recomputes()
    before = spent = 0
    for step in range(1, _COUNTED + 1):
        tally.step()
        before, spent = spent, equivalents({name: asdict(calls) for name, calls in tally.calls.items()}, recomputes)
        if spent >= amount:
            return step if spent - amount <= amount - before else step - 1
    return round(amount * _COUNTED / spent)


def seconds_per_step(recipe: Recipe, stage: str) -> float:
    """What a step of `stage` takes on this machine: the mean of a few dozen, from base weights, after a warm-up.

    Weights make no difference to the time, so no stage need be finished for it.
    """
    chosen = recipe.stage(stage).model_copy(update={"roles": {}, "steps": _WARM + _TIMED})
    alone = recipe.model_copy(update={"stages": (chosen,), "evaluation": None})
    before = torch.get_num_threads()
    torch.set_num_threads(recipe.compute.threads or before)
    try:
        with tempfile.TemporaryDirectory() as folder:
            (plan,) = make_plan(alone.model_copy(update={"seeds": recipe.seeds[:1]}), Path(folder)).stages
            steps = run_stage(open_stage(plan, Processes(recipe.compute)), 0)
            for _ in islice(steps, _WARM):
                pass
            began = time.perf_counter()
            taken = sum(1 for _ in steps)
            return (time.perf_counter() - began) / taken
    finally:
        torch.set_num_threads(before)


def with_steps(recipe: Recipe, steps: Mapping[str, int]) -> Recipe:
    """`recipe` with the `steps` of the stages that are named."""
    stages: Any = tuple(
        stage.model_copy(update={"steps": steps[stage.name]}) if stage.name in steps else stage
        for stage in recipe.stages
    )
    return recipe.model_copy(update={"stages": stages})
