"""How a role calls its module: with times of the form it takes, under the role's own adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor, nn

from flowmap.interfaces import Cond, FlowMap, SeveralNetworks, Velocity
from flowmap.workshop.adapters import Chosen

Times = Literal["sample", "frame", "either"]
"""Which times a module takes: one a sample, one a frame, or whichever it is given."""


@final
@dataclass(frozen=True)
class Call:
    """The one way into a module: with times of the form it takes, under the role that calls."""

    module: nn.Module
    chosen: Chosen
    role: str | None
    times: Times

    def __call__(self, x: Tensor, t: Tensor, r: Tensor | None, cond: Cond) -> Tensor:
        """The velocity in the shape and precision of `x`; `r` is None for one time."""
        with self.chosen.to(self.role):
            velocity: Tensor = self.module(x, self._time(t, x), None if r is None else self._time(r, x), cond)
        return velocity.to(x.dtype)

    def passes(self, cond: Cond) -> int:
        """See Velocity.passes."""
        return self.module.passes(cond) if isinstance(self.module, SeveralNetworks) else 1

    def _time(self, time: Tensor, x: Tensor) -> Tensor:
        if self.times == "frame" and time.ndim == 1:
            return time[:, None].expand(-1, x.shape[1])
        # All frames of a sample have one time where a network knows no other.
        return time[:, 0] if self.times == "sample" and time.ndim == 2 else time


@final
class ModuleVelocity(Velocity):
    """A module of one time, or (`both`) one of two times at r = t."""

    def __init__(self, call: Call, both: bool) -> None:
        self._call, self._both = call, both

    def velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """See Velocity.velocity."""
        return self._call(x, t, t if self._both else None, cond)

    def passes(self, cond: Cond) -> int:
        """See Velocity.passes."""
        return self._call.passes(cond)


@final
class ModuleFlowMap(FlowMap):
    """A module of two times."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        """See FlowMap.mean_velocity."""
        return self._call(x, t, r, cond)

    def passes(self, cond: Cond) -> int:
        """See Velocity.passes."""
        return self._call.passes(cond)
