"""Sliced Wasserstein, semigroup error, distance to the nearest training sample."""

from __future__ import annotations

import math
from typing import final

import ot
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d

from flowmap.interfaces import Evidence, Metric, as_flow_map
from flowmap.maths.path import noised
from flowmap.networks.batches import together
from flowmap_metrics.parts import FLOOR_PARTS, Vectors, in_parts


@final
class SlicedWasserstein(Metric):
    """Sliced Wasserstein-2 distance to `target`; `perfect` are what ideal samples would be.

    With `cells`, all are first averaged down to at most so many frames, rows and columns. The distance of samples of
    the target's own law shrinks with their number, so samples are scored in parts of at most as many as are `perfect`,
    and the floor is of parts of that same size.
    """

    def __init__(self, projections: int, cells: int, target: Tensor, perfect: Tensor) -> None:
        self._projections = projections
        self._cells = cells
        self._target = self._averaged(target)
        self._perfect = self._averaged(perfect)

    def score(self, evidence: Evidence) -> float:
        """The mean distance of parts of the samples, over directions that are the same at every call."""
        return in_parts(self._distance, self._averaged(evidence.samples), len(self._perfect))

    def floor(self, size: int) -> float:
        """The mean distance of some parts of the ideal samples, of `size` (of all there are, if they are fewer)."""
        return in_parts(self._distance, self._perfect, size, FLOOR_PARTS)

    def _distance(self, vectors: Vectors) -> float:
        distance = ot.sliced_wasserstein_distance(vectors, self._target, n_projections=self._projections, seed=0)
        return float(distance)

    def _averaged(self, x: Tensor) -> Vectors:
        """Samples as vectors `[N, D]`."""
        if self._cells and x.ndim == 5:
            size = [min(self._cells, x.shape[axis]) for axis in (1, 3, 4)]
            x = adaptive_avg_pool3d(x.transpose(1, 2), size)
        return x.flatten(1).double().cpu().numpy()


@final
class Semigroup(Metric):
    """How far the map is from one: sqrt(mean |X_{t->r} - X_{s->r}(X_{t->s})|^2) (arXiv 2505.18825)."""

    @torch.no_grad()
    def score(self, evidence: Evidence) -> float:
        """The error over one triple of times and one noise per sample of the batch."""
        network, batch, draw = as_flow_map(evidence.network), evidence.batch, evidence.draw
        if batch is None:
            raise ValueError("this metric probes the network on real data; give it a batch")
        total = 0.0
        for rows in torch.arange(draw.count).split(together(batch.x0.shape[1:])):
            part, x0, cond = draw.part(int(rows[0]), len(rows)), batch.x0[rows], batch.cond.take(rows)
            times = part.uniform("semigroup times", (3,)).sort(dim=1, descending=True).values
            t, s, r = times.unbind(1)
            x_t = noised(x0, part.normal("semigroup noise", x0.shape[1:]), t)
            direct = network.jump(x_t, t, r, cond)
            by_two = network.jump(network.jump(x_t, t, s, cond), s, r, cond)
            total += float((direct - by_two).square().mean()) * len(rows)
        return math.sqrt(total / draw.count)

    def floor(self, size: int) -> float:
        """0: the exact map has no error."""
        return 0.0


@final
class NearestTrain(Metric):
    """Mean Euclidean distance to the nearest of the training samples: on average the same for any number of samples."""

    def __init__(self, train: Tensor, held_out: Tensor) -> None:
        self._train = train.flatten(1)
        self._held_out = held_out

    def score(self, evidence: Evidence) -> float:
        """The mean over the samples."""
        return self._distance(evidence.samples)

    def floor(self, size: int) -> float:
        """The distance of all real held-out samples: a model that copies lies below it."""
        return self._distance(self._held_out)

    def _distance(self, x: Tensor) -> float:
        parts = [torch.cdist(part, self._train).amin(1) for part in x.flatten(1).cpu().split(2048)]
        return float(torch.cat(parts).mean())
