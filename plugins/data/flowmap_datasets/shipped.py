"""Real grey images that a package ships, all in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import Tensor

from flowmap.interfaces import Data, EncodedText, Samples
from flowmap.maths.draw import Draw
from flowmap.video.pictures import tiles

CLASSES = 10
"""Digits."""


@final
class ShippedImages(Data):
    """Images `pixels` `[N, 1, 1, H, W]` in [-1, 1] with `labels` `[N]`, of which the share `held_out` is kept.

    `asked` makes prompts of labels. A sheet shows at most `most` of them, enlarged `scale` times.
    """

    def __init__(
        self, pixels: Tensor, labels: Tensor, held_out: float, asked: Callable[[Tensor], Any], scale: int, most: int
    ) -> None:
        rows, told = np.arange(len(pixels)), labels.numpy()
        # Each class in proportion.
        train, kept = train_test_split(rows, test_size=held_out, random_state=0, stratify=told)
        self._splits = {name: (pixels[i], labels[i]) for name, i in (("train", train), ("held_out", kept))}
        self._asked, self._scale, self._most = asked, scale, most

    def batch(self, draw: Draw) -> Samples:
        """`draw.count` training images `[B, 1, 1, H, W]`, drawn with replacement."""
        pixels, labels = self._splits["train"]
        rows = torch.tensor(draw.below("rows", [len(pixels)] * draw.count), dtype=torch.long)
        return self._samples(pixels[rows].to(draw.device), labels[rows].to(draw.device))

    def reference(self, split: Literal["train", "held_out"], count: int) -> Samples:
        """The first `count` images of the split, with their labels."""
        pixels, labels = self._splits[split]
        return self._samples(pixels[:count], labels[:count])

    def prompts(self, draw: Draw) -> Any:
        """Uniform classes as prompts; None without a condition."""
        drawn = draw.below("labels", [CLASSES] * draw.count)
        return self._asked(torch.tensor(drawn, dtype=torch.long, device=draw.device))

    def picture(self, x: Tensor) -> NDArray[np.uint8]:
        """A sheet of images, dark ink on white."""
        return tiles(1 - (x[: self._most].flatten(0, 2).cpu().numpy() + 1) / 2, scale=self._scale)

    def _samples(self, x: Tensor, labels: Tensor) -> Samples:
        prompts = self._asked(labels)
        return Samples(x, labels, prompts, encoded=isinstance(prompts, EncodedText))
