"""Count what a step costs: network calls with and without gradient, samples through them, backwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd import forward_ad

from flowmap.interfaces import Cond, FlowMap, Role, Velocity, as_flow_map


@dataclass
class Calls:
    """Calls of one role's network; a call of a batch of B counts B samples.

    A forward-mode derivative (jvp) carries a second pass along with the first: it counts as two calls.
    """

    grad: int = 0
    no_grad: int = 0
    grad_samples: int = 0
    no_grad_samples: int = 0

    def add(self, samples: int, with_gradient: bool, passes: int = 1) -> None:
        """Count a call of so many passes."""
        if with_gradient:
            self.grad += passes
            self.grad_samples += passes * samples
        else:
            self.no_grad += passes
            self.no_grad_samples += passes * samples


@final
class Ledger:
    """Counts the calls of the roles' networks and the backward passes."""

    def __init__(self) -> None:
        self.calls: dict[str, Calls] = {}
        self.backwards = 0
        self._counting = True

    def watch(self, roles: Iterable[Role], trained: Iterable[str]) -> dict[str, Role]:
        """The same roles, with networks that count their calls here."""
        trained = set(trained)
        watched: dict[str, Role] = {}
        for role in roles:
            calls = self.calls[role.name] = Calls()
            network = counted(role.network, partial(self._count, calls), role.name in trained)
            twin = Role(role.name, network, role.module, role.own, role.units)
            twin.average = role.average
            watched[role.name] = twin
        return watched

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Within this context calls are made and not counted: they look at the training and are no part of it."""
        before, self._counting = self._counting, False
        try:
            yield
        finally:
            self._counting = before

    def _count(self, calls: Calls, x: Tensor, cond: Cond, with_gradient: bool, passes: int) -> None:
        if self._counting:
            calls.add(len(x), with_gradient, passes)

    def take(self) -> dict[str, Any]:
        """What was counted since the last `take`."""
        counted = {
            "calls": {name: asdict(calls) for name, calls in self.calls.items()},
            "backwards": self.backwards,
        }
        for calls in self.calls.values():
            calls.__init__()  # type: ignore[misc]
        self.backwards = 0
        return counted


Count = Callable[[Tensor, Cond, bool, int], None]
"""Is told of a call: its `x` `[B, F, ...]`, its condition, whether it has a gradient, its passes."""


def counted(network: Velocity, count: Count, trained: bool = False) -> Velocity:
    """The same network, of the same kind, which tells `count` of every call before it is made."""
    wrap = _CountedFlowMap if isinstance(network, FlowMap) else _CountedVelocity
    return wrap(network, count, trained)


def _with_gradient(x: Tensor, trained: bool) -> bool:
    return torch.is_grad_enabled() and (trained or x.requires_grad)


def _passes(*inputs: Tensor) -> int:
    """2 where an input carries a tangent."""
    return 2 if any(forward_ad.unpack_dual(x).tangent is not None for x in inputs) else 1


@final
class _CountedVelocity(Velocity):
    def __init__(self, network: Velocity, count: Count, trained: bool) -> None:
        self._network, self._count, self._trained = network, count, trained

    def velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        self._count(x, cond, _with_gradient(x, self._trained), _passes(x, t))
        return self._network.velocity(x, t, cond)


@final
class _CountedFlowMap(FlowMap):
    def __init__(self, network: Velocity, count: Count, trained: bool) -> None:
        self._network, self._count, self._trained = as_flow_map(network), count, trained

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        self._count(x, cond, _with_gradient(x, self._trained), _passes(x, t, r))
        return self._network.mean_velocity(x, t, r, cond)
