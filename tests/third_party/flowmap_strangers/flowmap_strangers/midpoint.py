"""A sampler: the midpoint rule."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from flowmap.interfaces import Cond, Sampler, Velocity
from flowmap.maths.draw import Draw


class Midpoint(Sampler):
    def order(self) -> int | None:
        return 2

    def sample(self, network: Velocity, x: Tensor, times: Tensor, cond: Cond, draw: Draw) -> Tensor:
        for t, r in pairwise(times):
            half = x - 0.5 * (t - r) * network.velocity(x, t.expand(len(x)), cond)
            x = x - (t - r) * network.velocity(half, (0.5 * (t + r)).expand(len(x)), cond)
        return x
