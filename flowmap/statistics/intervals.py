"""Differences of contestants with intervals that hold together, and what they allow to be said. Torch-free."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal, final

from flowmap.schema.words import Better
from flowmap.statistics.quantiles import shortfall, student, studentized_range
from flowmap.statistics.sense import how_bad, sign
from flowmap.statistics.spots import Row, Spot

Verdict = Literal["better", "worse", "same"]

RULE = (
    "Two rows are compared by the differences of the logarithms of their scores (the spread of a distance grows with "
    "it), shown as a ratio with an interval; a mean below the floor, the score of a perfect model, is raised to it. "
    "Where higher is better, that score is a ceiling, to which a mean above it is lowered, and a ratio says how many "
    "times as low: above 1 is worse by any metric. "
    "With several training seeds the differences are of one number per seed (the mean over its draws of noise). With "
    "a single seed they are of draws of noise alone, and say nothing about what another training would give. "
    "Two rows differ where the interval excludes a ratio of 1."
)
"""What every page says of a difference."""

CORRECTION = (
    "The intervals of all pairs at a number of calls hold together: if no row differed from any other, anything said "
    "there (a rank, a best, a difference) would be false in at most the stated share of cases, however many rows there "
    "are. An interval is wide enough for the range of so many rows, by a variance that is two parts the pair's own and "
    "one part that of all pairs, and never narrower than the pair's own interval of Student's t at half of the error. "
    "Rows with the same scores count as one."
)
"""What a page of several rows says besides."""

LENT = 0.5
"""What the variance of all pairs counts where the pair's own counts 1: three seeds alone would see hardly anything.

That of all pairs is their mean standard deviation, squared: a wild row adds less to it than to the mean variance.
`docs/power.py` measures what is false and what is seen.
"""

KEPT = 0.85
"""The share of the error that intervals of three and more rows are made for: the rest is for very unequal spreads."""

MOST_SEEDS = 30
"""How many more seeds are worth naming."""

_LEAST = 1e-3
"""Scores are raised to this share of the floor: none is 0 or below, and nothing so small means anything."""


@final
@dataclass(frozen=True)
class Difference:
    """How many times as bad `a` is as `b` (as high, or where higher is better as low), with the ends of its interval.

    `mean` is the mean difference in the metric's own unit; `over` says what the interval is over: training seeds, or
    draws of noise where there is one seed only, `count` of them. `over_floor` is the upper end of how many times as
    bad as the floor `a` is, where both are at the floor. `more` is how many further seeds would exclude 1, if
    ratio and spread are as they look (`MOST_SEEDS` + 1: more than that many); None where it is decided, or not known.
    """

    mean: float
    ratio: float
    low: float
    high: float
    count: int
    over: Literal["seeds", "noise"]
    both_at_floor: bool = False
    over_floor: float = math.inf
    more: int | None = None

    @property
    def by_two_seeds(self) -> bool:
        """Whether two training seeds are all there is: how far two numbers are apart hardly says how wide to be."""
        return self.over == "seeds" and self.count == 2

    @property
    def verdict(self) -> Verdict:
        """Of `a`, against `b`."""
        if self.both_at_floor or not (self.low > 1 or self.high < 1):
            return "same"
        return "worse" if self.low > 1 else "better"


@final
class Round:
    """The rows that were scored by one metric at one number of calls: every statement about them, corrected for all."""

    def __init__(self, spots: Mapping[Row, Spot], confidence: float = 0.95) -> None:
        """Every pair is compared over the seeds that both have; over draws of noise if no pair has two in common."""
        self.spots, self.confidence = spots, confidence
        finite = {row: spot for row, spot in spots.items() if any(map(math.isfinite, spot.means.values()))}
        distinct = {tuple(sorted(spot.values.items())): row for row, spot in reversed(finite.items())}.values()
        self.count = len(distinct)
        shared = [len(spots[a].values.keys() & spots[b].values.keys()) for a, b in combinations(spots, 2)]
        self.over: Literal["seeds", "noise"] = "noise" if max(shared, default=0) == 1 else "seeds"
        pairs = [_logs(spots[a], spots[b], self.over) for a, b in combinations(distinct, 2)]
        known = [[x - y for x, y in pair] for pair in pairs if len(pair) > 1 and _all_finite(pair)]
        freedom = sum(len(values) - 1 for values in known)
        total = sum((len(values) - 1) * statistics.stdev(values) / shortfall(len(values)) for values in known)
        self._usual = total / freedom if freedom else math.inf  # nothing is known, so nothing is said
        self._found: dict[tuple[Row, Row], Difference] = {}

    @property
    def pairs(self) -> int:
        """How many pairs the statements are corrected for."""
        return math.comb(self.count, 2)

    def difference(self, one: Row, other: Row) -> Difference:
        """`one` against `other`; from 0 to infinity where they have not two numbers in common."""
        if (one, other) not in self._found:
            self._found[one, other] = self._difference(self.spots[one], self.spots[other])
        return self._found[one, other]

    def _difference(self, a: Spot, b: Spot) -> Difference:
        seeds = sorted(a.values.keys() & b.values.keys())
        mine, theirs = ([value for seed in seeds for value in spot.values[seed]] for spot in (a, b))
        if not all(map(math.isfinite, [*mine, *theirs])):
            return _of_not_finite(mine, theirs, self.over, a.better)
        logs = _logs(a, b, self.over)
        mean = statistics.fmean(mine) - statistics.fmean(theirs) if seeds else a.mean - b.mean
        low = a.at_floor and b.at_floor
        over_floor = self._over(a, [x for x, _ in logs]) if low and len(logs) > 1 else math.inf
        found = Difference(mean, math.nan, 0.0, math.inf, len(logs), self.over, low, over_floor)
        if not logs:
            return found
        centre = _centre(a, b, logs)
        alone = statistics.variance([x - y for x, y in logs]) if len(logs) > 1 else math.inf
        if math.isinf(alone) or (len(logs) == 2 and not alone and centre):
            # Two numbers that differ by the same may well do so by chance: scores of few values often do.
            return replace(found, ratio=_exp(centre))
        half = 0.0 if a.values == b.values else self._half(len(logs), alone)
        found = replace(found, ratio=_exp(centre), low=_exp(centre - half), high=_exp(centre + half))
        undecided = found.over == "seeds" and found.verdict == "same" and not found.both_at_floor
        return replace(found, more=self._more(len(logs), alone, abs(centre))) if undecided else found

    def _over(self, spot: Spot, logs: Sequence[float]) -> float:
        """The upper end of how many times as bad as the floor the scores with the logarithms `logs` are."""
        half = student(0.5 + self.confidence / 2, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
        return _exp(statistics.fmean(logs) - how_bad(spot.floor, 1e-12, spot.better) + half)

    def _half(self, count: int, alone: float) -> float:
        """Half of an interval over `count` seeds, for a pair whose differences have the variance `alone`."""
        error = 1 - self.confidence
        if self.count < 3:
            return student(1 - error / 2, count - 1) * math.sqrt(alone / count)
        error *= KEPT
        least = student(1 - error / 4, count - 1) * math.sqrt(alone / count)
        variance = (alone + LENT * self._usual**2) / (1 + LENT)
        spread = studentized_range(1 - error, self.count, (1 + LENT) * (count - 1)) / math.sqrt(2)
        return max(least, spread * math.sqrt(variance / count))

    def _more(self, count: int, alone: float, distance: float) -> int:
        low, high = 0, MOST_SEEDS + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._half(count + middle, alone) < distance else (middle, high)
        return high

    def ranks(self) -> dict[Row, int]:
        """1 + the number of rows that are better beyond doubt: rows that cannot be told apart may share a rank."""
        return {
            row: 1 + sum(self.difference(other, row).verdict == "better" for other in self.spots if other != row)
            for row in self.spots
        }

    def leaders(self) -> tuple[Row, list[Row]]:
        """The best row, and the others, best first, that are not seen to be worse.

        Of the rows that none is better than, the best has the best geometric mean over seeds: it is of that mean that
        differences are.
        """
        placed = self.ranks()
        order = sorted(self.spots, key=lambda row: (placed[row] > 1, _level(self.spots[row]), row))
        return order[0], [row for row in order[1:] if self.difference(row, order[0]).verdict != "worse"]


def difference(a: Spot, b: Spot, confidence: float = 0.95, common_noise: bool = True) -> Difference:
    """Two alone, which need no correction.

    Draws of noise (with one seed) are paired where they are common to both; else the interval is Welch's.
    """
    one, other = Row("a", ""), Row("b", "")
    found = Round({one: a, other: b}, confidence).difference(one, other)
    if common_noise or found.over == "seeds" or found.count < 2 or not (a.finite and b.finite):
        return found
    logs = _logs(a, b, "noise")
    errors = [statistics.variance(values) / len(logs) for values in zip(*logs, strict=True)]
    if not any(errors):
        return found
    freedom = sum(errors) ** 2 * (len(logs) - 1) / sum(error**2 for error in errors)
    half, centre = student(0.5 + confidence / 2, freedom) * math.sqrt(sum(errors)), _centre(a, b, logs)
    return replace(found, low=_exp(centre - half), high=_exp(centre + half))


def _logs(a: Spot, b: Spot, over: Literal["seeds", "noise"]) -> list[tuple[float, float]]:
    """How bad both are, as logarithms, for each seed (or draw of noise of the one seed) that both have."""
    seeds = sorted(a.values.keys() & b.values.keys())
    if not seeds:
        return []
    pairs = [(a.means[seed], b.means[seed]) for seed in seeds]
    if over == "noise":
        pairs = list(zip(a.values[seeds[0]], b.values[seeds[0]], strict=False))
    least = _floor(a, b, _LEAST)
    return [(how_bad(x, least, a.better), how_bad(y, least, a.better)) for x, y in pairs]


def _centre(a: Spot, b: Spot, logs: Sequence[tuple[float, float]]) -> float:
    """The mean difference of `logs`, both means raised to the floor (the ceiling, of how good they are)."""
    floor = sign(a.better) * math.log(_floor(a, b))
    mine, theirs = (max(statistics.fmean(values), floor) for values in zip(*logs, strict=True))
    return mine - theirs


def _floor(a: Spot, b: Spot, share: float = 1.0) -> float:
    """A share of the floor of the seeds that both have; above 0."""
    floors = [spot.floors[seed] for spot in (a, b) for seed in a.values.keys() & b.values.keys()]
    return max(share * statistics.fmean(floors), 1e-12)


def _of_not_finite(
    mine: Sequence[float], theirs: Sequence[float], over: Literal["seeds", "noise"], better: Better
) -> Difference:
    """A score that is no number is the worst there is; two of them cannot be told apart."""
    bad = [not all(map(math.isfinite, values)) for values in (mine, theirs)]
    if all(bad):
        return Difference(math.nan, math.nan, 0.0, math.inf, len(mine), over)
    mean, ratio = (sign(better) * math.inf, math.inf) if bad[0] else (-sign(better) * math.inf, 0.0)
    return Difference(mean, ratio, ratio, ratio, len(mine), over)


def _exp(value: float) -> float:
    """exp, which Python refuses for what has no finite one."""
    return math.exp(min(value, 700.0))


def _all_finite(pairs: Sequence[tuple[float, float]]) -> bool:
    return all(math.isfinite(value) for pair in pairs for value in pair)


def _level(spot: Spot) -> float:
    """How bad a row is: the mean logarithm over seeds; infinite if a score is no number."""
    if not spot.finite:
        return math.inf
    return statistics.fmean(how_bad(x, max(_LEAST * spot.floor, 1e-12), spot.better) for x in spot.means.values())
