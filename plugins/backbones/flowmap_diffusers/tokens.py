"""Images as the tokens of transformers that are given their places: 2 x 2 cells a token, and where each stands.

Nothing here imports torch: what is done is done by the tensors that are given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def packed(x: Tensor) -> Tensor:
    """Cells `[B, C, h, w]` to tokens `[B, h w / 4, 4 C]`, row by row; a channel's 2 x 2 cells stand together."""
    cells = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """The reverse of `packed`, of `height` x `width` tokens."""
    cells = tokens.unflatten(2, (-1, 2, 2)).unflatten(1, (height, width))
    return cells.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def places(like: Tensor, height: int, width: int, axes: int) -> Tensor:
    """Rows, counted on axis 1, and columns, on axis 2, of `height` x `width` tokens: float32 `[h w, axes]`.

    The other axes are 0, as are all of a text's tokens where they have no order of their own. On the device of `like`.
    """
    found = like.new_zeros(height, width, axes).float()
    found[..., 1] += counted(like, height)[:, None]
    found[..., 2] += counted(like, width)
    return found.flatten(0, 1)


def counted(like: Tensor, count: int) -> Tensor:
    """0 to `count` - 1, float32, on the device of `like`."""
    return like.new_ones(count).float().cumsum(0) - 1
