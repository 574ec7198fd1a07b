"""Points from a mixture of Gaussians."""

from __future__ import annotations

from typing import Any, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmap.interfaces import Data, Samples
from flowmap.maths.draw import Draw
from flowmap.video.pictures import scatter
from flowmap_gaussian.configs import GaussianDataConfig


@final
class GaussianData(Data):
    """An endless source: every draw is new."""

    def __init__(self, config: GaussianDataConfig) -> None:
        self._shape = config.spec().shape
        self._means = torch.tensor(config.mixture.means)
        self._stds = torch.tensor(config.mixture.stds)
        self._edges = torch.tensor(config.mixture.weights, dtype=torch.float64).cumsum(0)[:-1].float()

    def batch(self, draw: Draw) -> Samples:
        """`draw.count` new points `[B, 1, D]`."""
        component = torch.bucketize(draw.uniform("component", self._shape), self._edges.to(draw.device))
        means, stds = self._means.to(draw.device), self._stds.to(draw.device)
        return Samples(means[component] + stds[component] * draw.normal("points", self._shape))

    def reference(self, split: Literal["train", "held_out"], count: int) -> Samples:
        """`count` points that no training batch contains; the same at every call."""
        return self.batch(Draw.whole(0, "reference", 0, split, count))

    def prompts(self, draw: Draw) -> Any:
        """None: unconditional."""
        return None

    def picture(self, x: Tensor) -> NDArray[np.uint8]:
        """The first two coordinates as a scatter plot."""
        return scatter(x.flatten(1).cpu().numpy())
