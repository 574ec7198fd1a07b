"""Totals from the scores of dimensions, as the leaderboard makes them; none over fewer dimensions than it has.

The leaderboard fills what is missing with 0, whose share of the range is negative, and clips nothing: a score above its
range counts as more than 1. Others clip (AnyFlow's `far/metrics/vbench.py`). Here the first is the total, and the
second is beside it where it differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from flowmap.vbench.dimensions import Dimension, Part, Suite


@final
@dataclass(frozen=True)
class Totals:
    """Shares in [0, 1], but for scores outside of their ranges: of each part, and of all; `clipped` into the ranges."""

    parts: Mapping[Part, float]
    total: float
    clipped: float

    @property
    def clipping_matters(self) -> bool:
        """Whether some score is outside of its range, so that who clips has another total."""
        return self.clipped != self.total


def share(score: float, dimension: Dimension, clip: bool = False) -> float:
    """A raw score as its share of the dimension's range."""
    if clip:
        score = min(max(score, dimension.low), dimension.high)
    return (score - dimension.low) / (dimension.high - dimension.low)


def totals(suite: Suite, scores: Mapping[str, float]) -> Totals | None:
    """The totals of `scores` (raw, by dimension); None if one that counts is missing."""
    if missing(suite, scores):
        return None
    parts, plain = _total(suite, scores, clip=False)
    return Totals(parts, plain, _total(suite, scores, clip=True)[1])


def missing(suite: Suite, scores: Mapping[str, float]) -> list[str]:
    """The dimensions that a total needs and that have no score."""
    return [name for name in suite.counted if name not in scores]


def slope(suite: Suite, name: str) -> float:
    """How much the total grows with the raw score of a dimension: it is linear in each."""
    dimension = suite.dimensions[name]
    return _weight(suite, dimension) / (dimension.high - dimension.low)


def _weight(suite: Suite, dimension: Dimension) -> float:
    """The weight of a dimension in the total; those of all are 1 together."""
    within = sum(each.weight for each in suite.dimensions.values() if each.part == dimension.part)
    return suite.parts[dimension.part] / sum(suite.parts.values()) * dimension.weight / within


def _total(suite: Suite, scores: Mapping[str, float], clip: bool) -> tuple[dict[Part, float], float]:
    parts: dict[Part, float] = {}
    for part in suite.parts:
        counted = {name: d for name, d in suite.dimensions.items() if d.part == part and d.weight}
        weighted = sum(d.weight * share(scores[name], d, clip) for name, d in counted.items())
        parts[part] = weighted / sum(d.weight for d in counted.values())
    whole = sum(suite.parts[part] * value for part, value in parts.items()) / sum(suite.parts.values())
    return parts, whole
