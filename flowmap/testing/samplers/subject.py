"""A sampler under examination."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

from torch import Tensor

from flowmap.interfaces import Cond, NoCond, Sampler
from flowmap.maths.draw import Draw
from flowmap.plugin.kinds import SamplerConfig
from flowmap.testing.closed_form import Field, network
from flowmap.testing.contract import build_quietly
from flowmap.testing.examination import Subject

SHAPES = ((1, 2), (3, 2, 4, 4))
"""Points and videos."""


class SamplerSubject(Subject):
    """The sampler that `config` builds."""

    kind: ClassVar[str] = "sampler"
    config: SamplerConfig

    def found(self, name: str) -> bool:
        """See Subject.found."""
        return False

    @cached_property
    def sampler(self) -> Sampler:
        """What the configuration builds."""
        return build_quietly(self.config, self.config.build)

    def run(self, x: Tensor, times: Tensor, draw: Draw, field: Field | None = None, cond: Cond | None = None) -> Tensor:
        """Where the exact network, or `field`, carries x under `cond` (no condition, if not given)."""
        asked = network(self.config.network, field or Field())
        return self.sampler.sample(asked, x, times, cond or NoCond(), draw)
