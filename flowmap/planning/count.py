"""Count what a stage will cost before it starts: its own objective, run on stand-in networks.

Every draw is known beforehand (flowmap.maths.draw), so the stand-ins are called exactly as the real networks will
be, and the counts are those of the ledger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from flowmap.phases import Phase, phase
from flowmap.planning.events import Event
from flowmap.planning.tally import Tally
from flowmap.recipe.layout import StagePlan
from flowmap.training.ledger import Calls

_MOST_STEPS = 256
_WHOLE_PARTS = 1_000  # micro-batches, and calls of stand-ins, up to which all of a step are counted: about a second
_WHOLE_CALLS = 20_000
_MOST_CALLS = 50_000  # after which no further step is counted
_STRIDE = (math.sqrt(5) - 1) / 2  # whole steps apart, few micro-batches are spread over a step as evenly as many


@final
@dataclass(frozen=True)
class StageCost:
    """Counts over the first `steps` steps of a stage, of one process.

    `calls` per role and `backwards` per trained role; `scripts`: what happened in order within a turn's micro-batch,
    and how often that came about. They are as many as `whole_steps` have: fewer than `steps`, where not all
    micro-batches of a step are counted.
    """

    steps: int
    calls: Mapping[str, Calls]
    backwards: Mapping[str, int]
    scripts: Mapping[tuple[Event, ...], int]
    whole_steps: float


def count(plan: StagePlan, devices: int = 1, most: int = _MOST_STEPS) -> StageCost:
    """The cost of the first `most` steps of `plan` (of all, if they are fewer), counted by running them on stand-ins.

    Where these would be very many calls one micro-batch of each step is counted, each in its turn: what all samples of
    a step share (windows, lengths of rollouts) is counted as often as before, and branches of times go by the place of
    a sample in the batch, which so come about in their shares. Of steps that are long all the same fewer are counted.

    The counts are those of the first of `devices` processes; the batch must be whole micro-batches of as many as do not
    share samples (compute.sequence).
    """
    shares = max(1, devices // plan.recipe.compute.sequence)
    most = min(plan.stage.steps, most)
    with phase(f"{plan.stage.name}: counting the calls of its steps", most, "steps") as doing:
        return _whole(plan, shares, most, doing) or _in_turn(plan, shares, most, doing)


def _whole(plan: StagePlan, devices: int, most: int, doing: Phase) -> StageCost | None:
    """All micro-batches of all steps; None if they are too many."""
    tally = Tally(plan, devices)
    alone = tally.parts == 1
    if not alone and tally.parts * tally.turns * most > _WHOLE_PARTS:
        return None
    steps = 0
    while steps < most and tally.made() < _MOST_CALLS:
        tally.step()
        steps += 1
        doing.advance()
        if not alone and tally.made() / steps * most > _WHOLE_CALLS:
            doing.done = 0
            return None
    return StageCost(steps, tally.calls, tally.backwards, tally.scripts, steps)


def _in_turn(plan: StagePlan, devices: int, most: int, doing: Phase) -> StageCost:
    """One micro-batch of each turn of every step."""
    tally = Tally(plan, devices)
    parts = tally.parts
    stride = next(n for n in range(max(1, round(_STRIDE * parts)), parts + 1) if math.gcd(n, parts) == 1)
    steps = 0
    while steps < most and tally.made() < _MOST_CALLS:
        tally.step(steps * stride % parts)
        steps += 1
        doing.advance()
    return StageCost(steps, tally.calls, tally.backwards, tally.scripts, steps / parts)
