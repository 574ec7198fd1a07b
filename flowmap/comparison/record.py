"""What a comparison's folder keeps: what is compared, and what its trainings have got so far. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flowmap.comparison.entrants import Comparison
from flowmap.comparison.standings import Contestant, Failure, Spent, Standings
from flowmap.errors import FlowmapError
from flowmap.files.folder import StoppedError
from flowmap.files.json_lines import read_lines
from flowmap.files.texts import MOST_RECORD, TextError, is_file, misfit, parse_json, read_bytes
from flowmap.reading.costs import Cost
from flowmap.recipe.layout import RECORD
from flowmap.schema.words import NAME
from flowmap.statistics.effort import effort_of
from flowmap.statistics.scores import METRICS, DrawsLine, remarks_of
from flowmap.statistics.spots import Row, Spot, spot_of
from flowmap.training.equivalents import equivalents
from flowmap.training.journal import STEPS, StepLine, lost_steps, read_steps

FAILURES = "failures.jsonl"


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
                "recipe": entrant.of_seed(comparison.seeds[0]).as_tables(),
                "own": list(entrant.own),
                "recomputes": entrant.recipe.backbone.recomputation() != "none",
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
    lines = list(_lines(folder, contestants, known["seeds"]))
    failures = tuple(Failure(**line) for line in read_lines(folder / FAILURES, _FailureLine))
    return Standings(
        folder,
        **known,
        contestants=contestants,
        failures=failures,
        spots=_spots(lines),
        efforts={(s.row, s.line["nfe"]): effort for s in lines if (effort := effort_of(s.line)) is not None},
        remarks=remarks_of(scored.line for scored in lines),
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


class _Scored(NamedTuple):
    row: Row
    seed: int
    line: dict[str, Any]


def _lines(folder: Path, contestants: Sequence[Contestant], seeds: Sequence[int]) -> Iterator[_Scored]:
    """The lines of all trainings, each with the row and the training seed that it is of."""
    for contestant in contestants:
        contests = contestant.recipe["evaluation"]["contests"]
        several = len({(contest["stage"], contest.get("weights")) for contest in contests}) > 1
        for seed in seeds:
            for line in read_lines(folder / contestant.name / f"seed-{seed}" / METRICS, DrawsLine):
                name = f"{contestant.name}/{line['stage']}" if several else contestant.name
                yield _Scored(Row(name, line["sampler"]), seed, line)


def _spots(lines: Iterable[_Scored]) -> dict[tuple[str, int], dict[Row, Spot]]:
    found: dict[tuple[str, int], dict[Row, dict[int, dict[str, Any]]]] = {}
    for row, seed, line in lines:
        found.setdefault((line["metric"], line["nfe"]), {}).setdefault(row, {})[seed] = line
    return {key: {row: spot_of(by_seed) for row, by_seed in rows.items()} for key, rows in found.items()}


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
