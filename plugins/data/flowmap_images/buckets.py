"""Buckets of aspect ratio: the sizes that pictures come to where they are not all cropped to one. Torch-free.

NovelAI's way (2022), with the sizes of kohya's sd-scripts: sides are multiples of a step, no size has more pixels than
the base, none a side longer than a limit, and a picture goes to the size whose aspect is nearest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

Size = tuple[int, int]
"""Height and width."""


def longest_by_default(height: int, width: int) -> int:
    """Twice the side of a square of as many pixels: aspects up to 4 : 1, as usual (256 to 1024 for 512 x 512)."""
    return 2 * math.isqrt(height * width)


def bucket_sizes(height: int, width: int, step: int, longest: int) -> list[Size]:
    """The sizes of at most `height` x `width` pixels with sides in multiples of `step` up to `longest`, by aspect.

    For each side the other is as long as it may be. No side is shorter than the one beside which `longest` has as many
    pixels: beyond that sizes would only be smaller. `height` x `width` itself is among them, whatever its sides are.
    """
    found, pixels = {(height, width)}, height * width
    shortest = max(pixels // longest // step, 1) * step
    for side in range(shortest, longest + 1, step):
        other = min(pixels // side, longest) // step * step
        if other >= shortest:
            found |= {(side, other), (other, side)}
    return sorted(found, key=lambda size: (size[0] / size[1], size))


def nearest(sizes: Iterable[Size], height: float, width: float) -> Size:
    """Which of the `sizes` is nearest in aspect to a picture of this size, by ratio; of several the largest."""
    return min(
        sizes, key=lambda size: (round(abs(math.log(size[0] * width / (size[1] * height))), 9), -math.prod(size))
    )
