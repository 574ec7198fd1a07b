"""Rotary position embedding of Wan2.1, in complex64, or compiled in float32.

diffusers rotates in complex128, which a GPU does slowly. The same in real float32 takes six passes where a complex
product takes one: on a CPU 3 to 8 times as long, for the same result to the bit. Compiled they are one pass, and
complex products none: compilers do without. Positions are (frame, row, column);
of each head's dimensions, the first part turns with the frame and two sixths each with the row and the column (as in
Wan2.1).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from flowmap.maths.devices import sent

Positions = tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]
"""Frames, rows and columns of a box of tokens."""

Turn = Tensor
"""What each token's pairs are turned by: cosine and sine of the angle, float32 `[L, head_dim / 2, 2]`."""


def box(first: int, frames: int, rows: int, columns: int, coarse: tuple[int, int] = (1, 1)) -> Positions:
    """The positions of `frames` x `rows` x `columns` tokens, from frame `first` on.

    A token that stands for `coarse` rows and columns of fine tokens has their mean position.
    """
    down, across = coarse
    return (
        tuple(float(first + i) for i in range(frames)),
        tuple(down * i + (down - 1) / 2 for i in range(rows)),
        tuple(across * i + (across - 1) / 2 for i in range(columns)),
    )


@lru_cache(maxsize=256)
def turn(positions: Positions, head_dim: int, device: torch.device, theta: float = 10000.0) -> Turn:
    """The rotation of every token of a box, frames outermost."""
    side = 2 * (head_dim // 6)
    parts = []
    shape = [len(axis) for axis in positions]
    for axis, (places, dim) in enumerate(zip(positions, (head_dim - 2 * side, side, side), strict=True)):
        frequencies = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        angles = torch.outer(torch.tensor(places, dtype=torch.float64), frequencies)
        view = [1, 1, 1]
        view[axis] = len(places)
        parts.append(angles.reshape(*view, -1).expand(*shape, -1))
    whole = torch.cat(parts, dim=-1).flatten(0, 2)
    return sent(torch.stack([whole.cos(), whole.sin()], dim=-1).float(), device)


def joined(turns: list[Turn]) -> Turn:
    """The rotations of boxes of tokens that stand one after the other."""
    return turns[0] if len(turns) == 1 else torch.cat(turns)


def rotated(x: Tensor, by: Turn) -> Tensor:
    """`x` `[B, heads, L, head_dim]`, each pair of neighbouring dimensions turned; float32."""
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        (a, b), (cos, sin) = pairs.unbind(-1), by.unbind(-1)
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)
    return torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(by)).flatten(-2)
