"""How many samples a network is called with at a time where nothing is graded and everything is wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence

_MOST_TOGETHER = 2048
_NUMBERS_TOGETHER = 2**19


def together(shape: Sequence[int]) -> int:
    """Of samples of `shape` `(F, ...)`: one of a video, thousands of points."""
    return min(_MOST_TOGETHER, max(1, _NUMBERS_TOGETHER // math.prod(shape)))
