"""What a sampler is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from flowmap.interfaces.networks import Cond, Velocity
from flowmap.maths.draw import Draw


class Sampler(ABC):
    """From noise to samples (or from any time to any other) along a grid of times."""

    @abstractmethod
    def order(self) -> int | None:
        """Order of convergence to the network's own ODE as the grid is refined; None if it has none.

        A flow-map sampler follows the map, whose error does not depend on the grid: None.
        """

    @abstractmethod
    def sample(self, network: Velocity, x: Tensor, times: Tensor, cond: Cond, draw: Draw) -> Tensor:
        """Carry `x` `[B, F, ...]` from `times[0]` to `times[-1]`.

        `times` `[N + 1]` is decreasing, in [0, 1]. The network is called for each sample under its own row of `cond`,
        every time: guidance is the network's affair. Gradients flow if they are enabled. Stochastic samplers
        take their noise from `draw`. The samplers of flow maps also take times `[N + 1, B]`, not
        increasing, of each sample's own.
        """
