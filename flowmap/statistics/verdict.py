"""Decide what the numbers of a run show, by one stated rule that every claim is put to. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from flowmap.statistics import intervals
from flowmap.statistics.intervals import Difference, difference
from flowmap.statistics.spots import Spot, mean_of, spread_of

Verdict = Literal["holds", "fails", "noise"]

_BETTER: dict[intervals.Verdict, Verdict] = {"better": "holds", "same": "noise", "worse": "fails"}
_WORSE: dict[intervals.Verdict, Verdict] = {"worse": "holds", "same": "noise", "better": "fails"}

MAP, CONSISTENCY, EULER = "flow_map", "consistency", "euler"
HEADLINES = ("frechet_teacher", "frechet_features", "frechet_pixels")
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
    """One score over all training seeds, in the metric's own unit; lower is better.

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
        """The value raised to the floor; a value that is no finite number is the worst there is."""
        return max(self.value, self.floor) if math.isfinite(self.value) else math.inf

    @property
    def at_floor(self) -> bool:
        """Whether a perfect model would score no better."""
        return self.value <= self.floor


@dataclass(frozen=True)
class Control:
    """A contest that names its control: `stage` and `against` under the same `weights`.

    The costs are network-call equivalents in samples over all seeds, of each stage and of what it alone builds on; None
    if that is not known.
    """

    stage: str
    weights: str
    against: str
    cost: int | None = None
    control_cost: int | None = None

    @property
    def compute(self) -> str:
        """The two costs in words: whether they are as much, and what they are; nothing if they are not known."""
        if not self.cost or not self.control_cost:
            return ""
        ratio = self.cost / self.control_cost
        same = abs(ratio - 1) <= SAME_COMPUTE
        much = "as much compute" if same else f"{ratio:.2f} times the compute"
        return f" for {much} ({self.cost:,} against {self.control_cost:,} call equivalents)"


@dataclass(frozen=True)
class Claim:
    """One sentence, what the numbers say about it on one metric, and the two cells it rests on.

    `before` and `after` are compared: few and many calls of one series, or a rival (the teacher, the control) and the
    stage that the sentence is about. `found` is how many times as high `after` scores.
    """

    kind: Literal["map", "consistency", "student", "gain", "price"]
    text: str
    verdict: Verdict
    metric: str
    before: Cell
    after: Cell
    found: Difference

    @property
    def factor(self) -> float:
        """How many times smaller `after` is than `before`, both raised to the floor."""
        return _ratio(self.before.raised, self.after.raised)

    @property
    def versus(self) -> bool:
        """Whether the cells are those of two rivals, not of one series at few and many calls."""
        return self.kind not in ("map", "consistency")

    @property
    def by_factor(self) -> bool:
        """Whether the sentence says that `after` is so many times better."""
        return self.kind in ("student", "gain")


_Compared = Callable[[Cell, Cell], Difference]


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
        spot=Spot(
            {seed: tuple(map(float, by_seed[seed]["values"])) for seed in seeds},
            {seed: float(by_seed[seed]["floor"]) for seed in seeds},
        ),
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
    """Whether a score is more than `factor` times smaller than another, by its `Difference` to that one."""
    if found.high < 1 / factor:
        return "holds"
    return "fails" if found.both_at_floor or found.low > 1 / factor else "noise"


def costs_nothing(gain: tuple[Cell, Cell], gained: Difference, many: tuple[Cell, Cell], lost: Difference) -> Verdict:
    """Whether what is gained at the fewest calls costs nothing at `many`; each pair is the control and the stage.

    It fails where the stage is worse beyond noise. It holds only where noise can hide no more than the share `PRICE`
    of a gain that is itself beyond noise: what cannot be seen is no result.
    """
    if lost.verdict == "worse":
        return "fails"
    if gained.verdict != "better":
        return "noise"
    if _perfect(lost):
        return "holds"
    hidden = (lost.high - 1) * many[0].raised
    return "holds" if hidden <= PRICE * (gain[0].raised - gain[1].raised) else "noise"


def _ratio(a: float, b: float) -> float:
    if math.isinf(b):
        return 0.0
    if b <= 0:
        return math.inf if a > 0 else 1.0
    return a / b


def ordered_metrics(found: Iterable[Place]) -> list[str]:
    """The metrics, headlines first, the others as they appear."""
    names = list(dict.fromkeys(place.metric for place in found))
    return [m for m in HEADLINES if m in names] + [m for m in names if m not in HEADLINES]


def claims(
    lines: Iterable[Mapping[str, Any]],
    teacher: str | None = None,
    controls: Iterable[Control] = (),
    common_noise: bool = False,
) -> list[Claim]:
    """Every claim that the metric lines can decide, for each metric.

    `teacher` names the teacher's stage; None takes the first stage that was sampled with Euler and not as a
    flow map. A stage with a control is compared with it under every sampler that both were sampled with. `common_noise`
    says that every score had the same noise. Claims without data are left out.
    """
    table = cells(lines)

    def compared(after: Cell, before: Cell) -> Difference:
        return difference(after.spot, before.spot, common_noise=common_noise)

    every = list(dict.fromkeys(place.series for place in table))
    maps = [series for series in every if series.sampler == MAP]
    if teacher is None:
        mapped = {series.stage for series in maps}
        teacher = next((s.stage for s in every if s.sampler == EULER and s.stage not in mapped), None)
    rival = next((s for s in every if (s.stage, s.sampler) == (teacher, EULER)), None)
    metrics = ordered_metrics(table)
    found: list[Claim] = []
    for series in maps:
        found += _more_calls(table, metrics, series, compared)
    for series in maps:
        shared = [metric for metric in metrics if Place(series, metric, FEW) in table]
        found += _more_calls(table, shared, series._replace(sampler=CONSISTENCY), compared)
    for series in maps:
        if rival is not None and series.stage != rival.stage:
            found += _few_calls(table, metrics, rival, series, compared)
    for control in dict.fromkeys(controls):
        for series in every:
            if (series.stage, series.weights) == (control.stage, control.weights):
                found += _controlled(table, metrics, control, series, compared)
    return found


def best(table: Mapping[Place, Cell], metric: str) -> set[Place]:
    """The places of `metric` that score best at their number of calls; those at the floor share it."""
    mine = {place: cell for place, cell in table.items() if place.metric == metric}
    lowest: dict[int, float] = {}
    for place, cell in mine.items():
        lowest[place.calls] = min(cell.raised, lowest.get(place.calls, math.inf))
    return {place for place, cell in mine.items() if cell.raised == lowest[place.calls] < math.inf}


def _more_calls(
    table: Mapping[Place, Cell], metrics: Sequence[str], series: Series, compared: _Compared
) -> Iterator[Claim]:
    """Claims about one series at few and at the most calls; what is claimed depends on the sampler."""
    for metric in metrics:
        most = max((p.calls for p in table if (p.series, p.metric) == (series, metric)), default=0)
        few = table.get(Place(series, metric, FEW))
        if few is None or most <= FEW:
            continue
        many, span = table[Place(series, metric, most)], f"from {FEW} to {most} calls"
        found = compared(many, few)
        if series.sampler == MAP:
            text = f"{series.name}: the map sampler does not get worse {span}"
            yield Claim("map", text, no_worse(found), metric, few, many, found)
        else:
            text = f"{series.name}: on the same weights the consistency sampler gets worse {span}"
            yield Claim("consistency", text, _WORSE[found.verdict], metric, few, many, found)


def _few_calls(
    table: Mapping[Place, Cell], metrics: Sequence[str], rival: Series, series: Series, compared: _Compared
) -> Iterator[Claim]:
    text = f"{series.name}: {FEW} calls beat {FEW} Euler calls of '{rival.name}' by at least {FACTOR:g}×"
    for metric in metrics:
        theirs, ours = table.get(Place(rival, metric, FEW)), table.get(Place(series, metric, FEW))
        if theirs is not None and ours is not None:
            found = compared(ours, theirs)
            yield Claim("student", text, beats(found, FACTOR), metric, theirs, ours, found)


def _controlled(
    table: Mapping[Place, Cell], metrics: Sequence[str], control: Control, series: Series, compared: _Compared
) -> Iterator[Claim]:
    """A stage against its control: better at the fewest calls, and nothing lost at the most."""
    other = series._replace(stage=control.against)
    by = "" if series.sampler == MAP else f" by {series.sampler}"
    for metric in metrics:
        pairs = {
            place.calls: (table[place._replace(series=other)], cell)
            for place, cell in table.items()
            if (place.series, place.metric) == (series, metric) and place._replace(series=other) in table
        }
        found = {calls: compared(stage, rival) for calls, (rival, stage) in pairs.items()}
        fewest = [calls for calls in FEWEST if calls in pairs]
        for calls in fewest:
            text = f"{series.name}: better than '{other.name}' at {_calls(calls)}{by}{control.compute}"
            yield Claim("gain", text, _BETTER[found[calls].verdict], metric, *pairs[calls], found[calls])
        most = max(pairs, default=0)
        if fewest and most > FEW:
            text = f"{series.name}: loses nothing to '{other.name}' at {_calls(most)}{by}{control.compute}"
            verdict = costs_nothing(pairs[fewest[0]], found[fewest[0]], pairs[most], found[most])
            yield Claim("price", text, verdict, metric, *pairs[most], found[most])


def _calls(number: int) -> str:
    return f"{number} call" if number == 1 else f"{number} calls"
