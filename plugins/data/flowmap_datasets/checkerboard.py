"""The checkerboard: the usual picture of a density with sharp edges."""

from __future__ import annotations

from typing import Any, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmap.interfaces import Data, Samples
from flowmap.maths.draw import Draw
from flowmap.video.pictures import scatter


@final
class Checkerboard(Data):
    """An endless source: every draw is new."""

    def batch(self, draw: Draw) -> Samples:
        """`draw.count` new points `[B, 1, 2]`, uniform on the eight dark squares."""
        square = (draw.uniform("square") * 8).long()
        column, row = square // 2, 2 * (square % 2) + (square // 2) % 2
        corner = torch.stack([column, row], dim=1).float() - 2
        return Samples((corner + draw.uniform("inside", (2,)))[:, None])

    def reference(self, split: Literal["train", "held_out"], count: int) -> Samples:
        """`count` points that no training batch contains; the same at every call."""
        return self.batch(Draw.whole(0, "reference", 0, split, count))

    def prompts(self, draw: Draw) -> Any:
        """None: unconditional."""
        return None

    def picture(self, x: Tensor) -> NDArray[np.uint8]:
        """A scatter plot."""
        return scatter(x.flatten(1).cpu().numpy())
