"""Read a run's folder: its recipe, steps, scores and costs, as far as they are there. Torch-free."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from flowmap.errors import FlowmapError
from flowmap.files.folder import StoppedError
from flowmap.files.json_lines import cut_off
from flowmap.files.sealed import parse_sealed
from flowmap.files.texts import TextError, misfit, read_bytes, read_text, shaped
from flowmap.plugin.catalogue import catalogue
from flowmap.plugin.kinds import BackboneConfig
from flowmap.reading.costs import Cost
from flowmap.recipe.layout import LOCK
from flowmap.recipe.near import runs_near
from flowmap.statistics.scores import METRICS, read_scores
from flowmap.training.journal import STEPS, StepLine, lost_steps, read_steps


@dataclass(frozen=True)
class RunFiles:
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
        if any(line["chunks"] > 1 for line in self.lines):
            return True
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
        return config.recomputation() != "none" if isinstance(config, BackboneConfig) else None


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


def read_run(folder: Path) -> RunFiles:
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
    return RunFiles(folder, recipe, text, about, steps, lines, tuple(doubts))


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
        raise FlowmapError(f"{folder} is no run folder: it has no {LOCK}{runs_near(folder)}") from None
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


def costs_of(run: RunFiles) -> tuple[list[Cost], Cost]:
    """What each stage cost, and all of them together."""
    total = Cost("all stages")
    for cost in run.costs.values():
        total.include(cost)
    return list(run.costs.values()), total
