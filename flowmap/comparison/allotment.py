"""Allot to each contestant of a comparison the steps that its budget buys, counted once and kept."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Annotated, final

import torch
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

from flowmap.comparison.budget import steps_within
from flowmap.comparison.entrants import Comparison
from flowmap.comparison.specification import BudgetConfig
from flowmap.errors import FlowmapError
from flowmap.files.json_lines import append_line, read_lines, rewrite_lines
from flowmap.files.texts import digest
from flowmap.phases import each
from flowmap.recipe.layout import BUDGETS
from flowmap.recipe.recipe import Recipe


@final
class _BudgetLine(BaseModel):
    """A line of `budget.jsonl`: the steps of a stage, by what they were counted from."""

    model_config = ConfigDict(strict=True)

    key: str
    stage: str
    steps: Annotated[int, Field(ge=1, lt=2**63)]


@final
@dataclass(frozen=True)
class _Purchase:
    """A stage of a contestant, to be trained as long as a share of the budget lasts, by the draws of a seed."""

    name: str
    seed: int
    stage: str
    share: float
    recipe: Recipe

    def key(self, budget: BudgetConfig) -> str:
        """Names the purchase and all that it depends on."""
        dumped = self.recipe.as_tables()
        wanted = {"recipe": dumped, "stage": self.stage, "share": self.share, "budget": budget.model_dump()}
        return f"{self.name}/{digest(wanted)}"


def allotted(comparison: Comparison, root: Path, processes: int, context: BaseContext, console: Console) -> Comparison:
    """The comparison with the steps that its budget buys, as they were found when it was begun.

    Network calls are counted by so many `processes` of the `context`. Raises FlowmapError if a budget does not buy a
    step.
    """
    budget = comparison.budget
    if budget is None:
        return comparison
    first, purchases = comparison.seeds[0], _purchases(comparison, budget)
    keys = [purchase.key(budget) for purchase in purchases]
    known = {line["key"]: line for line in read_lines(root / BUDGETS, _BudgetLine)}
    # A line that a kill has cut off goes, and there is a file to append to.
    rewrite_lines(root / BUDGETS, known.values())
    missing = {key: purchase for key, purchase in zip(keys, purchases, strict=True) if key not in known}
    found = _steps(list(missing.values()), budget, processes, context)
    for (key, bought), steps in zip(missing.items(), found, strict=True):
        of_seed = f" (seed {bought.seed})" if bought.seed != first else ""
        console.print(f"{bought.name}: the budget buys {steps:,} steps of {bought.stage}{of_seed}", highlight=False)
        known[key] = {"key": key, "stage": bought.stage, "steps": steps}
        append_line(root / BUDGETS, known[key])
    steps_of: dict[str, dict[int, dict[str, int]]] = {entrant.name: {} for entrant in comparison.entrants}
    for key, bought in zip(keys, purchases, strict=True):
        steps_of[bought.name].setdefault(bought.seed, {})[bought.stage] = known[key]["steps"]
    return replace(
        comparison, entrants=tuple(replace(entrant, steps=steps_of[entrant.name]) for entrant in comparison.entrants)
    )


def _purchases(comparison: Comparison, budget: BudgetConfig) -> list[_Purchase]:
    found: list[_Purchase] = []
    for entrant in comparison.entrants:
        for seed in comparison.seeds:
            # Calls are those of the seed's own draws; a pace is measured once.
            counted = entrant.of_seed(seed if budget.by == "calls" else comparison.seeds[0])
            counted = counted.model_copy(update={"name": entrant.name})  # what messages call it
            found += [_Purchase(entrant.name, seed, stage, share, counted) for stage, share in entrant.own.items()]
    return found


def _steps(purchases: Sequence[_Purchase], budget: BudgetConfig, processes: int, context: BaseContext) -> Iterator[int]:
    """The steps of each, in order."""
    bought = partial(_bought, budget)
    if budget.by != "calls" or processes == 1 or len(purchases) < 2:
        # A pace is that of a machine on which nothing else runs.
        yield from map(bought, purchases)
        return
    others = multiprocessing.active_children()
    executor = ProcessPoolExecutor(min(processes, len(purchases)), context, _alone)
    try:
        counts = executor.map(bought, purchases)
        for _ in each(purchases, "counting what the budget buys", "stages"):
            yield next(counts)
    except BaseException as error:
        # Nobody waits for what they still count.
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        if not isinstance(error, BrokenProcessPool):
            raise
        told = "a process that counted what the budget buys was killed; is there enough memory?"
        raise FlowmapError(told, 1) from None
    finally:
        executor.shutdown(cancel_futures=True)


def _alone() -> None:
    """At the start of a process that counts: beside others that do, and gone without a word when it is told to stop."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    torch.set_num_threads(1)


def _bought(budget: BudgetConfig, purchase: _Purchase) -> int:
    return steps_within(purchase.recipe, purchase.stage, budget, purchase.share)
