"""Windows of a series: monthly temperatures of the sea, of which the last fifteen years are held out."""

from __future__ import annotations

import csv
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmap.interfaces import Data, Samples
from flowmap.maths.draw import Draw

SPAN = 60  # months: windows of one span overlap, those of two do not
TRAINING = 9  # spans, 1950 to 1994; three more are held out


class SeaSurface(Data):
    def __init__(self, months: int) -> None:
        with files("flowmap_strangers").joinpath("sea_surface.csv").open() as file:
            rows = [[float(value) for value in row[1:]] for row in list(csv.reader(file))[1:]]
        series = torch.tensor(rows).flatten()
        known = series[: TRAINING * SPAN]
        spans = ((series - known.mean()) / known.std())[: len(series) // SPAN * SPAN].unflatten(0, (-1, SPAN))
        windows = spans.unfold(1, months, 1)  # [spans, places, months]
        number, place = torch.meshgrid(*(torch.arange(size) for size in windows.shape[:2]), indexing="ij")
        season = place % 12 // 3
        self._all = Samples(windows.reshape(-1, 1, 1, months), season.flatten(), sources=number.flatten())
        self._training = TRAINING * windows.shape[1]

    def batch(self, draw: Draw) -> Samples:
        x, labels, _ = self._some(torch.tensor(draw.below("window", [self._training] * draw.count)), draw.device)
        return Samples(x, labels, labels)

    def reference(self, split: Literal["train", "held_out"], count: int) -> Samples:
        """As many as there are, or `count`, spread evenly over the split."""
        first, end = (0, self._training) if split == "train" else (self._training, len(self._all.x))
        count = min(count, end - first)
        x, labels, sources = self._some(first + torch.arange(count) * (end - first) // count, torch.device("cpu"))
        return Samples(x, labels, labels, sources=sources)

    def _some(self, rows: Tensor, device: torch.device) -> list[Tensor]:
        assert self._all.labels is not None
        assert self._all.sources is not None
        return [part[rows].to(device) for part in (self._all.x, self._all.labels, self._all.sources)]

    def prompts(self, draw: Draw) -> Any:
        return torch.tensor(draw.below("season", [4] * draw.count), device=draw.device)

    def picture(self, x: Tensor) -> NDArray[np.uint8]:
        """A stripe of eight rows for each signal, a month eight columns: the brighter the warmer."""
        rows = (127.5 * (x[:, 0, 0].clamp(-2, 2) / 2 + 1)).round().to(torch.uint8).cpu().numpy()
        return np.repeat(np.repeat(rows, 8, axis=0), 8, axis=1)[..., None].repeat(3, axis=2)
