"""How many steps a budget buys, so that contestants are compared at equal cost."""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from random import Random
from typing import TypeVar, final

import numpy as np
import torch
from numpy.typing import NDArray

from flowmap.comparison.specification import BudgetConfig
from flowmap.errors import FlowmapError
from flowmap.phases import Phase, phase
from flowmap.planning.tally import Tally
from flowmap.recipe.layout import StagePlan, make_plan
from flowmap.recipe.recipe import Recipe
from flowmap.schema.bounds import MOST_STEPS
from flowmap.training.equivalents import equivalents
from flowmap.training.loop import run_stage
from flowmap.training.processes import Processes
from flowmap.training.stage import open_stage

_COUNTED = 4096  # times that a turn is counted, where its cost differs from time to time
_SAMPLED = 1024  # from then on one in so many of the steps before
_COUNTED_CALLS, _SAMPLED_CALLS = 200_000, 40_000  # or for so many calls, where one turn makes very many
_BELIEVED = 120  # times in a row after which a cost is believed to stay for a while
_SHARE = 32  # of the steps that it has stayed for, the share at which it is looked at next
_BLOCK = 1 << 16  # steps that are added up at once, at most
_IDLE = 100_000  # steps without any turn after which none is expected
_WARM, _TIMED = 5, 40

N = TypeVar("N", int, None)


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
    if steps > MOST_STEPS:
        raise _too_many(stage, f"{amount:g} {budget.by}")
    if steps < 1:
        raise FlowmapError(
            f"contestant '{recipe.name}': {amount:g} {budget.by} do not pay for one step of stage '{stage}'; "
            "raise budget.amount"
        )
    return steps


def _steps_of_calls(plan: StagePlan, amount: float) -> int:
    """Add up the costs of steps until the amount is spent.

    Raises FlowmapError if the objective falls idle before, or if a stage could not have so many steps.
    """
    tally = Tally(plan)
    recomputes = plan.recipe.backbone.recomputation() != "none"
    turns = [_TurnCosts(tally, index, recomputes) for index in range(tally.turns)]
    words = f"{plan.recipe.name}: counting what steps of {plan.stage.name} cost"
    with phase(words, amount, "calls") as doing:
        return _counted(plan, amount, turns, doing)


def _counted(plan: StagePlan, amount: float, turns: Sequence[_TurnCosts], doing: Phase) -> int:
    step = total = idle = 0
    while step < MOST_STEPS:
        # Ever more at a time: few are counted in vain, and many are added up at once.
        block = min(max(1, step // _SHARE), _BLOCK)
        costs = np.stack([turn.costs(step, block) for turn in turns]).sum(axis=0)
        spent = np.cumsum(costs)
        if total + int(spent[-1]) >= amount:
            last = int(np.searchsorted(spent, amount - total))
            over = total + int(spent[last]) - amount
            return step + last + 1 if over <= int(costs[last]) - over else step + last
        total += int(spent[-1])
        doing.done = total
        step += block
        busy = np.flatnonzero(costs)
        idle = block - 1 - int(busy[-1]) if len(busy) else idle + block
        if idle > _IDLE:
            raise FlowmapError(
                f"stage '{plan.stage.name}' spends nothing from step {step - idle} on, before its budget of {amount:g} "
                f"calls is spent ({total:,} are); lower budget.amount"
            )
    raise _too_many(plan.stage.name, f"{amount:g} calls")


def _too_many(stage: str, budget: str) -> FlowmapError:
    return FlowmapError(
        f"a budget of {budget} pays for more than {MOST_STEPS:,} steps of stage '{stage}', the most that a stage has; "
        "lower budget.amount"
    )


@final
class _TurnCosts:
    """What a turn costs at each step, asked for in order.

    Most cost the same for long: then only some are counted, ever fewer, and where one differs from those before, the
    step at which that began is searched for. What differs all the time (rollouts of drawn lengths) is counted each
    time, `_COUNTED` times, and from then on in samples.
    """

    def __init__(self, tally: Tally, index: int, recomputes: bool) -> None:
        self.index = index
        self._tally, self._recomputes = tally, recomputes
        # Costs that are known beforehand, each with the last step that it is known for.
        self._ahead: deque[tuple[int, int]] = deque()
        self._counted = self._made = 0  # times, and network calls in them
        # The latest cost, how many times in a row it has been that, and since which step.
        self._latest, self._alike, self._since = -1, 0, 0

    def costs(self, first: int, number: int) -> NDArray[np.int64]:
        """Network-call equivalents `[number]` of the turn at the steps from `first` on; 0 where it is not taken."""
        taken = np.array(self._taken(first, first + number), dtype=np.int64)
        costs = np.zeros(number, dtype=np.int64)
        done = 0
        while done < len(taken):
            step = int(taken[done])
            if not self._ahead:
                self._look_ahead(step)
            last, cost = self._ahead[0]
            stop = int(np.searchsorted(taken, last, side="right"))
            costs[taken[done:stop] - first] = cost
            if cost != self._latest:
                self._latest, self._alike, self._since = cost, 0, step
            self._alike += stop - done
            done = stop
            if last < first + number:
                self._ahead.popleft()
        return costs

    def _look_ahead(self, step: int) -> None:
        if self._alike >= _BELIEVED:
            self._extend(step, step + max(1, (step - self._since) // _SHARE))
        elif self._counted < _COUNTED and self._made < _COUNTED_CALLS:
            self._ahead.append((step, self._count(step)))
        else:
            share = min(_SAMPLED, max(1, _SAMPLED_CALLS * self._counted // self._made))
            end = step + max(1, step // share)
            # Any of them: what has a rhythm must not be looked at in the same one.
            self._ahead.append((end - 1, self._count(Random(step).choice(self._taken(step, end)))))

    def _taken(self, step: int, end: int) -> list[int]:
        """Those of the steps from `step` on, before `end`, at which the turn is taken."""
        takes, index = self._tally.takes, self.index
        return [n for n in range(step, end) if takes(index, n)]

    def _first_of(self, steps: Iterable[int], otherwise: N) -> int | N:
        """The first of `steps` at which the turn is taken."""
        takes, index = self._tally.takes, self.index
        return next((n for n in steps if takes(index, n)), otherwise)

    def _extend(self, step: int, end: int) -> None:
        """Look ahead from `step`, at which the turn is taken, to `end`, or to where it costs something else."""
        same, different = step - 1, self._first_of(range(end - 1, step, -1), step)
        found = self._count(different)
        if found == self._latest:
            self._ahead.append((end - 1, found))
            return
        while True:
            half = (same + different) // 2
            # The last of the lower half; if none is in that, the first of the upper one.
            middle = self._first_of(range(half, same, -1), None) or self._first_of(range(half + 1, different), None)
            if middle is None:
                break
            there = self._count(middle)
            if there == self._latest:
                same = middle
            else:
                different, found = middle, there
        self._ahead.append((different - 1, self._latest))
        self._ahead.append((different, found))

    def _count(self, step: int) -> int:
        self._counted += 1
        spent, made = self._spent(), self._tally.made()
        self._tally.take(self.index, step)
        self._made += self._tally.made() - made
        return self._spent() - spent

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
            with phase(f"{recipe.name}: timing steps of {stage}", _WARM + _TIMED, "steps") as doing:
                steps = run_stage(open_stage(plan, Processes(recipe.compute)), 0)
                for _ in islice(steps, _WARM):
                    doing.advance()
                began, taken = time.perf_counter(), 0
                for _ in steps:
                    taken += 1
                    doing.advance()
                return (time.perf_counter() - began) / taken
    finally:
        torch.set_num_threads(before)
