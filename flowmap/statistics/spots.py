"""What was scored: rows, and their scores over training seeds and draws of noise. Torch-free."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, final

from flowmap.schema.words import Better
from flowmap.statistics.sense import reached


class Row(NamedTuple):
    """One line of a figure: a contestant's weights under a sampler."""

    contestant: str
    sampler: str


@final
@dataclass(frozen=True)
class Spot:
    """The scores of a row at a number of calls by a metric: `values` per training seed, one for each draw of noise.

    `floors` are what a perfect model scores, per seed: ceilings where higher is better.
    """

    values: Mapping[int, tuple[float, ...]]
    floors: Mapping[int, float]
    better: Better = "lower"

    @property
    def means(self) -> dict[int, float]:
        """The mean score of each seed."""
        return {seed: mean_of(values) for seed, values in self.values.items()}

    @property
    def mean(self) -> float:
        """Over seeds and draws."""
        return mean_of(self.means.values())

    @property
    def floor(self) -> float:
        """Over seeds."""
        return mean_of(self.floors.values())

    @property
    def finite(self) -> bool:
        """Whether every score is a number."""
        return all(math.isfinite(value) for values in self.values.values() for value in values)

    @property
    def at_floor(self) -> bool:
        """Whether a perfect model would score no better."""
        return reached(self.mean, self.floor, self.better)

    @property
    def over_seeds(self) -> float:
        """Standard deviation of the seeds' means; NaN for one seed."""
        return spread_of(list(self.means.values()))

    @property
    def over_noise(self) -> float:
        """Standard deviation over draws of noise, within a seed."""
        within = [spread_of(values) ** 2 for values in self.values.values()]
        return math.sqrt(mean_of(within)) if within else math.nan

    @property
    def spread(self) -> float:
        """Standard deviation of a single score of a new training: over seeds and over noise together.

        The seeds' means have 1/K of the noise in them already, K draws each.
        """
        if math.isnan(self.over_seeds):
            return self.over_noise
        draws = min(len(values) for values in self.values.values())
        return math.sqrt(self.over_seeds**2 + self.over_noise**2 * (1 - 1 / draws))


def spot_of(by_seed: Mapping[int, Mapping[str, Any]]) -> Spot:
    """The spot of a row's lines, one for each training seed, at one number of calls by one metric.

    Raises KeyError if a line lacks its values or its floor.
    """
    return Spot(
        {seed: tuple(map(float, line["values"])) for seed, line in by_seed.items()},
        {seed: float(line["floor"]) for seed, line in by_seed.items()},
        next((line["better"] for line in by_seed.values() if "better" in line), "lower"),
    )


def mean_of(values: Iterable[float]) -> float:
    """The mean; with a value that is no finite number NaN, or the infinity if there is but one kind of it."""
    values = list(values)
    odd = {value for value in values if not math.isfinite(value)}
    if not odd:
        return statistics.fmean(values)
    return odd.pop() if len(odd) == 1 else math.nan


def spread_of(values: Iterable[float]) -> float:
    """The sample standard deviation; NaN of fewer than two values, or where one is no finite number."""
    values = list(values)
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return math.nan
    return statistics.stdev(values)
