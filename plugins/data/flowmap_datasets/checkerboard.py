"""The checkerboard: the usual picture of a density with sharp edges."""

from __future__ import annotations

import torch
from torch import Tensor

from flowmap.maths.draw import Draw


def checkerboard(draw: Draw) -> Tensor:
    """`draw.count` new points `[B, 1, 2]`, uniform on the eight dark squares."""
    square = (draw.uniform("square") * 8).long()
    column, row = square // 2, 2 * (square % 2) + (square // 2) % 2
    corner = torch.stack([column, row], dim=1).float() - 2
    return (corner + draw.uniform("inside", (2,)))[:, None]
