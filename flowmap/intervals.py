"""Paired differences with confidence intervals, and what they allow to be said. Torch-free."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple, final

from scipy.stats import t as student_t

Verdict = Literal["better", "worse", "same"]

RULE = (
    "All contestants see the same training draws and, when they are measured, the same noise, so they are compared in "
    "pairs: one number per training seed (the mean over its draws of noise), the difference of the logarithms of both "
    "(the spread of a distance grows with it), and Student's t interval of the mean difference, shown as a ratio. Two "
    "contestants differ where the interval excludes zero (a ratio of 1), and not both are at the floor, the score of a "
    "perfect model. With a single training seed the interval is over draws of noise alone, and says nothing about what "
    "another training would give."
)

_LEAST = 1e-3
"""Scores are raised to this share of the floor: none is 0 or below, and nothing so small means anything."""


class Row(NamedTuple):
    """One line of a figure: a contestant's weights under a sampler."""

    contestant: str
    sampler: str


@final
@dataclass(frozen=True)
class Spot:
    """The scores of a row at a number of calls by a metric: `values` per training seed, one for each draw of noise.

    `floors` are what a perfect model scores, per seed. Lower is better.
    """

    values: Mapping[int, tuple[float, ...]]
    floors: Mapping[int, float]

    @property
    def means(self) -> dict[int, float]:
        """The mean score of each seed."""
        return {seed: statistics.fmean(values) for seed, values in self.values.items()}

    @property
    def mean(self) -> float:
        """Over seeds and draws."""
        return statistics.fmean(self.means.values())

    @property
    def floor(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.floors.values())

    @property
    def at_floor(self) -> bool:
        """Whether a perfect model would score no better."""
        return self.mean <= self.floor

    @property
    def over_seeds(self) -> float:
        """Standard deviation of the seeds' means; NaN for one seed."""
        return _deviation(list(self.means.values()))

    @property
    def over_noise(self) -> float:
        """Standard deviation over draws of noise, within a seed."""
        within = [_deviation(values) ** 2 for values in self.values.values()]
        return math.sqrt(statistics.fmean(within)) if within else math.nan

    @property
    def spread(self) -> float:
        """Standard deviation of a single score of a new training: over seeds and over noise together.

        The seeds' means have 1/K of the noise in them already, K draws each.
        """
        if math.isnan(self.over_seeds):
            return self.over_noise
        draws = min(len(values) for values in self.values.values())
        return math.sqrt(self.over_seeds**2 + self.over_noise**2 * (1 - 1 / draws))


@final
@dataclass(frozen=True)
class Difference:
    """How many times as high `a` scores as `b` (above 1: worse), with the ends of its interval.

    `mean` is the mean difference in the metric's own unit; `over` says what the interval is over: training seeds, or
    draws of noise where there is one seed only, `count` of them.
    """

    mean: float
    ratio: float
    low: float
    high: float
    count: int
    over: Literal["seeds", "noise"]
    both_at_floor: bool = False

    @property
    def verdict(self) -> Verdict:
        """Of `a`, against `b`."""
        if self.both_at_floor or not (self.low > 1 or self.high < 1):
            return "same"
        return "worse" if self.low > 1 else "better"


def difference(a: Spot, b: Spot, confidence: float = 0.95) -> Difference:
    """The paired difference of `a` and `b` over the training seeds that both have.

    Raises ValueError if they have none in common, or if nothing gives a spread: one seed with one draw.
    """
    seeds = sorted(a.values.keys() & b.values.keys())
    if not seeds:
        raise ValueError("the two have no training seed in common")
    over: Literal["seeds", "noise"] = "seeds"
    mine, theirs = ([spot.means[seed] for seed in seeds] for spot in (a, b))
    if len(seeds) == 1:
        over = "noise"
        mine, theirs = list(a.values[seeds[0]]), list(b.values[seeds[0]])
    if not all(map(math.isfinite, [*mine, *theirs])):
        return _of_not_finite(mine, theirs, over)
    least = max(_LEAST * min(a.floor, b.floor), 1e-12)
    pairs = [math.log(max(x, least)) - math.log(max(y, least)) for x, y in zip(mine, theirs, strict=True)]
    low, high = interval(pairs, confidence)
    return Difference(
        mean=statistics.fmean(mine) - statistics.fmean(theirs),
        ratio=_exp(statistics.fmean(pairs)),
        low=_exp(low),
        high=_exp(high),
        count=len(pairs),
        over=over,
        both_at_floor=a.at_floor and b.at_floor,
    )


def _of_not_finite(mine: Sequence[float], theirs: Sequence[float], over: Literal["seeds", "noise"]) -> Difference:
    """A score that is no number is the worst there is; two of them cannot be told apart."""
    bad = [not all(map(math.isfinite, values)) for values in (mine, theirs)]
    if all(bad):
        return Difference(math.nan, math.nan, 0.0, math.inf, len(mine), over)
    mean, ratio = (math.inf, math.inf) if bad[0] else (-math.inf, 0.0)
    return Difference(mean, ratio, ratio, ratio, len(mine), over)


def _exp(value: float) -> float:
    """exp, which Python refuses for what has no finite one."""
    return math.exp(min(value, 700.0))


def interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Student's t interval of the mean of at least two independent `values`; raises ValueError for fewer."""
    if len(values) < 2:
        raise ValueError("an interval needs two values")
    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    half = _quantile(0.5 + confidence / 2, len(values) - 1) * error
    return mean - half, mean + half


@cache
def _quantile(probability: float, freedom: int) -> float:
    return float(student_t.ppf(probability, freedom))


def ranks(spots: Mapping[Row, Spot], confidence: float) -> dict[Row, int]:
    """1 + the number of rows that are better beyond doubt: rows that cannot be told apart may share a rank."""
    return {
        row: 1
        + sum(difference(other, spot, confidence).verdict == "better" for name, other in spots.items() if name != row)
        for row, spot in spots.items()
    }


def leaders(spots: Mapping[Row, Spot], confidence: float) -> tuple[Row, list[Row]]:
    """The row with the lowest mean, and the others, best first, whose difference to it may be nothing."""
    order = sorted(spots, key=lambda row: _sortable(spots[row].mean))
    best = order[0]
    ties = [row for row in order[1:] if difference(spots[row], spots[best], confidence).verdict == "same"]
    return best, ties


def phrase(verdicts: Mapping[int, Verdict]) -> str:
    """Verdicts by number of calls as words: "does not differ at 1 call; worse from 16 on"."""
    groups: list[tuple[Verdict, list[int]]] = []
    for calls in sorted(verdicts):
        if groups and groups[-1][0] == verdicts[calls]:
            groups[-1][1].append(calls)
        else:
            groups.append((verdicts[calls], [calls]))
    words = {"better": "better", "worse": "worse", "same": "does not differ"}
    if len(groups) == 1:
        return f"{words[groups[0][0]]} at any number of calls"
    last = len(groups) - 1
    return "; ".join(
        f"{words[verdict]} {_span(calls, number == last)}" for number, (verdict, calls) in enumerate(groups)
    )


def _span(calls: Sequence[int], to_the_end: bool) -> str:
    if len(calls) == 1:
        return f"at {calls[0]} call{'' if calls[0] == 1 else 's'}"
    if to_the_end:
        return f"from {calls[0]} on"
    return f"at {calls[0]} and {calls[1]} calls" if len(calls) == 2 else f"from {calls[0]} to {calls[-1]} calls"


def _sortable(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _deviation(values: Iterable[float]) -> float:
    values = list(values)
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return math.nan
    return statistics.stdev(values)
