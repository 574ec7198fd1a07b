"""How samples are divided, so that a score and its floor are of equally many samples, and the floor's are unseen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmap.interfaces import Samples

Vectors = NDArray[np.float64]

FLOOR_PARTS = 8
"""Parts that a floor is the mean of, at most: there may be a thousand, each for the price of a score."""


def in_parts(distance: Callable[[Vectors], float], vectors: Vectors, size: int, most: int | None = None) -> float:
    """The mean `distance` of parts (`most` of them, or all) of `size` of the `vectors` `[N, D]`; of all N, if fewer.

    A distance between sets shrinks as the sets grow, so only distances of equally many samples can be compared.
    """
    chosen = islice(parts(len(vectors), min(size, len(vectors))), most)
    return fmean(distance(vectors[rows]) for rows in chosen)


def parts(count: int, size: int) -> Iterator[NDArray[np.int64]]:
    """As few parts of `size` rows each (1 to `count`) as together have all `count` rows.

    The parts are disjoint where `size` divides `count`, and overlap by as little as possible elsewhere. Each is a draw
    without replacement, since rows may stand in the order of their classes; the same at every call.
    """
    order = np.random.default_rng(0).permutation(count)
    number = -(-count // size)
    for first in np.linspace(0, count - size, number).round().astype(np.int64):
        yield np.sort(order[first : first + size])


def halves(samples: Samples) -> tuple[Samples, Samples]:
    """Two halves of labelled `samples`, with as many of each class as far as possible: one to learn from, one unseen.

    Samples of one source go to one half. The halves are the same at every call. Raises ValueError without labels.
    """
    if samples.labels is None:
        raise ValueError("classifier features need labelled samples")
    labels = samples.labels.cpu().numpy()
    sources = np.arange(len(labels)) if samples.sources is None else samples.sources.cpu().numpy()
    _, first, source = np.unique(sources, return_index=True, return_inverse=True)
    # In the order of their classes, every second source is learned from.
    in_order = np.argsort(labels[first], kind="stable")
    learned = np.zeros(len(first), dtype=bool)
    learned[in_order[::2]] = True
    rows = torch.from_numpy(learned[source])
    return _chosen(samples, rows), _chosen(samples, ~rows)


def _chosen(samples: Samples, rows: Tensor) -> Samples:
    assert samples.labels is not None
    return Samples(samples.x[rows.to(samples.x.device)], samples.labels[rows.to(samples.labels.device)])
