"""What networks are: conditions, velocities, flow maps, and the roles they play."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar, final

import torch
from torch import Tensor, nn

from flowmap.maths.path import like

C = TypeVar("C", bound="Cond")


class Cond(ABC):
    """What a network is conditioned on, one row per sample; opaque to everything but its backbone."""

    @abstractmethod
    def take(self: C, index: Tensor) -> C:
        """The rows `index` `[K]` (int64)."""

    @abstractmethod
    def join(self: C, other: C) -> C:
        """The rows of this one, then those of `other`."""


@final
class NoCond(Cond):
    """The condition of an unconditional model."""

    def take(self, index: Tensor) -> NoCond:
        """Nothing to take."""
        return self

    def join(self, other: NoCond) -> NoCond:
        """Nothing to join."""
        return self


class Velocity(ABC):
    """A network that knows the instantaneous velocity dx/dt: a teacher or a critic."""

    @abstractmethod
    def velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The velocity at `x` `[B, F, ...]` and `t` `[B]` or `[B, F]`; the shape of `x`."""

    def passes(self, cond: Cond) -> int:
        """Forward passes that a call under `cond` takes: 1, but of what stands for several networks."""
        return 1


class SeveralNetworks(ABC):
    """A module that stands for several networks, more than one of which may compute in a call."""

    @abstractmethod
    def passes(self, cond: Cond) -> int:
        """How many of them compute in a call under `cond`."""


class FlowMap(Velocity):
    """A network that knows the average velocity u(x, t, r) between two times: a student.

    It defines the flow map X_{t->r}(x) = x - (t - r) u(x, t, r) for r <= t; u(x, t, t) is the velocity
    (docs/derivations.md, eqs. 4 and 5).
    """

    @abstractmethod
    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        """u(x, t, r) for `x` `[B, F, ...]` and `t >= r`, both `[B]` or `[B, F]`; the shape of `x`."""

    @final
    def velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The diagonal u(x, t, t)."""
        return self.mean_velocity(x, t, t, cond)

    @final
    def jump(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        """The flow map X_{t->r}(x), in one network call."""
        return x - like(t - r, x) * self.mean_velocity(x, t, r, cond)


@final
class Role:
    """A named part that a network plays in a stage: student, teacher, critic.

    A role has a network; it is not one. `own` are the parameters that belong to this role alone, by the names
    they have in checkpoints: three roles may be three adapters on one frozen base. `module` is what moves to
    a device, runs under mixed precision and is sharded over several processes: the network computes by calling it.
    `units` are the parts of it that are gathered one at a time when it is sharded (the blocks of a transformer);
    they too must compute by being called. `average` holds the moving average of `own`, where one is kept.
    """

    def __init__(
        self,
        name: str,
        network: Velocity,
        module: nn.Module,
        own: Mapping[str, nn.Parameter],
        units: Sequence[nn.Module] = (),
    ) -> None:
        self.name = name
        self.network = network
        self.module = module
        self.own = dict(own)
        self.units = tuple(units)
        self.average: dict[str, Tensor] = {}

    def freeze(self) -> None:
        """Stop this role's parameters from being trained."""
        for parameter in self.own.values():
            parameter.requires_grad_(False)

    def let_go(self) -> None:
        """Let go of what was gathered of sharded parameters and kept: to be said whenever they are changed.

        It would still be used otherwise.
        """
        # Here, not above: commands that train nothing start sooner without.
        from torch.distributed.fsdp import FSDPModule

        for part in (*self.units, self.module):
            if isinstance(part, FSDPModule):
                part.reshard()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within this context the network computes with the moving average, without gradient.

        The trained values are back when it ends; graphs built before it stay valid.
        """
        before: dict[str, Tensor] = {}
        try:
            self.let_go()
            with torch.no_grad():
                for name, value in self.average.items():
                    before[name] = _exchanged(self.own[name], value.to(self.own[name].dtype))
                yield
        finally:
            self.let_go()
            with torch.no_grad():
                for name, value in before.items():
                    _exchanged(self.own[name], value)


def _exchanged(parameter: nn.Parameter, value: Tensor) -> Tensor:
    """Put `value` in the place of the parameter's data, which is returned."""
    from torch.distributed.tensor import DTensor

    data = parameter.data
    if isinstance(data, DTensor):
        # What is gathered of a sharded parameter is read from the very memory that it was made with.
        mine, given = data.to_local(), value.to_local() if isinstance(value, DTensor) else value
        data = data.clone()
        mine.copy_(given)
    else:
        parameter.data = value
    return data


def as_flow_map(network: Velocity) -> FlowMap:
    """`network` as the two-time network it is; raises TypeError if it is not one."""
    if not isinstance(network, FlowMap):
        raise TypeError(f"{type(network).__name__} has one time only; a flow map is needed")
    return network
