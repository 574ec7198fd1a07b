"""Gamma-sampling (align your flow, arXiv 2506.14603; consistency trajectory models, 2310.02279).

From t towards r the map goes too far, to s = (1 - gamma) r, and fresh noise brings the point back up to r. On the path
x_t = (1 - t) x0 + t e that is

    x_r = a X_{t->s}(x_t) + sqrt(r^2 - a^2 s^2) e',  a = (1 - r) / (1 - s):

a turns the share 1 - s of the data in x_s into 1 - r, what noise x_s has becomes a s, and the variances of independent
noises add up to r^2. So for the exact map every x_r has the right distribution, whatever gamma
(docs/derivations.md, eq. 22). gamma = 0 is the sampler `flow_map`, gamma = 1 (s = 0, a = 1 - r) the sampler
`consistency`.

The convention is that gamma is linear in time. In consistency trajectory models, on the path x0 + sigma e, it is
sigma_s = sqrt(1 - gamma^2) sigma_r; both agree at the ends and name the same family of samplers.
"""

from __future__ import annotations

import itertools
from typing import final

from torch import Tensor

from flowmap.interfaces import Cond, Sampler, Velocity, as_flow_map
from flowmap.maths.draw import Draw
from flowmap.maths.path import like


@final
class Gamma(Sampler):
    """See the module."""

    def __init__(self, gamma: float) -> None:
        self._gamma = gamma

    def order(self) -> int | None:
        """None: it follows the map, and is stochastic."""
        return None

    def sample(self, network: Velocity, x: Tensor, times: Tensor, cond: Cond, draw: Draw) -> Tensor:
        """See Sampler.sample; raises TypeError for a network with one time only."""
        flow_map = as_flow_map(network)
        for index, (t, r) in enumerate(itertools.pairwise(times)):
            s = (1 - self._gamma) * r
            x = flow_map.jump(x, t.expand(len(x)), s.expand(len(x)), cond)
            # r < 1, as times fall. At r = 0, and with gamma = 0, no noise is added.
            keep = (1 - r) / (1 - s)
            added = (r**2 - (keep * s) ** 2).clamp(min=0).sqrt()
            noise = draw.normal(f"renoise-{index}", x.shape[1:])
            x = like(keep.expand(len(x)), x) * x + like(added.expand(len(x)), x) * noise
        return x
