"""The simplest features: the samples themselves."""

from __future__ import annotations

from typing import final

from torch import Tensor

from flowmap.interfaces import Features


@final
class Pixels(Features):
    """The raw numbers."""

    def of(self, samples: Tensor) -> Tensor:
        """All numbers of each sample, one after the other."""
        return samples.flatten(1)
