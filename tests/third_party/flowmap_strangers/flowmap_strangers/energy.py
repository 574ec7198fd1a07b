"""An objective over sets: what a student makes of a group of samples, against other real samples of the group."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from flowmap.interfaces import Loss, Scene, StudentObjective
from flowmap.maths.pairs import draw_pairs
from flowmap.maths.path import noised
from flowmap.schema.settings import BranchesConfig, uniform_times


class Energy(StudentObjective):
    """The mean over groups of 2 E|X - Y| - E|X - X'|, over different samples, X = X_{t->r}(x_t), Y on the
    path at r; t, r one for a group.

    It compares what is made of a group as a whole, whatever each was asked to be.
    """

    def __init__(self, samples: int) -> None:
        self._samples = samples

    def losses(self, scene: Scene) -> Iterator[Loss]:
        draw, batch, size = scene.draw, scene.batch, self._samples
        pairs = draw_pairs(draw.groups(size), BranchesConfig(diffusion=0.0), uniform_times())
        x = noised(batch.x0, draw.normal("noise", batch.x0.shape[1:]), pairs.t)
        y = noised(batch.x0, draw.normal("other noise", batch.x0.shape[1:]), pairs.r)
        made = scene.flow_map("student").jump(x, pairs.t, pairs.r, batch.cond)
        of_groups = energy(*(part.flatten(1).unflatten(0, (-1, size)) for part in (made, y)))
        yield Loss("energy", of_groups.mean(), {"energy": of_groups.detach()})


def energy(x: Tensor, y: Tensor) -> Tensor:
    """Of samples `x` and `y` `[G, m, D]` the energy distance of each group `[G]`, without the part of y alone.

    Of different samples only: x_i and y_i have one origin, and x_i is no distance from itself. With these pairs the
    least distance would be that of samples which are too close together.
    """
    apart = ((x[:, :, None] - x[:, None]).square().sum(-1) + 1e-6).sqrt()
    return 2 * _of_others(torch.cdist(x, y)) - _of_others(apart)


def _of_others(table: Tensor) -> Tensor:
    """The mean of `[G, m, m]` beside the diagonal `[G]`."""
    m = table.shape[1]
    return (table.sum((1, 2)) - table.diagonal(dim1=1, dim2=2).sum(1)) / (m * (m - 1))
