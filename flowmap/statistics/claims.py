"""What a report claims of its scores, each claim held to one rule. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flowmap.statistics import intervals
from flowmap.statistics.intervals import Difference, difference
from flowmap.statistics.sense import times_better
from flowmap.statistics.verdict import (
    CONSISTENCY,
    EULER,
    FACTOR,
    FEW,
    FEWEST,
    MAP,
    SAME_COMPUTE,
    Cell,
    Place,
    Series,
    Verdict,
    beats,
    cells,
    costs_nothing,
    no_worse,
    ordered_metrics,
)

_BETTER: dict[intervals.Verdict, Verdict] = {"better": "holds", "same": "noise", "worse": "fails"}
_WORSE: dict[intervals.Verdict, Verdict] = {"worse": "holds", "same": "noise", "better": "fails"}


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
    stage that the sentence is about. `found` is how many times as bad `after` is.
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
        """How many times better `after` is than `before`, both held to what a perfect model scores."""
        return times_better(self.after.raised, self.before.raised, self.after.better)

    @property
    def versus(self) -> bool:
        """Whether the cells are those of two rivals, not of one series at few and many calls."""
        return self.kind not in ("map", "consistency")

    @property
    def by_factor(self) -> bool:
        """Whether the sentence says that `after` is so many times better."""
        return self.kind in ("student", "gain")


_Compared = Callable[[Cell, Cell], Difference]


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
