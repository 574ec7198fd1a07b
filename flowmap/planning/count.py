"""Count what a stage will cost before it starts: its own objective, run on stand-in networks.

Every draw is known beforehand (flowmap.maths.draw), so the stand-ins are called exactly as the real networks will
be, and the counts are those of the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from flowmap.phases import phase
from flowmap.planning.events import Event
from flowmap.planning.tally import Tally
from flowmap.recipe.layout import StagePlan
from flowmap.training.ledger import Calls

_MOST_STEPS = 256
_MOST_CALLS = 500_000  # of stand-ins, after which no further step is counted: 256 steps of a causal model have 350,000


@final
@dataclass(frozen=True)
class StageCost:
    """Counts over the first `steps` steps of a stage, of one process.

    `calls` per role and `backwards` per trained role; `scripts`: what happened in order within a turn's micro-batch,
    and how often that came about.
    """

    steps: int
    calls: Mapping[str, Calls]
    backwards: Mapping[str, int]
    scripts: Mapping[tuple[Event, ...], int]


def count(plan: StagePlan, devices: int = 1, most: int = _MOST_STEPS) -> StageCost:
    """The cost of the first `most` steps of `plan` (of all, if they are fewer), counted by running them on stand-ins.

    Steps of very many calls are counted until half a million calls have been.

    The counts are those of the first of `devices` processes; the batch must be whole micro-batches of them.
    """
    tally = Tally(plan, devices)
    steps, most = 0, min(plan.stage.steps, most)
    with phase(f"{plan.stage.name}: counting the calls of its steps", most, "steps") as doing:
        while steps < most and tally.made() < _MOST_CALLS:
            tally.step()
            steps += 1
            doing.advance()
    return StageCost(steps, tally.calls, tally.backwards, tally.scripts)
