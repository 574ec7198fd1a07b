"""Waves of three shapes, any number of them."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmap.interfaces import Data, Samples
from flowmap.maths.draw import Draw


class Waves(Data):
    def __init__(self, length: int) -> None:
        self._places = torch.arange(length) / length

    def batch(self, draw: Draw) -> Samples:
        labels = torch.tensor(draw.below("shape", [3] * draw.count), device=draw.device)
        turn = (2 * self._places.to(draw.device) + draw.uniform("phase", (1,))) % 1
        sine = (2 * math.pi * turn).sin()
        kinds = torch.stack([sine, sine.sign(), 2 * turn - 1], dim=1)
        return Samples(kinds[torch.arange(draw.count), labels][:, None, None], labels, labels)

    def reference(self, split: Literal["train", "held_out"], count: int) -> Samples:
        return self.batch(Draw.whole(0, "waves", 0, split, min(count, 4096)))

    def prompts(self, draw: Draw) -> Any:
        return torch.tensor(draw.below("asked", [3] * draw.count), device=draw.device)

    def picture(self, x: Tensor) -> NDArray[np.uint8]:
        """A row of 32 pixels for each signal, its columns as bright as it is high."""
        rows = (127.5 * (x[:, 0, 0].clamp(-1, 1) + 1)).round().to(torch.uint8).cpu().numpy()
        return np.repeat(np.repeat(rows, 32, axis=0), 8, axis=1)[..., None].repeat(3, axis=2)
