"""Weights for FID's Inception network that are nobody's, and whose features tell images apart."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from flowmap_metrics.inception import Inception
from torch import Tensor


def inception_shapes() -> dict[str, tuple[int, ...]]:
    """Of all its weights, without the counters that not all files have."""
    with torch.device("meta"):
        made = Inception().state_dict()
    return {name: tuple(value.shape) for name, value in made.items() if not name.endswith("num_batches_tracked")}


def seeded(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights that depend on nothing but their names' order, so large that features of two images differ."""
    state = {}
    for number, (name, shape) in enumerate(sorted(shapes.items())):
        uniform = np.random.default_rng(number).random(shape, dtype=np.float32)
        if name.endswith("running_var"):
            value = 0.5 + uniform
        elif name.endswith("bn.weight"):
            value = 0.8 + 0.4 * uniform
        elif uniform.ndim > 1:
            value = (uniform - 0.5) * np.float32(2 * (6 / np.prod(shape[1:])) ** 0.5)
        else:
            value = 0.4 * (uniform - 0.5)
        state[name] = torch.from_numpy(value.astype(np.float32))
    return state
