"""Networks that compute nothing and tell who called them: roles of a stage that is only counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from flowmap.interfaces import Batch, Cond, FlowMap, LaidOutAs, Role, Velocity, Window
from flowmap.planning.events import Call, EventLog
from flowmap.plugin.footprint import CallShape, View
from flowmap.schema.words import NetworkKind


@final
@dataclass(frozen=True)
class StandInCond(Cond):
    """How the frames stand that a network is called with; the same for all rows."""

    view: View = "whole"
    start: int = 0

    def take(self, index: Tensor) -> StandInCond:
        """The same."""
        return self

    def join(self, other: StandInCond) -> StandInCond:
        """The same."""
        return self


def _seen(cond: Cond) -> StandInCond:
    assert isinstance(cond, StandInCond)
    return cond


@final
class CountedChunks(LaidOutAs):
    """The chunks of `inner`, for stand-ins: what is remembered is nothing, but costs its network call."""

    def forced(self, batch: Batch, window: Window) -> Batch:
        """The frames of the window, and how they stand."""
        cond = StandInCond("forced", window.start)
        return Batch(batch.x0[:, window.start : window.stop], cond, cond)

    def whole(self, batch: Batch) -> Batch:
        """The batch as it is."""
        return batch

    def unchunked(self) -> CountedChunks:
        """For all frames as one chunk."""
        return CountedChunks(self._inner.unchunked())

    def given(self, network: Velocity, cond: Cond, frames: Tensor) -> Cond:
        """One call, which reads the frames."""
        return self._read(network, 0, frames)

    def remember(self, network: Velocity, cond: Cond, chunk: Tensor) -> Cond:
        """One call, which reads the chunk."""
        seen = _seen(cond)
        return self._read(network, seen.start if seen.view == "following" else 0, chunk)

    def _read(self, network: Velocity, start: int, frames: Tensor) -> Cond:
        network.velocity(frames, torch.zeros(len(frames)), StandInCond("reading", start))
        return StandInCond("following", start + frames.shape[1])


def stand_in(name: str, kind: NetworkKind, events: EventLog, trained: bool) -> Role:
    """A role of one number, whose calls are noted in `events`."""
    module = _Scale(name, events, trained)
    network = _StandInFlowMap(module) if kind == "flow_map" else _StandInVelocity(module)
    role = Role(name, network, module, dict(module.named_parameters()))
    role.average = {"scale": torch.zeros(())}
    if not trained:
        role.freeze()
    return role


@final
class _Scale(nn.Module):
    def __init__(self, role: str, events: EventLog, trained: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))
        self._role, self._events, self._trained = role, events, trained

    def forward(self, x: Tensor, cond: Cond) -> Tensor:
        seen = _seen(cond)
        gradient = torch.is_grad_enabled() and (self._trained or x.requires_grad)
        shape = CallShape(seen.view, x.shape[1], seen.start)
        place = self._events.call(Call(self._role, shape, len(x), gradient))
        if not gradient:
            return self.scale * x
        graph = self._events.graph(place)
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
