"""What a stage minimises, and what an objective sees of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from flowmap.interfaces.chunks import Chunking
from flowmap.interfaces.networks import FlowMap, Role, Velocity, as_flow_map
from flowmap.interfaces.samples import Batch
from flowmap.maths.draw import Draw
from flowmap.schema.words import FrameView


@final
@dataclass(frozen=True)
class Loss:
    """One term of a turn.

    `value` is a scalar to differentiate, a mean over the scene's samples; `raw` are detached numbers to log beside
    it, such as each branch's loss before weights and rebalancing: scalars, or one number for each sample that has
    one `[k]` (there may be none), of which the mean over all processes is logged. Names are the same in all processes.
    """

    branch: str
    value: Tensor
    raw: Mapping[str, Tensor] = field(default_factory=dict)


@final
class World:
    """All samples of a turn's global batch, shared by `processes`, as an objective sees them that is shown a part.

    The processes are those of torch's `group` (None: all there are).
    """

    def __init__(self, processes: int = 1, group: Any = None) -> None:
        self._processes, self._group = processes, group
        self._so_far: dict[str, Tensor] = {}

    def total(self, name: str, value: Tensor) -> Tensor:
        """The sum of `value` over all processes and over the micro-batches of this turn so far, without gradient.

        Every process must ask in every micro-batch, by the same `name`.
        """
        value = value.detach().clone()
        if self._processes > 1:
            torch.distributed.all_reduce(value, group=self._group)
        if name in self._so_far:
            value += self._so_far[name]
        self._so_far[name] = value
        return value


@final
@dataclass(frozen=True)
class Scene:
    """All that an objective sees in one turn of one step: all or, where gradients are accumulated, one micro-batch.

    All processes must call the same networks in the same order, because the networks may be sharded over them. What
    depends on single samples can ask `draw.peers` what the other processes hold.
    """

    roles: Mapping[str, Role]
    batch: Batch
    draw: Draw
    chunking: Chunking
    world: World

    def forced(self) -> Batch:
        """The teacher-forced view of the batch, through this turn's window."""
        window = self.chunking.window(self.batch.x0.shape[1], self.draw.child("context"))
        return self.chunking.forced(self.batch, window)

    def seen(self, view: FrameView) -> Batch:
        """The batch as `view` shows it to a causal model: teacher-forced, or all frames as one chunk."""
        return self.forced() if view == "forced" else self.chunking.whole(self.batch)

    def velocity(self, role: str) -> Velocity:
        """The network of `role`."""
        return self.roles[role].network

    def flow_map(self, role: str) -> FlowMap:
        """The two-time network of `role`; raises TypeError if it has one time only."""
        return as_flow_map(self.roles[role].network)


Taken = Callable[[int], bool]
"""Whether a turn is taken at a step, counted from 0: the same answer whenever it is asked, in all processes."""


def always(step: int) -> bool:
    """A turn of every step."""
    return True


def every(number: int) -> Taken:
    """A turn of every `number`-th step, from the first on."""
    return lambda step: step % number == 0


@final
@dataclass(frozen=True)
class Turn:
    """One optimiser update within a step.

    `losses` yields the turn's terms one by one; the loop differentiates each before asking for the next, so
    that no two graphs are alive at once. The turn is taken at the steps of which `taken` says so.
    """

    role: str
    losses: Callable[[Scene], Iterator[Loss]]
    taken: Taken = always


class Objective(ABC):
    """What a stage minimises.

    It computes in float32 or wider: networks alone run under mixed precision, and what they give is float32.
    """

    @abstractmethod
    def turns(self) -> tuple[Turn, ...]:
        """The updates of one step, in order."""


class StudentObjective(Objective):
    """An objective that trains the student alone, once at every step."""

    @abstractmethod
    def losses(self, scene: Scene) -> Iterator[Loss]:
        """The terms of the student's update, one by one (see Turn)."""

    @final
    def turns(self) -> tuple[Turn, ...]:
        """One update of the student."""
        return (Turn("student", self.losses),)
