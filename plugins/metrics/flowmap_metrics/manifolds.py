"""Precision and recall by balls around samples that reach to their nearest neighbours (arXiv 1904.06991)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor

from flowmap.interfaces import Features
from flowmap_metrics.in_parts import InParts
from flowmap_metrics.parts import Vectors

_ROWS = 2048  # of distances at a time


def share_inside(x: Tensor, around: Tensor, neighbours: int) -> float:
    """The share of the rows of `x` `[M, D]` within the ball of any row of `around` `[N, D]`.

    The ball of a row reaches to the `neighbours`th nearest of the other rows, its border included. NaN if a number is
    not finite.
    """
    if not (bool(x.isfinite().all()) and bool(around.isfinite().all())):
        return float("nan")
    k = min(neighbours, len(around) - 1) + 1  # a row is the nearest to itself
    reach = torch.cat([distances.kthvalue(k, dim=1).values for distances in _distances(around, around)])
    inside = [(distances <= reach).any(dim=1) for distances in _distances(x, around)]
    return float(torch.cat(inside).double().mean())


def _distances(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    for part in x.split(_ROWS):
        yield torch.cdist(part, y)


@final
class ManifoldShare(InParts):
    """Precision: the share of samples among the real ones; or recall: that of real ones among the samples."""

    def __init__(self, features: Features, target: Tensor, perfect: Tensor, neighbours: int, recall: bool) -> None:
        super().__init__(features, perfect)
        self._neighbours, self._recall = neighbours, recall
        self._target = torch.from_numpy(self.vectors(target))

    def number(self, vectors: Vectors) -> float:
        """See InParts."""
        samples, real = torch.from_numpy(vectors), self._target
        x, around = (real, samples) if self._recall else (samples, real)
        return share_inside(x, around, self._neighbours)
