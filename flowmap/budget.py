"""How many steps a budget buys, so that contestants are compared at equal cost."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice, pairwise
from pathlib import Path

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
_RHYTHM = 120  # steps after which a rhythm is believed
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
    """Count steps until the amount is spent.

    Most objectives cost the same at every step, or in a rhythm; then a few tell all. Where lengths of rollouts are
    drawn, all are counted.
    """
    tally, recomputes = Tally(plan), plan.recipe.backbone.recomputes()
    spent, rhythm = [0], tally.rhythm(_COUNTED)
    for _ in range(_COUNTED):
        tally.step()
        spent.append(equivalents({name: asdict(calls) for name, calls in tally.calls.items()}, recomputes))
        if spent[-1] >= amount or (len(spent) - 1 == _RHYTHM and _rhythm(spent, rhythm)):
            break
    each = [after - before for before, after in pairwise(spent)]
    period = rhythm if spent[-1] < amount and len(each) == _RHYTHM else len(each)
    step = 0
    total = 0
    while total < amount:
        total += each[step % period]
        step += 1
    return step if total - amount <= amount - (total - each[(step - 1) % period]) else step - 1


def _rhythm(spent: Sequence[int], period: int) -> bool:
    """Whether what was `spent` after each step has grown in the same way in every `period`."""
    each = [after - before for before, after in pairwise(spent)]
    return period < len(each) and all(cost == each[step % period] for step, cost in enumerate(each))


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
