"""Read a run's folder: its recipe, steps, scores and costs, as far as they are there. Torch-free."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from flowmap.plugin.catalogue import catalogue
from flowmap.plugin.kinds import BackboneConfig
from flowmap.training.equivalents import equivalents
from flowmap.errors import FlowmapError
from flowmap.files.folder import StoppedError, cut_off
from flowmap.training.journal import STEPS, Calls, StepLine, calls_in, lost_steps, read_steps
from flowmap.recipe.layout import LOCK
from flowmap.statistics.scores import METRICS, read_scores
from flowmap.files.sealed import parse_sealed
from flowmap.files.texts import TextError, misfit, read_bytes, read_text, shaped
from flowmap.statistics.verdict import Claim, Control, claims


@dataclass
class Cost:
    """What a stage cost, over all seeds: steps, network calls per role, backwards, seconds, peak bytes."""

    name: str
    planned: int = 0
    steps: int = 0
    calls: dict[str, Counter[str]] = field(default_factory=dict)
    backwards: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0

    def add(self, lines: Sequence[StepLine]) -> None:
        """Count lines of `steps.jsonl`."""
        self.steps += len(lines)
        # Most lines say the very same of their calls: each text is looked at once.
        for written, times in Counter(bytes(line.written_calls) for line in lines).items():
            self._call(calls_in(written), times)
        self.backwards += sum(line.backwards for line in lines)
        self.seconds += sum(line.seconds for line in lines)
        self.peak_bytes = max(self.peak_bytes, max((line.peak_bytes for line in lines), default=0))

    def include(self, other: Cost) -> None:
        """Count what `other` has counted."""
        self.planned += other.planned
        self.steps += other.steps
        self._call(other.calls, 1)
        self.backwards += other.backwards
        self.seconds += other.seconds
        self.peak_bytes = max(self.peak_bytes, other.peak_bytes)

    def _call(self, calls: Calls, times: int) -> None:
        for role, counts in calls.items():
            own = self.calls.setdefault(role, Counter())
            for kind, count in counts.items():
                own[kind] += times * count

    @property
    def total(self) -> Counter[str]:
        """Calls of all roles together."""
        return sum(self.calls.values(), Counter())

    def equivalents(self, recomputes: bool) -> int:
        """Network-call equivalents in samples (see `flowmap.training.equivalents`)."""
        return equivalents(self.calls, recomputes)


@dataclass(frozen=True)
class Run:
    """What a run's folder holds; `steps` has the records per stage and seed, `doubts` what is known to be missing."""

    folder: Path
    recipe: dict[str, Any]
    recipe_text: str
    about: dict[str, Any]
    steps: dict[str, dict[int, list[StepLine]]]
    lines: list[dict[str, Any]]
    doubts: tuple[str, ...] = ()

    @property
    def chunked(self) -> bool:
        """Whether samples are made chunk by chunk, so that calls are counted for each chunk."""
        backbone = self.recipe.get("backbone")
        chunks = backbone.get("chunks") if isinstance(backbone, Mapping) else None
        return isinstance(chunks, list) and len(chunks) > 1

    @cached_property
    def costs(self) -> dict[str, Cost]:
        """What each stage has cost so far."""
        made = {}
        for stage in self.recipe["stages"]:
            cost = made[stage["name"]] = Cost(stage["name"], stage["steps"] * len(self.recipe["seeds"]))
            for lines in self.steps.get(cost.name, {}).values():
                cost.add(lines)
        return made

    @property
    def recomputes(self) -> bool | None:
        """Whether backward made forwards anew; None if the backbone's plugin is not as it was, or not there."""
        backbone = self.recipe.get("backbone")
        try:
            config = catalogue().find("backbone", backbone["type"]).model_validate(backbone) if backbone else None
        except (LookupError, TypeError, ValidationError):
            return None
        return config.recomputes() if isinstance(config, BackboneConfig) else None


class _Role(BaseModel):
    model_config = ConfigDict(strict=True)

    source: Annotated[str, Field(alias="from")] = "base"


class _Stage(BaseModel):
    model_config = ConfigDict(strict=True)

    name: Annotated[str, Field(pattern=r"^[^/\x00]+$", max_length=255)]  # that of a folder
    steps: Annotated[int, Field(ge=0)]
    roles: dict[str, _Role] = Field(default_factory=dict)


class _Contest(BaseModel):
    model_config = ConfigDict(strict=True)

    stage: str
    weights: str = "ema"
    against: str | None = None


class _Evaluation(BaseModel):
    model_config = ConfigDict(strict=True)

    teacher: str | None = None
    contests: list[_Contest] = Field(default_factory=list)


class _Lock(BaseModel):
    """The shape of a run's lock, as far as a report reads it."""

    model_config = ConfigDict(strict=True)

    name: str
    seeds: Annotated[list[int], Field(min_length=1)]
    stages: list[_Stage]
    evaluation: _Evaluation | None = None


class _About(RootModel[dict[str, str | int | float]]):
    """The shape of `about.json`."""


def read_run(folder: Path) -> Run:
    """What the run in `folder` has got so far.

    Raises FlowmapError if `folder` is no run, has neither steps nor scores, or holds a damaged file.
    """
    text, recipe = _lock(folder)
    about = read_about(folder)
    lines = read_scores(folder / METRICS)
    steps: dict[str, dict[int, list[StepLine]]] = {}
    doubts: list[str] = []
    for stage in recipe["stages"]:
        for seed in recipe["seeds"]:
            home = (folder if len(recipe["seeds"]) == 1 else folder / f"seed-{seed}") / stage["name"]
            found = _steps(home)
            if found:
                steps.setdefault(stage["name"], {})[seed] = found
            if lost := lost_steps(home, found):
                doubts.append(f"{home / STEPS} says nothing of the first {lost:,} steps, so they are counted nowhere.")
            doubts += _cut_off(home / STEPS)
    doubts += _cut_off(folder / METRICS)
    if not lines and not steps:
        raise FlowmapError(f"{folder} has no scores and no steps yet; train first: {command_of(folder)}")
    return Run(folder, recipe, text, about, steps, lines, tuple(doubts))


def _cut_off(path: Path) -> list[str]:
    return [f"{told}."] if (told := cut_off(path)) else []


def _lock(folder: Path) -> tuple[str, dict[str, Any]]:
    """The locked recipe of the run in `folder`, as it stands and as tables."""
    path = folder / LOCK
    try:
        text = read_text(path)
        recipe = parse_sealed(text)
        if "name" not in recipe and "seed" in recipe:
            raise FlowmapError(f"{folder} is the folder of one stage; give the run's folder, which lies above it")
        _Lock.model_validate(recipe)
    except (FileNotFoundError, NotADirectoryError):
        near = sorted(str(p.parent) for p in folder.parent.glob(f"*/{LOCK}"))
        known = f"; there are: {', '.join(near)}" if near else ""
        raise FlowmapError(f"{folder} is no run folder: it has no {LOCK}{known}") from None
    except OSError as error:
        raise FlowmapError(f"{path} cannot be read: {error.strerror}", code=1) from None
    except ValidationError as error:
        raise _damaged(path, misfit(error)) from None
    except ValueError as error:  # no TOML, no text, too much of either
        raise _damaged(path, str(error)) from None
    return text, recipe


def _damaged(path: Path, why: str) -> FlowmapError:
    return FlowmapError(f"{path} is damaged: {why}; run the recipe again, which writes it anew", code=1)


def read_about(folder: Path) -> dict[str, Any]:
    """What the run in `folder` was made with and on; raises FlowmapError if that is damaged."""
    path = folder / "about.json"
    try:
        return dict(shaped(read_bytes(path), _About).root)
    except FileNotFoundError:
        return {}
    except (OSError, TextError) as error:
        raise FlowmapError(f"{path} is damaged: {error}; delete it, or run the recipe again", code=1) from None


def _steps(stage: Path) -> list[StepLine]:
    try:
        return read_steps(stage)
    except StoppedError as error:
        raise FlowmapError(f"{error}\nFirst: {error.first}", error.code) from None


def command_of(folder: Path) -> str:
    """What to type to run the locked recipe of the run in `folder` (again)."""
    home = folder.resolve()
    return f"flowmap run {shlex.quote(f'{home.parent.name}/{home.name}/{LOCK}')}"


def costs_of(run: Run) -> tuple[list[Cost], Cost]:
    """What each stage cost, and all of them together."""
    total = Cost("all stages")
    for cost in run.costs.values():
        total.include(cost)
    return list(run.costs.values()), total


def claims_of(run: Run) -> list[Claim]:
    """Every claim that the run's scores can decide, its teacher and controls being those of its recipe."""
    evaluation = _evaluation(run)
    return claims(run.lines, evaluation.get("teacher"), _controls(run), evaluation.get("noise") == "common")


def _evaluation(run: Run) -> Mapping[str, Any]:
    return run.recipe.get("evaluation") or {}


def _controls(run: Run) -> Iterator[Control]:
    """The contests that name a control, with what each of the two stages cost beyond what both build on."""
    recomputes, costs = run.recomputes, run.costs
    for contest in _evaluation(run).get("contests", []):
        if (against := contest.get("against")) is None:
            continue
        ours, theirs = _lineage(run, contest["stage"]), _lineage(run, against)
        spent: list[int | None] = [None, None]
        # What weights from outside have cost is not known.
        if recomputes is not None and ours | theirs <= costs.keys():
            alone = (ours - theirs, theirs - ours)
            spent = [sum(costs[name].equivalents(recomputes) for name in own) for own in alone]
        yield Control(contest["stage"], contest.get("weights", "ema"), against, *spent)


def _lineage(run: Run, stage: str) -> set[str]:
    """The stage, and every stage whose weights it builds on."""
    sources = {
        one["name"]: {role["from"] for role in one.get("roles", {}).values()} - {"base"} for one in run.recipe["stages"]
    }
    found, new = set[str](), {stage}
    while new:
        found |= new
        new = {source for name in new for source in sources.get(name, set())} - found
    return found
