"""A sampler that is asked for samples, and what it may answer."""

from __future__ import annotations

from typing import final

from torch import Tensor

from flowmap.interfaces import Cond, Sampler, Velocity
from flowmap.maths.draw import Draw
from flowmap.plugin.answers import unfit
from flowmap.plugin.catalogue import whose
from flowmap.plugin.kinds import SamplerConfig


@final
class Asked(Sampler):
    """The sampler that `config` makes; raises FlowmapError if its samples have not the shape of their noise."""

    def __init__(self, config: SamplerConfig) -> None:
        self._config, self._sampler = config, config.build()

    def order(self) -> int | None:
        """That of the sampler."""
        return self._sampler.order()

    def sample(self, network: Velocity, x: Tensor, times: Tensor, cond: Cond, draw: Draw) -> Tensor:
        """Its samples, which would otherwise be measured and shown whatever they are."""
        made: object = self._sampler.sample(network, x, times, cond, draw)
        if not isinstance(made, Tensor):
            raise unfit(whose(type(self._config)), "sample() returned", made, "a tensor")
        if made.shape != x.shape:
            wanted = f"that of the noise, {list(x.shape)}"
            raise unfit(whose(type(self._config)), "sample() returned the shape", list(made.shape), wanted)
        return made
