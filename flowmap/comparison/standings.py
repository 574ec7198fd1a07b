"""What a comparison has found so far, read from its folder: scores by row, costs, failures, findings. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flowmap.comparison.specification import Comparison
from flowmap.errors import FlowmapError
from flowmap.files.folder import StoppedError, read_lines, rewrite_lines
from flowmap.files.texts import MOST_RECORD, TextError, is_file, misfit, parse_json, read_bytes
from flowmap.recipe.layout import RECORD
from flowmap.runs.read import Cost
from flowmap.schema.words import NAME
from flowmap.statistics.intervals import MOST_SEEDS, Difference, Round, Verdict, phrase
from flowmap.statistics.scores import METRICS, DrawsLine
from flowmap.statistics.spots import Row, Spot
from flowmap.training.equivalents import equivalents
from flowmap.training.journal import STEPS, StepLine, lost_steps, read_steps

LINES = "comparison.jsonl"
FAILURES = "failures.jsonl"
_MOST_PAIRS = 6
_MOST_NAMED = 4


@final
@dataclass(frozen=True)
class Failure:
    """A training that failed, and why; of what several share, `contestant` names the stage."""

    contestant: str
    seed: int
    message: str


@final
@dataclass(frozen=True)
class Spent:
    """What the own stages of a contestant cost, summed over them, for each training seed.

    `calls` are network-call equivalents in samples (see `equivalents`); `steps` are those of each stage.
    """

    contestant: str
    steps: Mapping[str, int]
    calls: Mapping[int, int]
    seconds: Mapping[int, float]
    peak_bytes: int


@final
@dataclass(frozen=True)
class Contestant:
    """Who is compared: its recipe as it was run, and its own stages (none: it is measured as it is)."""

    name: str
    recipe: dict[str, Any]
    own: tuple[str, ...]
    recomputes: bool

    @property
    def trained(self) -> list[dict[str, Any]]:
        """The tables of its own stages."""
        return [stage for stage in self.recipe["stages"] if stage["name"] in self.own]

    @property
    def measured(self) -> dict[str, Any]:
        """The table of the stage that is measured (the first, if there are several); of weights just their name."""
        name = self.recipe["evaluation"]["contests"][0]["stage"]
        return next((stage for stage in self.recipe["stages"] if stage["name"] == name), {"name": name})


@final
@dataclass(frozen=True)
class Standings:
    """Everything that the page shows. `spots` has the scores by metric and number of calls."""

    folder: Path
    name: str
    about: str
    seeds: tuple[int, ...]
    metric: str
    against: str | None
    confidence: float
    budget: dict[str, Any] | None
    command: str
    text: str
    contestants: tuple[Contestant, ...]
    failures: tuple[Failure, ...]
    spots: Mapping[tuple[str, int], Mapping[Row, Spot]] = field(default_factory=dict)
    spent: tuple[Spent, ...] = ()

    @property
    def metrics(self) -> list[str]:
        """The metrics, the decisive one first."""
        names = dict.fromkeys(metric for metric, _ in self.spots)
        return [m for m in names if m == self.metric] + [m for m in names if m != self.metric]

    @property
    def rows(self) -> list[Row]:
        """Every row that was scored, in the order of the contestants."""
        order = [contestant.name for contestant in self.contestants]
        found = dict.fromkeys(row for spots in self.spots.values() for row in spots)
        return sorted(found, key=lambda row: order.index(row.contestant.split("/")[0]))

    def calls(self, metric: str) -> list[int]:
        """The numbers of calls at which anything was scored by `metric`."""
        return sorted(n for m, n in self.spots if m == metric)

    def at(self, metric: str, calls: int) -> Mapping[Row, Spot]:
        """The scores by `metric` at `calls`."""
        return self.spots.get((metric, calls), {})

    @cached_property
    def rounds(self) -> Mapping[tuple[str, int], Round]:
        """What may be said of the scores, by metric and number of calls."""
        return {key: Round(spots, self.confidence) for key, spots in self.spots.items()}

    def label(self, row: Row) -> str:
        """The contestant, and its sampler where it has several."""
        several = len({other.sampler for other in self.rows if other.contestant == row.contestant}) > 1
        return f"{row.contestant} · {row.sampler}" if several else row.contestant

    @property
    def missing(self) -> list[tuple[str, int]]:
        """Contestants and seeds that have no scores yet."""
        found = {
            (row.contestant.split("/")[0], seed)
            for at in self.spots.values()
            for row, s in at.items()
            for seed in s.values
        }
        return [(c.name, seed) for c in self.contestants for seed in self.seeds if (c.name, seed) not in found]


def record(comparison: Comparison, command: str) -> dict[str, Any]:
    """What a comparison is, as its folder keeps it."""
    return {
        "name": comparison.name,
        "about": comparison.about,
        "seeds": list(comparison.seeds),
        "metric": comparison.metric,
        "against": comparison.against,
        "confidence": comparison.confidence,
        "budget": comparison.budget.model_dump() if comparison.budget else None,
        "command": command,
        "text": comparison.text,
        "contestants": [
            {
                "name": entrant.name,
                "recipe": entrant.of_seed(comparison.seeds[0]).model_dump(
                    mode="json", by_alias=True, exclude_none=True
                ),
                "own": list(entrant.own),
                "recomputes": entrant.recipe.backbone.recomputes(),
            }
            for entrant in comparison.entrants
        ],
    }


def is_comparison_folder(folder: Path) -> bool:
    """Whether `folder` is that of a comparison."""
    return is_file(folder / RECORD)


class _Stage(BaseModel):
    name: str


class _Contest(BaseModel):
    stage: str


class _Evaluation(BaseModel):
    contests: Annotated[list[_Contest], Field(min_length=1)]


class _Recipe(BaseModel):
    stages: list[_Stage]
    evaluation: _Evaluation


class _Contestant(BaseModel):
    name: Annotated[str, Field(pattern=NAME)]
    recipe: _Recipe
    own: list[str]
    recomputes: bool


class _Budget(BaseModel):
    by: str
    amount: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Record(BaseModel):
    """The shape of `comparison.json`, as far as it is read."""

    model_config = ConfigDict(extra="forbid")

    name: str
    about: str
    seeds: Annotated[list[Annotated[int, Field(ge=-(2**63), lt=2**63)]], Field(min_length=1)]
    metric: str
    against: str | None
    confidence: Annotated[float, Field(gt=0, lt=1)]
    budget: _Budget | None
    command: str
    text: str
    contestants: Annotated[list[_Contestant], Field(min_length=1)]


class _FailureLine(BaseModel):
    model_config = ConfigDict(strict=True)

    contestant: str
    seed: int
    message: str


def load(folder: Path) -> Standings:
    """What the comparison in `folder` has got so far. Raises FlowmapError, naming the file, if one is damaged."""
    known = _record(folder / RECORD)
    contestants = tuple(
        Contestant(c["name"], c["recipe"], tuple(c["own"]), c["recomputes"]) for c in known.pop("contestants")
    )
    known["seeds"] = tuple(known["seeds"])
    failures = tuple(Failure(**line) for line in read_lines(folder / FAILURES, _FailureLine))
    return Standings(
        folder,
        **known,
        contestants=contestants,
        failures=failures,
        spots=_spots(folder, contestants, known["seeds"]),
        spent=tuple(_spent(folder, contestant, known["seeds"]) for contestant in contestants),
    )


def _record(path: Path) -> dict[str, Any]:
    try:
        known = parse_json(read_bytes(path, MOST_RECORD))
        _Record.model_validate(known)
    except OSError as error:
        raise FlowmapError(f"{path} cannot be read: {error.strerror}", code=1) from None
    except ValidationError as error:
        raise _damaged(path, misfit(error)) from None
    except TextError as error:
        raise _damaged(path, f"it {error}") from None
    return dict(known)


def _damaged(path: Path, why: str) -> FlowmapError:
    return FlowmapError(f"{path} is damaged: {why}; run the comparison again, which writes it anew", code=1)


def _spots(
    folder: Path, contestants: Sequence[Contestant], seeds: Sequence[int]
) -> dict[tuple[str, int], dict[Row, Spot]]:
    values: dict[tuple[str, int], dict[Row, dict[int, tuple[float, ...]]]] = {}
    floors: dict[tuple[str, int], dict[Row, dict[int, float]]] = {}
    for contestant in contestants:
        contests = contestant.recipe["evaluation"]["contests"]
        several = len({(contest["stage"], contest.get("weights")) for contest in contests}) > 1
        for seed in seeds:
            for line in read_lines(folder / contestant.name / f"seed-{seed}" / METRICS, DrawsLine):
                name = f"{contestant.name}/{line['stage']}" if several else contestant.name
                key, row = (line["metric"], line["nfe"]), Row(name, line["sampler"])
                values.setdefault(key, {}).setdefault(row, {})[seed] = tuple(line["values"])
                floors.setdefault(key, {}).setdefault(row, {})[seed] = line["floor"]
    return {
        key: {row: Spot(by_seed, floors[key][row]) for row, by_seed in rows.items()} for key, rows in values.items()
    }


def _spent(folder: Path, contestant: Contestant, seeds: Sequence[int]) -> Spent:
    steps: dict[str, int] = {}
    calls: dict[int, int] = {}
    seconds: dict[int, float] = {}
    peak = 0
    for seed in seeds:
        for stage in contestant.own:
            cost = Cost(stage)
            cost.add(_steps(folder / contestant.name / f"seed-{seed}" / stage, contestant.name))
            steps[stage] = max(steps.get(stage, 0), cost.steps)
            calls[seed] = calls.get(seed, 0) + equivalents(cost.calls, contestant.recomputes)
            seconds[seed] = seconds.get(seed, 0.0) + cost.seconds
            peak = max(peak, cost.peak_bytes)
    return Spent(contestant.name, steps, calls, seconds, peak)


def _steps(stage: Path, contestant: str) -> list[StepLine]:
    """The steps of a stage; raises FlowmapError unless all that were taken are there: costs are what is compared."""
    try:
        found = read_steps(stage)
    except StoppedError as error:
        raise FlowmapError(f"{error} Or train anew: flowmap compare ... --redo {contestant}", error.code) from None
    if lost := lost_steps(stage, found):
        raise FlowmapError(
            f"{stage / STEPS}: {lost} of its lines are gone, so nobody knows what this contestant has cost. Put them "
            f"back, or train anew: flowmap compare ... --redo {contestant}",
            code=1,
        )
    return found


def sentences(standings: Standings) -> list[str]:
    """The findings in plain words, by the decisive metric, and how sure they are."""
    metric = standings.metric
    found = [sentence for n in standings.calls(metric) for sentence in _choice(standings, metric, n)]
    told = (broken, contrasts, more_seeds, certainty)
    return [*found, *(sentence for each in told for sentence in each(standings, metric))]


def _choice(standings: Standings, metric: str, calls: int) -> Iterator[str]:
    """Which rows to use at so many calls."""
    spots = standings.at(metric, calls)
    if len(spots) < 2:
        return
    one = standings.rounds[metric, calls]
    best, ties = one.leaders()
    budget = f"At {calls} call{'' if calls == 1 else 's'}"
    if not spots[best].finite:
        yield f"{budget} no contestant has a finite score."
        return
    told = f"{budget} {standings.label(best)} is best by {metric} ({spots[best].mean:.3g})"
    beyond = "beyond chance" if one.over == "seeds" else "beyond noise in this one training"
    strange = [row for row in ties if one.difference(row, best).count < 2]
    ties = [row for row in ties if row not in strange]
    if not any(spot.finite for row, spot in spots.items() if row != best):
        yield f"{told}: no other has finite scores."
    elif strange:
        words = [standings.label(row) for row in strange]
        has = "has" if len(words) == 1 else "have"
        told += f"; {listed(words)} {has} too few numbers in common with it to be compared"
        yield f"{told}; {_same(standings, spots, ties)}." if ties else f"{told}."
    elif not ties:
        yield f"{told}, {beyond}."
    elif len(ties) == len(spots) - 1:
        yield f"{told}, but no other differs from it {beyond}."
    else:
        yield f"{told}; {_same(standings, spots, ties)}."


def _same(standings: Standings, spots: Mapping[Row, Spot], ties: Sequence[Row]) -> str:
    """Who does not differ, with scores: a row that varies wildly between seeds does not differ from anything."""
    words = [f"{standings.label(row)} ({spots[row].mean:.2g})" for row in ties]
    return f"{listed(words)} {'does' if len(words) == 1 else 'do'} not differ from it"


def broken(standings: Standings, metric: str) -> Iterator[str]:
    """Rows with scores that are no numbers: where, and what they count as."""
    for row in standings.rows:
        spots = {n: standings.at(metric, n)[row] for n in standings.calls(metric) if row in standings.at(metric, n)}
        places = {n: spot for n, spot in spots.items() if not spot.finite}
        if places:
            seeds = sorted({s for spot in places.values() for s, mean in spot.means.items() if not math.isfinite(mean)})
            yield (
                f"{standings.label(row)} has scores that are no numbers (training seed{'' if len(seeds) == 1 else 's'} "
                f"{listed(list(map(str, seeds)))}; calls {listed(list(map(str, places)))}): it is ranked last there by "
                "definition, which is nothing that an interval says."
            )


def contrasts(standings: Standings, metric: str) -> Iterator[str]:
    """Pairs of rows over all numbers of calls: each against the reference, or all pairs if there are few."""
    for one, other in pairs(standings, metric):
        found = _over_calls(standings, metric, one, other)
        verdicts: dict[int, Verdict] = {calls: difference.verdict for calls, difference in found.items()}
        if verdicts:
            yield f"{standings.label(one)} against {standings.label(other)}: {phrase(verdicts)}."


def _over_calls(standings: Standings, metric: str, one: Row, other: Row) -> dict[int, Difference]:
    """`one` against `other`, where both have scores that are numbers, and two of them in common."""
    both = {n: standings.at(metric, n) for n in standings.calls(metric)}
    found = {
        n: standings.rounds[metric, n].difference(one, other)
        for n, at in both.items()
        if one in at and other in at and at[one].finite and at[other].finite
    }
    return {n: difference for n, difference in found.items() if difference.count > 1}


def more_seeds(standings: Standings, metric: str) -> Iterator[str]:
    """What would decide the contrasts that are undecided: those that the fewest more seeds would decide."""
    needs = [
        (found.more, f"{standings.label(one)} at {calls} call{'' if calls == 1 else 's'}")
        for one, other in pairs(standings, metric)
        for calls, found in _over_calls(standings, metric, one, other).items()
        if found.more is not None
    ]
    if not needs:
        return
    near = sorted(need for need in needs if need[0] <= MOST_SEEDS)
    against = f" against {standings.against}" if standings.against else ""
    told = [f"{label} ({more} more)" for more, label in near[:_MOST_NAMED]]
    if len(near) > _MOST_NAMED:
        told.append(f"{len(near) - _MOST_NAMED} others ({near[_MOST_NAMED][0]} to {near[-1][0]} more)")
    if len(needs) > len(near):
        told.append(f"{len(needs) - len(near)} would take over {MOST_SEEDS} more")
    yield (
        f"Undecided{against}, and how many more training seeds would decide if ratios and spreads are as they look: "
        f"{listed(told)}."
    )


def certainty(standings: Standings, metric: str) -> Iterator[str]:
    """How sure everything is that is said by `metric`, and for how many rows and pairs that is corrected."""
    rounds = [standings.rounds[metric, n] for n in standings.calls(metric) if len(standings.at(metric, n)) > 1]
    if not rounds:
        return
    sure = f"{100 * standings.confidence:g} %"
    rows = _least_to_most([found.count for found in rounds])
    count = _least_to_most([found.pairs for found in rounds])
    over = (
        "over training seeds"
        if any(found.over == "seeds" for found in rounds)
        else "over draws of noise of one training seed, which say nothing of another training"
    )
    yield (
        f"Each number of calls by {metric}: {sure} that no difference named there is chance, corrected for all rows "
        f"(rows: {rows}; pairs: {count}), {over}; other numbers of calls and other metrics are corrected on their own. "
        "'Does not differ' says that no difference was seen, not that there is none."
    )


def _least_to_most(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def pairs(standings: Standings, metric: str) -> list[tuple[Row, Row]]:
    """The pairs that sentences are made of."""
    rows = [row for row in standings.rows if any(row in standings.at(metric, n) for n in standings.calls(metric))]
    if standings.against is not None:
        reference = next((row for row in rows if row.contestant == standings.against), None)
        return [(row, reference) for row in rows if row != reference] if reference else []
    every = [(b, a) for a, b in combinations(rows, 2)]
    return every if len(every) <= _MOST_PAIRS else []


def together(failures: Sequence[Failure]) -> list[tuple[str, str, str]]:
    """Contestant, seeds and message of each failure; those that differ in the seed only, and in paths, are one."""
    found: dict[tuple[str, str], list[Failure]] = {}
    for failure in failures:
        found.setdefault((failure.contestant, failure.message.replace(f"seed-{failure.seed}", "")), []).append(failure)
    return [
        (
            same[0].contestant,
            f"seed{'s' if len(same) > 1 else ''} {listed([str(f.seed) for f in same])}",
            same[0].message,
        )
        for same in found.values()
    ]


def listed(words: Sequence[str]) -> str:
    """`words` as a sentence lists them."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def write_lines(standings: Standings) -> Path:
    """Write `comparison.jsonl`: a line per score, paired difference, cost, failure and finding."""
    path = standings.folder / LINES
    rewrite_lines(path, [*_score_lines(standings), *_difference_lines(standings), *_other_lines(standings)])
    return path


def _score_lines(standings: Standings) -> Iterator[dict[str, Any]]:
    for (metric, calls), spots in standings.spots.items():
        placed = standings.rounds[metric, calls].ranks()
        for row, spot in spots.items():
            yield {
                "kind": "score",
                **row._asdict(),
                "metric": metric,
                "calls": calls,
                "mean": spot.mean,
                "over_seeds": _json(spot.over_seeds),
                "over_noise": _json(spot.over_noise),
                "spread": _json(spot.spread),
                "floor": spot.floor,
                "rank": placed[row],
                "values": {str(seed): list(values) for seed, values in spot.values.items()},
            }


def _difference_lines(standings: Standings) -> Iterator[dict[str, Any]]:
    for (metric, calls), spots in standings.spots.items():
        for a, b in combinations(spots, 2):
            found = standings.rounds[metric, calls].difference(a, b)
            yield {
                "kind": "difference",
                "a": a._asdict(),
                "b": b._asdict(),
                "metric": metric,
                "calls": calls,
                "mean": _json(found.mean),
                "ratio": _json(found.ratio),
                "low": _json(found.low),
                "high": _json(found.high),
                "over": found.over,
                "count": found.count,
                "both_at_floor": found.both_at_floor,
                "more_seeds": found.more,
                "verdict": found.verdict,
            }


def _other_lines(standings: Standings) -> Iterator[dict[str, Any]]:
    for spent in standings.spent:
        yield {"kind": "cost", **vars(spent)}
    for failure in standings.failures:
        yield {"kind": "failure", **vars(failure)}
    for text in sentences(standings):
        yield {"kind": "finding", "metric": standings.metric, "text": text}


def _json(value: float) -> float | None:
    """JSON knows neither NaN nor infinity."""
    return value if math.isfinite(value) else None
