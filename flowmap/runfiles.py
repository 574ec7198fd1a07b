"""Read a run's folder: its recipe, steps, scores and costs, as far as they are there. Torch-free."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flowmap.catalogue import catalogue
from flowmap.configs import BackboneConfig
from flowmap.equivalents import equivalents
from flowmap.errors import FlowmapError
from flowmap.folder import read_lines
from flowmap.plan import LOCK
from flowmap.verdict import Claim, Control, claims


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

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one line of `steps.jsonl`."""
        self.steps += 1
        for role, counts in record["calls"].items():
            self.calls.setdefault(role, Counter()).update(counts)
        self.backwards += record["backwards"]
        self.seconds += record["seconds"]
        self.peak_bytes = max(self.peak_bytes, record["peak_bytes"])

    @property
    def total(self) -> Counter[str]:
        """Calls of all roles together."""
        return sum(self.calls.values(), Counter())

    def equivalents(self, recomputes: bool) -> int:
        """Network-call equivalents in samples (see `flowmap.equivalents`)."""
        return equivalents(self.calls, recomputes)


@dataclass(frozen=True)
class Run:
    """What a run's folder holds; `steps` has the records per stage and seed."""

    folder: Path
    recipe: dict[str, Any]
    recipe_text: str
    about: dict[str, Any]
    steps: dict[str, dict[int, list[dict[str, Any]]]]
    lines: list[dict[str, Any]]

    @property
    def chunked(self) -> bool:
        """Whether samples are made chunk by chunk, so that calls are counted for each chunk."""
        backbone = self.recipe.get("backbone")
        chunks = backbone.get("chunks") if isinstance(backbone, Mapping) else None
        return isinstance(chunks, list) and len(chunks) > 1

    @property
    def recomputes(self) -> bool | None:
        """Whether backward made forwards anew; None if the backbone's plugin is not as it was, or not there."""
        backbone = self.recipe.get("backbone")
        try:
            config = catalogue().find("backbone", backbone["type"]).model_validate(backbone) if backbone else None
        except (LookupError, ValidationError):
            return None
        return config.recomputes() if isinstance(config, BackboneConfig) else None


def read_run(folder: Path) -> Run:
    """What the run in `folder` has got so far.

    Raises FlowmapError if `folder` is no run, has neither steps nor scores, or holds a damaged file.
    """
    text = _text(folder / LOCK)
    try:
        recipe = tomllib.loads(text)
        about = json.loads(_text(folder / "about.json") or "{}")
        lines = read_lines(folder / "metrics.jsonl")
        steps: dict[str, dict[int, list[dict[str, Any]]]] = {}
        seeds = recipe.get("seeds", [])
        for stage in recipe["stages"] if "name" in recipe else []:
            for seed in seeds:
                home = folder if len(seeds) == 1 else folder / f"seed-{seed}"
                if found := read_lines(home / stage["name"] / "steps.jsonl"):
                    steps.setdefault(stage["name"], {})[seed] = found
    except (OSError, ValueError, KeyError) as error:
        raise FlowmapError(f"{folder}: a file of this run is damaged: {error}", code=1) from error
    if not text:
        near = sorted(str(p.parent) for p in folder.parent.glob(f"*/{LOCK}"))
        known = f"; there are: {', '.join(near)}" if near else ""
        raise FlowmapError(f"{folder} is no run folder: it has no {LOCK}{known}")
    if "name" not in recipe:
        raise FlowmapError(f"{folder} is the folder of one stage; give the run's folder, which lies above it")
    if not lines and not steps:
        raise FlowmapError(f"{folder} has no scores and no steps yet; train first: {command_of(folder)}")
    return Run(folder, recipe, text, about, steps, lines)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def command_of(folder: Path) -> str:
    """What to type to run the locked recipe of the run in `folder` (again)."""
    home = folder.resolve()
    return f"flowmap run {shlex.quote(f'{home.parent.name}/{home.name}/{LOCK}')}"


def costs_of(run: Run) -> tuple[list[Cost], Cost]:
    """What each stage cost, and all of them together."""
    costs, total = [], Cost("all stages")
    for stage in run.recipe["stages"]:
        cost = Cost(stage["name"])
        costs.append(cost)
        for each in (cost, total):
            each.planned += stage["steps"] * len(run.recipe["seeds"])
            for records in run.steps.get(stage["name"], {}).values():
                for record in records:
                    each.add(record)
    return costs, total


def claims_of(run: Run) -> list[Claim]:
    """Every claim that the run's scores can decide, its teacher and controls being those of its recipe."""
    evaluation = _evaluation(run)
    return claims(run.lines, evaluation.get("teacher"), _controls(run), evaluation.get("noise") == "common")


def _evaluation(run: Run) -> Mapping[str, Any]:
    return run.recipe.get("evaluation") or {}


def _controls(run: Run) -> Iterator[Control]:
    """The contests that name a control, with what each of the two stages cost beyond what both build on."""
    recomputes = run.recomputes
    costs = {cost.name: cost for cost in costs_of(run)[0]}
    for contest in _evaluation(run).get("contests", []):
        if (against := contest.get("against")) is None:
            continue
        ours, theirs = _lineage(run, contest["stage"]), _lineage(run, against)
        spent: list[int | None] = [None, None]
        # What weights from outside have cost is not known.
        if recomputes is not None and ours | theirs <= costs.keys():
            alone = (ours - theirs, theirs - ours)
            spent = [sum(costs[name].equivalents(recomputes) for name in own) for own in alone]
        yield Control(contest["stage"], contest["weights"], against, *spent)


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
