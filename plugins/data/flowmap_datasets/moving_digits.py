"""Scikit-learn's digits, set in motion: videos that need no download."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from flowmap.interfaces import Data, EncodedText, Samples
from flowmap.maths.draw import Draw
from flowmap.video.pictures import tiles
from flowmap_datasets.configs import DigitsConfig, MovingDigitsConfig
from flowmap_datasets.digits import digits
from flowmap_datasets.shipped import CLASSES
from flowmap_datasets.texts import embedded

_SIDE = 8
# A sheet is shown a few centimetres wide: more videos could not be seen.
_ROWS, _COLUMNS = 6, 12


@final
class MovingDigits(Data):
    """An endless source: each draw takes a digit of the split and a velocity."""

    def __init__(self, config: MovingDigitsConfig) -> None:
        self._config = config
        still = digits(DigitsConfig())
        self._splits = {split: still.reference(split, 10**6) for split in ("train", "held_out")}

    def batch(self, draw: Draw) -> Samples:
        """`draw.count` videos `[B, F, 1, H, W]` of training digits; the prompt is the class, already embedded."""
        return self._videos("train", draw)

    def reference(self, split: Literal["train", "held_out"], count: int) -> Samples:
        """`count` videos of the split's digits (many of the same digit), of at most 4096; the same at every call."""
        draw = Draw.whole(0, "reference", 0, split, min(count, 4096))
        return replace(self._videos(split, draw), sources=self._rows(split, draw))

    def prompts(self, draw: Draw) -> Any:
        """Uniform classes, embedded."""
        labels = draw.below("labels", [CLASSES] * draw.count)
        return self._text(torch.tensor(labels, dtype=torch.long, device=draw.device))

    def picture(self, x: Tensor) -> NDArray[np.uint8]:
        """A row of frames for each of the first videos, dark ink on white."""
        videos = x[:_ROWS, :_COLUMNS].cpu()
        frames = 1 - (videos.flatten(0, 1)[:, 0].numpy() + 1) / 2
        return tiles(frames, columns=videos.shape[1], scale=4)

    def _videos(self, split: str, draw: Draw) -> Samples:
        config, source = self._config, self._splits[split]
        rows = self._rows(split, draw)
        room = config.size - _SIDE
        velocity = (2 * draw.uniform("velocity", (2,)).cpu() - 1) * config.speed
        # From the middle: small networks did not learn first frames at any place in minutes.
        line = room / 2 + velocity[:, None] * torch.arange(config.frames)[:, None]
        # A ball between two walls is a triangle wave.
        place = (room - (line % (2 * room) - room).abs()) if room else torch.zeros_like(line)
        # Whole pixels: between them so small a digit would be blurred.
        place = place.round()
        x = _placed(source.x[rows][:, 0], place, config.size)
        labels = None if source.labels is None else source.labels[rows].to(draw.device)
        return Samples(x.to(draw.device), labels, None if labels is None else self._text(labels), encoded=True)

    def _rows(self, split: str, draw: Draw) -> Tensor:
        """Which digits of the split the videos of `draw` show."""
        count = len(self._splits[split].x)
        return torch.tensor(draw.below("rows", [count] * draw.count), dtype=torch.long)

    def _text(self, labels: Tensor) -> EncodedText:
        return embedded(labels, self._config.text_dim)


def _placed(digits: Tensor, place: Tensor, size: int) -> Tensor:
    """Digits `[B, 1, 8, 8]` in frames `[B, F, 1, size, size]` at the upper left corners `place` `[B, F, 2]`."""
    # Pixel p of a frame shows the digit's pixel p - corner; -1 is blank paper.
    pixel = torch.arange(size, dtype=torch.float32)
    down, across = (pixel - place[..., axis, None] for axis in (0, 1))
    grid = torch.stack(torch.broadcast_tensors(across[:, :, None, :], down[:, :, :, None]), dim=-1)
    grid = (2 * grid + 1) / _SIDE - 1
    count, frames = place.shape[:2]
    ink = (digits + 1)[:, None].expand(-1, frames, -1, -1, -1).flatten(0, 1)
    shown = F.grid_sample(ink, grid.flatten(0, 1), mode="nearest", padding_mode="zeros", align_corners=False)
    return shown.unflatten(0, (count, frames)) - 1
