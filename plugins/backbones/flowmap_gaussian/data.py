"""Points from a mixture of Gaussians."""

from __future__ import annotations

import torch
from torch import Tensor

from flowmap.interfaces import Data
from flowmap.interfaces.endless import EndlessPoints
from flowmap.maths.draw import Draw
from flowmap_gaussian.configs import GaussianDataConfig


def gaussian_data(config: GaussianDataConfig) -> Data:
    """An endless source of them."""
    shape, mixture = config.spec().shape, config.mixture
    means, stds = torch.tensor(mixture.means), torch.tensor(mixture.stds)
    edges = torch.tensor(mixture.weights, dtype=torch.float64).cumsum(0)[:-1].float()

    def points(draw: Draw) -> Tensor:
        component = torch.bucketize(draw.uniform("component", shape), edges.to(draw.device))
        return means.to(draw.device)[component] + stds.to(draw.device)[component] * draw.normal("points", shape)

    return EndlessPoints(points)
