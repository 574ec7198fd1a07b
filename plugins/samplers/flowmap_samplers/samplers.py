"""Steps along a grid of times, with a velocity or with a flow map."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import final

from torch import Tensor

from flowmap.interfaces import Cond, Sampler, Velocity, as_flow_map
from flowmap.maths.draw import Draw
from flowmap.maths.path import noised


def _steps(x: Tensor, times: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The pairs (t, r) of a grid `[N + 1]`, or of a grid for each sample `[N + 1, B]`; both `[B]`."""
    for t, r in itertools.pairwise(times):
        yield t.expand(len(x)), r.expand(len(x))


@final
class Euler(Sampler):
    """x <- x - (t - r) v(x, t), along the ODE (docs/derivations.md, eq. 2)."""

    def order(self) -> int | None:
        """First order."""
        return 1

    def sample(self, network: Velocity, x: Tensor, times: Tensor, cond: Cond, draw: Draw) -> Tensor:
        """See Sampler.sample."""
        for t, r in _steps(x, times):
            x = x - (t[0] - r[0]) * network.velocity(x, t, cond)
        return x


@final
class Heun(Sampler):
    """The explicit trapezoidal rule: the mean of the velocities at both ends of an Euler step.

    (docs/derivations.md, eq. 39)
    """

    def order(self) -> int | None:
        """Second order."""
        return 2

    def sample(self, network: Velocity, x: Tensor, times: Tensor, cond: Cond, draw: Draw) -> Tensor:
        """See Sampler.sample."""
        for t, r in _steps(x, times):
            h = t[0] - r[0]
            first = network.velocity(x, t, cond)
            second = network.velocity(x - h * first, r, cond)
            x = x - 0.5 * h * (first + second)
        return x


@final
class FlowMapEuler(Sampler):
    """x <- X_{t->r}(x) (docs/derivations.md, eq. 4)."""

    def order(self) -> int | None:
        """None: the error is the map's, whatever the grid."""
        return None

    def sample(self, network: Velocity, x: Tensor, times: Tensor, cond: Cond, draw: Draw) -> Tensor:
        """See Sampler.sample; raises TypeError for a network with one time only."""
        flow_map = as_flow_map(network)
        for t, r in _steps(x, times):
            x = flow_map.jump(x, t, r, cond)
        return x


@final
class ConsistencyMultistep(Sampler):
    """x0 <- X_{t->0}(x), then fresh noise up to the next time (consistency models, arXiv 2303.01469, alg. 1).

    (docs/derivations.md, eq. 23)
    """

    def order(self) -> int | None:
        """None: stochastic."""
        return None

    def sample(self, network: Velocity, x: Tensor, times: Tensor, cond: Cond, draw: Draw) -> Tensor:
        """See Sampler.sample; raises TypeError for a network with one time only."""
        flow_map = as_flow_map(network)
        for index, (t, r) in enumerate(_steps(x, times)):
            x0 = flow_map.jump(x, t, r * 0, cond)
            # At r = 0 this is x0 itself, so that the last step adds nothing.
            x = noised(x0, draw.normal(f"renoise-{index}", x.shape[1:]), r)
        return x
