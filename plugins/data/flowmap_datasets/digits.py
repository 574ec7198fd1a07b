"""Scikit-learn's digits: real images that need no download."""

from __future__ import annotations

from typing import Any, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from flowmap.interfaces import Data, Samples
from flowmap.maths.draw import Draw
from flowmap.video.pictures import tiles
from flowmap_datasets.configs import DigitsConfig

CLASSES = 10


@final
class Digits(Data):
    """Two thirds of the images for training, one third held out, each class in proportion."""

    def __init__(self, config: DigitsConfig) -> None:
        images, labels = load_digits(return_X_y=True)
        pixels = torch.from_numpy(images).float().reshape(-1, 1, 1, 8, 8) / 8 - 1
        pixels = pixels.rot90(config.quarter_turns, dims=(3, 4))
        rows = np.arange(len(pixels))
        train, held_out = train_test_split(rows, test_size=1 / 3, random_state=0, stratify=labels)
        self._splits = {
            name: (pixels[index], torch.from_numpy(labels[index]).long())
            for name, index in (("train", train), ("held_out", held_out))
        }
        self._conditional = config.conditional

    def batch(self, draw: Draw) -> Samples:
        """`draw.count` training images `[B, 1, 1, 8, 8]`, drawn with replacement."""
        pixels, labels = self._splits["train"]
        rows = torch.tensor(draw.below("rows", [len(pixels)] * draw.count), dtype=torch.long)
        return self._samples(pixels[rows].to(draw.device), labels[rows].to(draw.device))

    def reference(self, split: Literal["train", "held_out"], count: int) -> Samples:
        """The first `count` images of the split, with their labels."""
        pixels, labels = self._splits[split]
        return self._samples(pixels[:count], labels[:count])

    def prompts(self, draw: Draw) -> Any:
        """Uniform labels `[count]`, or None if unconditional."""
        if not self._conditional:
            return None
        return torch.tensor(draw.below("labels", [CLASSES] * draw.count), dtype=torch.long, device=draw.device)

    def picture(self, x: Tensor) -> NDArray[np.uint8]:
        """A sheet of images, dark ink on white."""
        return tiles(1 - (x.reshape(-1, 8, 8).cpu().numpy() + 1) / 2)

    def _samples(self, x: Tensor, labels: Tensor) -> Samples:
        return Samples(x, labels, labels if self._conditional else None)
