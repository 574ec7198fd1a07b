"""A source of points that never ends, from the way to draw them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flowmap.interfaces.samples import Data, Samples
from flowmap.maths.draw import Draw
from flowmap.video.pictures import scatter


@final
class EndlessPoints(Data):
    """Every draw is new: `points(draw)` makes `draw.count` points `[B, 1, D]`."""

    def __init__(self, points: Callable[[Draw], Tensor]) -> None:
        self._points = points

    def batch(self, draw: Draw) -> Samples:
        """`draw.count` new points."""
        return Samples(self._points(draw))

    def reference(self, split: Literal["train", "held_out"], count: int) -> Samples:
        """`count` points that no training batch contains; the same at every call."""
        return self.batch(Draw.whole(0, "reference", 0, split, count))

    def prompts(self, draw: Draw) -> Any:
        """None: unconditional."""
        return None

    def picture(self, x: Tensor) -> NDArray[np.uint8]:
        """The first two coordinates as a scatter plot."""
        return scatter(x.flatten(1).cpu().numpy())
