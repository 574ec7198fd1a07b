"""Count what a stage will cost before it starts: its own objective, run on stand-in networks.

Every draw is known beforehand (flowmap.maths.draw), so the stand-ins are called exactly as the real networks will
be, and the counts are those of the ledger.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from flowmap.errors import FlowmapError
from flowmap.interfaces import Batch, Chunking, Cond, FlowMap, Role, Scene, Velocity, Window, World
from flowmap.maths.draw import Draw
from flowmap.phases import phase
from flowmap.plugin.footprint import CallShape, View
from flowmap.recipe.layout import StagePlan
from flowmap.schema.words import NetworkKind
from flowmap.training.ledger import Calls, Ledger

_MOST_STEPS = 256
_MOST_NUMBERS = 2**24  # one for every frame of a micro-batch, which the stand-ins compute with
_MOST_CALLS = 500_000  # of stand-ins, after which no further step is counted: 256 steps of a causal model have 350,000


@final
@dataclass(frozen=True)
class Call:
    """One network call: of which role, how it looks, with how many samples, and whether it keeps a graph."""

    role: str
    shape: CallShape
    samples: int
    gradient: bool


Event = Call | int
"""A call; or the place among the events of the call whose graph is given up now, by its backward."""


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


@final
class Tally:
    """Counts the turns of a stage on stand-ins, as the first of `devices` processes; `turns` is how many there are.

    What a turn costs at a step depends on that step alone, so that any may be counted, in any order.
    """

    def __init__(self, plan: StagePlan, devices: int = 1) -> None:
        needed = plan.stage.objective.roles()
        trained = {name for name, spec in needed.items() if spec.trained}
        self._script = _Script()
        roles = [_stand_in(name, spec.kind, self._script, spec.trained) for name, spec in needed.items()]
        ledger = Ledger()
        self._roles = ledger.watch(roles, trained)
        self._turns = plan.stage.objective.build().turns()
        backbone = plan.recipe.backbone.build(plan.recipe.data.spec())
        self._chunking, self._frames = _CountedChunks(backbone.chunking()), backbone.latent_shape()[0]
        self._micro = plan.recipe.compute.micro_batch or plan.stage.batch // devices
        if self._micro * self._frames > _MOST_NUMBERS:
            raise FlowmapError(
                f"stage '{plan.stage.name}': {self._micro:,} samples at a time x {self._frames:,} frames (batch or "
                f"compute.micro_batch, and data) cannot be counted; at most {_MOST_NUMBERS:,} frames are: lower "
                "compute.micro_batch"
            )
        self._plan, self._devices, self._next = plan, devices, 0
        self.turns = len(self._turns)
        self.calls: Mapping[str, Calls] = ledger.calls
        self.backwards = dict.fromkeys((turn.role for turn in self._turns), 0)
        self.scripts: Counter[tuple[Event, ...]] = Counter()

    def step(self) -> None:
        """Count the next step."""
        for index in range(self.turns):
            if self.takes(index, self._next):
                self.take(index, self._next)
        self._next += 1

    def made(self) -> int:
        """How many calls have been counted."""
        return sum(calls.grad + calls.no_grad for calls in self.calls.values())

    def takes(self, index: int, step: int) -> bool:
        """Whether the turn is taken at `step`."""
        return self._turns[index].taken(step)

    def take(self, index: int, step: int) -> None:
        """Count one turn at `step`."""
        plan, turn = self._plan, self._turns[index]
        whole = Draw.whole(plan.seed, plan.stage.name, step, f"{index}-{turn.role}", plan.stage.batch)
        world = World()
        for draw in whole.split(self._devices, 0, self._micro):
            batch = Batch(torch.zeros(draw.count, self._frames, 1), _StandInCond(), _StandInCond())
            for loss in turn.losses(Scene(self._roles, batch, draw, self._chunking, world)):
                loss.value.backward()
                self.backwards[turn.role] += 1
            self.scripts[self._script.take()] += 1


@final
class _Script:
    """Writes down what happens."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def call(self, call: Call) -> int:
        self._events.append(call)
        return len(self._events) - 1

    def graph(self, place: int) -> _Graph:
        """What stands for the graph of the call at `place`, and is noted when it is given up."""
        graph = _Graph()
        weakref.finalize(graph, self._events.append, place)
        return graph

    def take(self) -> tuple[Event, ...]:
        """What was written since the last `take`."""
        events, self._events = tuple(self._events), []
        return events


@final
class _Graph:
    """Lives as long as what autograd keeps of a call."""


@final
@dataclass(frozen=True)
class _StandInCond(Cond):
    """How the frames stand that a network is called with; the same for all rows."""

    view: View = "whole"
    start: int = 0

    def take(self, index: Tensor) -> _StandInCond:
        """The same."""
        return self

    def join(self, other: _StandInCond) -> _StandInCond:
        """The same."""
        return self


def _seen(cond: Cond) -> _StandInCond:
    assert isinstance(cond, _StandInCond)
    return cond


@final
class _CountedChunks(Chunking):
    """The chunks of `real`, for stand-ins: what is remembered is nothing, but costs its network call."""

    def __init__(self, real: Chunking) -> None:
        self._real = real

    def sizes(self, frames: int, given: int = 0) -> tuple[int, ...]:
        return self._real.sizes(frames, given)

    def window(self, frames: int, draw: Draw) -> Window:
        return self._real.window(frames, draw)

    def forced(self, batch: Batch, window: Window) -> Batch:
        cond = _StandInCond("forced", window.start)
        return Batch(batch.x0[:, window.start : window.stop], cond, cond)

    def whole(self, batch: Batch) -> Batch:
        return batch

    def unchunked(self) -> _CountedChunks:
        return _CountedChunks(self._real.unchunked())

    def given(self, network: Velocity, cond: Cond, frames: Tensor) -> Cond:
        return self._read(network, 0, frames)

    def remember(self, network: Velocity, cond: Cond, chunk: Tensor) -> Cond:
        seen = _seen(cond)
        return self._read(network, seen.start if seen.view == "following" else 0, chunk)

    def _read(self, network: Velocity, start: int, frames: Tensor) -> Cond:
        network.velocity(frames, torch.zeros(len(frames)), _StandInCond("reading", start))
        return _StandInCond("following", start + frames.shape[1])


def _stand_in(name: str, kind: NetworkKind, script: _Script, trained: bool) -> Role:
    module = _Scale(name, script, trained)
    network = _StandInFlowMap(module) if kind == "flow_map" else _StandInVelocity(module)
    role = Role(name, network, module, dict(module.named_parameters()))
    role.average = {"scale": torch.zeros(())}
    if not trained:
        role.freeze()
    return role


@final
class _Scale(nn.Module):
    def __init__(self, role: str, script: _Script, trained: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))
        self._role, self._script, self._trained = role, script, trained

    def forward(self, x: Tensor, cond: Cond) -> Tensor:
        seen = _seen(cond)
        gradient = torch.is_grad_enabled() and (self._trained or x.requires_grad)
        shape = CallShape(seen.view, x.shape[1], seen.start)
        place = self._script.call(Call(self._role, shape, len(x), gradient))
        if not gradient:
            return self.scale * x
        graph = self._script.graph(place)
        # What autograd keeps of this product it keeps for as long as a network's whole graph.
        with torch.autograd.graph.saved_tensors_hooks(lambda kept: (kept, graph), lambda kept: kept[0]):
            return self.scale * x


@final
class _StandInVelocity(Velocity):
    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        result: Tensor = self._module(x, cond)
        return result


@final
class _StandInFlowMap(FlowMap):
    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        result: Tensor = self._module(x, cond)
        return result
