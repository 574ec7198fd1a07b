"""Decide what the numbers of a run show, by one stated rule that every claim is put to. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from flowmap.schema.words import Better
from flowmap.statistics import intervals
from flowmap.statistics.effort import Effort, effort_of
from flowmap.statistics.intervals import Difference
from flowmap.statistics.sense import held, lost, reached, sign
from flowmap.statistics.spots import Spot, mean_of, spot_of, spread_of

Verdict = Literal["holds", "fails", "noise"]

MAP, CONSISTENCY, EULER = "flow_map", "consistency", "euler"
HEADLINES = ("frechet_teacher", "fid", "frechet_features", "frechet_pixels")
"""Metrics that come first, the sharpest before the others."""

FEW = 4
"""The few network calls that every claim starts from."""

FEWEST = (1, 2)
"""The network calls at which a stage is to be better than its control."""

FACTOR = 2.0
"""How many times better than the teacher's Euler a student must be."""

NO_WORSE = 1.25
"""Up to how many times its score at few calls a map may score at many and not be called worse.

The consistency sampler scores 1.2 to 4 times as high there on digits, and two seeds of one training differ by about a
quarter: a smaller loss would change nobody's choice of a sampler.
"""

PRICE = 0.25
"""What a stage may lose at many calls, as a share of what it gains at the fewest."""

SAME_COMPUTE = 0.01
"""The relative difference up to which two costs are called as much compute."""

RULE = (
    f"{intervals.RULE} Draws of noise are taken in pairs where both had the same noise; else the interval is Welch's. "
    "Each sentence is put to an interval of 95 % of its own. What is called better or worse differs; what is called so "
    "many times better is so in the whole interval. A map does not get worse where the whole interval is below "
    f"{NO_WORSE:g}, or where both are at the floor; it does where they differ. A stage loses nothing to its control "
    "where it is not worse, and where what it may have lost (by the upper end of the interval) is at most a quarter of "
    "what it gains at the fewest calls. Otherwise nothing can be seen: that is noise."
)


class Series(NamedTuple):
    """One line of a figure: which weights of which stage, under which sampler."""

    stage: str
    weights: str
    sampler: str

    @property
    def name(self) -> str:
        """The stage, and its weights if they are not the moving average that is usually evaluated."""
        return self.stage if self.weights == "ema" else f"{self.stage} ({self.weights} weights)"


class Place(NamedTuple):
    """Where a cell stands: its series, its metric, and the network calls a sample took."""

    series: Series
    metric: str
    calls: int


@dataclass(frozen=True)
class Cell:
    """One score over all training seeds, in the metric's own unit.

    `value` and `redraw` (the standard deviation over fresh noise) are means over seeds, `between` is the
    standard deviation over seeds (None for one seed), `floor` what a perfect model scores, `spot` the single scores.
    """

    value: float
    redraw: float
    between: float | None
    floor: float
    seeds: tuple[int, ...]
    spot: Spot

    @property
    def spread(self) -> float:
        """What is shown after ±: over seeds if there are several, else over fresh noise."""
        return self.redraw if self.between is None else self.between

    @property
    def raised(self) -> float:
        """The value raised to the floor, or lowered to the ceiling; what is no finite number is the worst there is."""
        return held(self.value, self.floor, self.better)

    @property
    def better(self) -> Better:
        """Which scores are the better ones."""
        return self.spot.better

    @property
    def at_floor(self) -> bool:
        """Whether a perfect model would score no better."""
        return reached(self.value, self.floor, self.better)


def cells(lines: Iterable[Mapping[str, Any]]) -> dict[Place, Cell]:
    """Gather the lines of `metrics.jsonl` by place, over training seeds, in the order they first appear.

    Of two lines for one place and seed the later counts. Raises KeyError if a line lacks a field.
    """
    found: dict[Place, dict[int, Mapping[str, Any]]] = {}
    for line in lines:
        series = Series(line["stage"], line["weights"], line["sampler"])
        found.setdefault(Place(series, line["metric"], int(line["nfe"])), {})[int(line["seed"])] = line
    return {place: _cell(by_seed) for place, by_seed in found.items()}


def _cell(by_seed: Mapping[int, Mapping[str, Any]]) -> Cell:
    seeds = tuple(sorted(by_seed))
    values = [float(by_seed[seed]["value"]) for seed in seeds]
    return Cell(
        value=mean_of(values),
        redraw=mean_of(float(by_seed[seed]["spread"]) for seed in seeds),
        between=spread_of(values) if len(values) > 1 else None,
        floor=mean_of(float(by_seed[seed]["floor"]) for seed in seeds),
        seeds=seeds,
        spot=spot_of({seed: by_seed[seed] for seed in seeds}),
    )


def no_worse(found: Difference) -> Verdict:
    """Whether a score has not become worse, by its `Difference` to the earlier one: seen to be so, up to `NO_WORSE`."""
    if found.verdict == "worse":
        return "fails"
    return "holds" if found.high <= NO_WORSE or _perfect(found) else "noise"


def _perfect(found: Difference) -> bool:
    """Whether both are at the floor, and the later one no further above it than the margin, noise included."""
    return found.both_at_floor and found.over_floor <= NO_WORSE


def beats(found: Difference, factor: float) -> Verdict:
    """Whether a score is more than `factor` times better than another, by its `Difference` to that one."""
    if found.high < 1 / factor:
        return "holds"
    return "fails" if found.both_at_floor or found.low > 1 / factor else "noise"


def costs_nothing(gain: tuple[Cell, Cell], gained: Difference, many: tuple[Cell, Cell], change: Difference) -> Verdict:
    """Whether what is gained at the fewest calls costs nothing at `many`; each pair is the control and the stage.

    It fails where the stage is worse beyond noise. It holds only where noise can hide no more than the share `PRICE`
    of a gain that is itself beyond noise: what cannot be seen is no result.
    """
    if change.verdict == "worse":
        return "fails"
    if gained.verdict != "better":
        return "noise"
    if _perfect(change):
        return "holds"
    (control, stage), better = gain, gain[0].better
    hidden = lost(many[0].raised, change.high, better)
    return "holds" if hidden <= PRICE * sign(better) * (control.raised - stage.raised) else "noise"


def ordered_metrics(found: Iterable[Place]) -> list[str]:
    """The metrics, headlines first, the others as they appear."""
    names = list(dict.fromkeys(place.metric for place in found))
    return [m for m in HEADLINES if m in names] + [m for m in names if m not in HEADLINES]


def headlines(metrics: Sequence[str]) -> list[str]:
    """The metrics that claims are first put to: the headlines among `metrics`, or all of them if there are none."""
    return [metric for metric in HEADLINES if metric in metrics] or list(metrics)


def directions(table: Mapping[Place, Cell]) -> dict[str, Better]:
    """Which scores are the better ones, by metric."""
    return {place.metric: cell.better for place, cell in table.items()}


def best(table: Mapping[Place, Cell], metric: str) -> set[Place]:
    """The places of `metric` that score best at their number of calls; those at the floor share it."""
    mine = {place: cell for place, cell in table.items() if place.metric == metric}
    finite = {place: sign(cell.better) * cell.raised for place, cell in mine.items() if math.isfinite(cell.value)}
    least = {calls: min(bad for place, bad in finite.items() if place.calls == calls) for _, _, calls in finite}
    return {place for place, bad in finite.items() if bad == least[place.calls]}


def efforts(lines: Iterable[Mapping[str, Any]]) -> dict[tuple[Series, int], Effort]:
    """What one sample took, by series and calls asked for; nothing if all took as many passes as were asked for."""
    found = {
        (Series(line["stage"], line["weights"], line["sampler"]), line["nfe"]): effort
        for line in lines
        if (effort := effort_of(line)) is not None
    }
    return found if any(effort.passes != calls for (_, calls), effort in found.items()) else {}
