"""Which way the scores of a metric are better, and all that follows from it: asked here and nowhere else. Torch-free.

What a perfect model scores is a floor where lower is better, and a ceiling where higher is. Scores of a metric that is
better when higher are 0 or above.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from flowmap.schema.words import Better


def sign(better: Better) -> int:
    """What a score is multiplied by so that less of it is better."""
    return 1 if better == "lower" else -1


def bound_word(better: Better) -> str:
    """What the score of a perfect model is called."""
    return "floor" if better == "lower" else "ceiling"


def reached(value: float, bound: float, better: Better) -> bool:
    """Whether a perfect model, which scores `bound`, would score no better than `value`."""
    return sign(better) * value <= sign(better) * bound


def held(value: float, bound: float, better: Better) -> float:
    """`value` raised to the floor, or lowered to the ceiling; what is no finite number is the worst there is."""
    if not math.isfinite(value):
        return math.inf if better == "lower" else 0.0
    return max(value, bound) if better == "lower" else min(value, bound)


def how_bad(value: float, least: float, better: Better) -> float:
    """How bad a score is: the logarithm of `value` raised to `least`, or less that; what is no number stays so."""
    return sign(better) * math.log(max(value, least)) if math.isfinite(value) else value


def times_better(after: float, before: float, better: Better) -> float:
    """How many times better `after` is than `before`; both are held to what a perfect model scores."""
    worse, good = (before, after) if better == "lower" else (after, before)
    if math.isinf(good):
        return 0.0
    if good <= 0:
        return math.inf if worse > 0 else 1.0
    return worse / good


def lost(before: float, times: float, better: Better) -> float:
    """What of a score `before` is lost by one that is `times` as bad, in the metric's own unit."""
    return before * (times - 1) if better == "lower" else before * (1 - 1 / times)


def direction(metrics: Mapping[str, Better]) -> str:
    """Say of several metrics which way each is better."""
    higher = [metric for metric, better in metrics.items() if better == "higher"]
    if not higher:
        return "Lower is better"
    if len(higher) == len(metrics):
        return "Higher is better"
    named = " and ".join([", ".join(higher[:-1]), higher[-1]][len(higher) == 1 :])
    return f"Lower is better, and higher by {named}"
