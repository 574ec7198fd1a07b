"""How many steps a budget buys, so that contestants are compared at equal cost."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from random import Random
from typing import final

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

_COUNTED = 4096  # times that a turn is counted, where its cost differs from time to time
_SAMPLED = 1024  # from then on one in so many of the steps before
_BELIEVED = 120  # times in a row after which a cost is believed to stay for a while
_SHARE = 32  # of the steps that it has stayed for, the share at which it is looked at next
_IDLE = 100_000  # steps without any turn after which none is expected
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
    """Add up the costs of steps until the amount is spent. Raises FlowmapError if the objective falls idle before."""
    tally = Tally(plan)
    turns = [_TurnCosts(tally, index, plan.recipe.backbone.recomputes()) for index in range(tally.turns)]
    step = total = last = idle = 0
    while total < amount:
        last = sum(turn.cost(step) for turn in turns if tally.takes(turn.index, step))
        total += last
        step += 1
        idle = 0 if last else idle + 1
        if idle > _IDLE:
            raise FlowmapError(
                f"stage '{plan.stage.name}' spends nothing from step {step - idle} on, before its budget of {amount:g} "
                f"calls is spent ({total:,} are); lower budget.amount"
            )
    return step if total - amount <= amount - (total - last) else step - 1


@final
class _TurnCosts:
    """What a turn costs at each step that it is taken at, asked for in order.

    Most cost the same for long: then only some are counted, ever fewer, and where one differs from those before, the
    step at which that began is searched for. What differs all the time (rollouts of drawn lengths) is counted each
    time, `_COUNTED` times, and from then on in samples.
    """

    def __init__(self, tally: Tally, index: int, recomputes: bool) -> None:
        self.index = index
        self._tally, self._recomputes = tally, recomputes
        self._ahead: dict[int, int] = {}
        self._counted = 0
        # The latest cost, how many times in a row it has been that, and since which step.
        self._latest, self._alike, self._since = -1, 0, 0

    def cost(self, step: int) -> int:
        """Network-call equivalents of the turn at `step`, at which it is taken."""
        if step not in self._ahead:
            self._look_ahead(step)
        cost = self._ahead.pop(step)
        if cost != self._latest:
            self._latest, self._alike, self._since = cost, 0, step
        self._alike += 1
        return cost

    def _look_ahead(self, step: int) -> None:
        if self._alike >= _BELIEVED:
            self._extend(self._taken(step, (step - self._since) // _SHARE))
        elif self._counted < _COUNTED:
            self._ahead[step] = self._count(step)
        else:
            taken = self._taken(step, step // _SAMPLED)
            # Any of them: what has a rhythm must not be looked at in the same one.
            self._ahead = dict.fromkeys(taken, self._count(Random(step).choice(taken)))

    def _taken(self, step: int, steps: int) -> list[int]:
        """Those of so many steps from `step` on (one at least) at which the turn is taken."""
        return [n for n in range(step, step + max(1, steps)) if self._tally.takes(self.index, n)]

    def _extend(self, taken: Sequence[int]) -> None:
        """Look ahead to the last of `taken`, or to the first that costs something else than the latest."""
        different, found = len(taken) - 1, self._count(taken[-1])
        if found == self._latest:
            self._ahead = dict.fromkeys(taken, found)
            return
        alike = -1
        while different - alike > 1:
            middle = (alike + different) // 2
            there = self._count(taken[middle])
            if there == self._latest:
                alike = middle
            else:
                different, found = middle, there
        self._ahead = {**dict.fromkeys(taken[:different], self._latest), taken[different]: found}

    def _count(self, step: int) -> int:
        self._counted += 1
        before = self._spent()
        self._tally.take(self.index, step)
        return self._spent() - before

    def _spent(self) -> int:
        return equivalents({name: asdict(calls) for name, calls in self._tally.calls.items()}, self._recomputes)


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
