"""Count a stage turn by turn: its own objective, run on networks that compute nothing.

`Tally` makes the roles of the stage from stand-ins (flowmap.planning.stand_ins) and shows them to the objective as the
training loop would. It keeps three things: the calls and samples of each role (a flowmap.training.ledger.Ledger, as in
training), the backwards of each trained role, and the events of each micro-batch in order (flowmap.planning.events).
Who asks it for which steps is flowmap.planning.count, for `flowmap plan`, and flowmap.comparison.budget.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import final

import torch

from flowmap.errors import FlowmapError
from flowmap.interfaces import Batch, Scene, World
from flowmap.maths.draw import Draw
from flowmap.planning.events import Event, EventLog
from flowmap.planning.stand_ins import CountedChunks, StandInCond, stand_in
from flowmap.recipe.layout import StagePlan
from flowmap.training.ledger import Calls, Ledger
from flowmap.training.terms import terms, turns_of

_MOST_NUMBERS = 2**24  # one for every frame of a micro-batch, which the stand-ins compute with


@final
class Tally:
    """Counts the turns of a stage on stand-ins, as the first of `devices` processes; `turns` is how many there are.

    What a turn costs at a step depends on that step alone, so that any may be counted, in any order.
    """

    def __init__(self, plan: StagePlan, devices: int = 1) -> None:
        needed = plan.stage.objective.roles()
        trained = {name for name, spec in needed.items() if spec.trained}
        self._events = EventLog()
        roles = [stand_in(name, spec.kind, self._events, spec.trained) for name, spec in needed.items()]
        ledger = Ledger()
        self._roles = ledger.watch(roles, trained)
        self._turns = turns_of(plan.stage.objective, plan.stage.objective.build())
        backbone = plan.recipe.backbone.build(plan.recipe.data.spec())
        self._chunking, self._frames = CountedChunks(backbone.chunking()), backbone.latent_shape()[0]
        self._micro = plan.recipe.compute.micro_batch or plan.stage.batch // devices
        if self._micro * self._frames > _MOST_NUMBERS:
            raise FlowmapError(
                f"stage '{plan.stage.name}': {self._micro:,} samples at a time x {self._frames:,} frames (batch or "
                f"compute.micro_batch, and data) cannot be counted; at most {_MOST_NUMBERS:,} frames are: lower "
                "compute.micro_batch"
            )
        self._plan, self._devices, self._next = plan, devices, 0
        self.turns, self.parts = len(self._turns), plan.stage.batch // devices // self._micro
        """Turns of a step, and micro-batches of each."""
        self.calls: Mapping[str, Calls] = ledger.calls
        self.backwards = dict.fromkeys((turn.role for turn in self._turns), 0)
        self.scripts: Counter[tuple[Event, ...]] = Counter()

    def step(self, part: int | None = None) -> None:
        """Count the next step, or one micro-batch of each of its turns."""
        for index in range(self.turns):
            if self.takes(index, self._next):
                self.take(index, self._next, part)
        self._next += 1

    def made(self) -> int:
        """How many calls have been counted."""
        return sum(calls.grad + calls.no_grad for calls in self.calls.values())

    def takes(self, index: int, step: int) -> bool:
        """Whether the turn is taken at `step`."""
        return self._turns[index].taken(step)

    def take(self, index: int, step: int, part: int | None = None) -> None:
        """Count one turn at `step`, or the micro-batch `part` of it."""
        plan, turn = self._plan, self._turns[index]
        group = plan.stage.objective.group()
        whole = Draw.whole(plan.seed, plan.stage.name, step, f"{index}-{turn.role}", plan.stage.batch, group=group)
        world = World()
        draws = whole.split(self._devices, 0, self._micro)
        for draw in draws if part is None else draws[part : part + 1]:
            batch = Batch(torch.zeros(draw.count, self._frames, 1), StandInCond(), StandInCond())
            scene = Scene(self._roles, batch, draw, self._chunking, world)
            for loss in terms(plan.stage.objective, turn, scene):
                loss.value.backward()
                self.backwards[turn.role] += 1
            self.scripts[self._events.take()] += 1
