"""From a recipe to what will be done, in order: stage by stage and seed by seed. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowmap.recipe.recipe import Recipe
from flowmap.recipe.tables import RoleConfig, StageConfig
from flowmap.weights.runs import RUN_LOCK

LOCK = RUN_LOCK
"""The locked recipe, in the run's folder (whole) and in each stage's (what the stage depends on)."""
RECORD, BUDGETS = "comparison.json", "budget.jsonl"
"""What the folder of a comparison has, and no run's: what was compared, and the steps that its budget buys."""


@dataclass(frozen=True)
class StagePlan:
    """One stage of one seed, complete: all that `run_stage` needs to know.

    `folder` is where it writes; `sources` maps each role that starts from an earlier stage to that stage's
    folder; `lock` is the configuration its result depends on (its own and that of every stage before it that
    it builds on), which decides whether a finished stage may be reused.
    """

    recipe: Recipe
    seed: int
    stage: StageConfig
    folder: Path
    sources: dict[str, Path]
    lock: dict[str, Any]

    def role(self, name: str) -> RoleConfig:
        """The configuration of role `name`, the defaults if the recipe does not name it."""
        return self.stage.roles.get(name, RoleConfig())


@dataclass(frozen=True)
class Plan:
    """All stages of a recipe in the order they run, and the run's folder."""

    recipe: Recipe
    folder: Path
    stages: tuple[StagePlan, ...]

    def find(self, stage: str, seed: int) -> StagePlan:
        """The plan of `stage` for `seed`; raises KeyError if there is none."""
        for plan in self.stages:
            if (plan.stage.name, plan.seed) == (stage, seed):
                return plan
        raise KeyError(stage)


def make_plan(recipe: Recipe, runs: Path) -> Plan:
    """Lay out the run of `recipe` under the folder `runs`."""
    folder = runs / recipe.name
    everything = recipe.as_tables()
    plans = [
        _stage_plan(recipe, everything, stage, seed, seed_folder(recipe, folder, seed))
        for seed in recipe.seeds
        for stage in recipe.stages
    ]
    return Plan(recipe, folder, tuple(plans))


def seed_folder(recipe: Recipe, folder: Path, seed: int) -> Path:
    """Where the stages of `seed` live: the run's folder itself, or one folder per seed if there are several."""
    return folder if len(recipe.seeds) == 1 else seeds_folder(folder, seed)


def seeds_folder(folder: Path, seed: int) -> Path:
    """Where the stages of `seed` live if there are several."""
    return folder / f"seed-{seed}"


def _stage_plan(
    recipe: Recipe, everything: Mapping[str, Any], stage: StageConfig, seed: int, folder: Path
) -> StagePlan:
    roles = stage.objective.roles()
    sources = {
        role: folder / config.from_ for role, config in stage.roles.items() if role in roles and config.from_ != "base"
    }
    wanted = _ancestors(recipe, stage)
    lock = {
        "seed": seed,
        "data": everything["data"],
        "backbone": everything["backbone"],
        "precision": recipe.compute.precision,
        "stages": [dumped for dumped in everything["stages"] if dumped["name"] in wanted],
    }
    return StagePlan(recipe, seed, stage, folder / stage.name, sources, lock)


def _ancestors(recipe: Recipe, stage: StageConfig) -> set[str]:
    """`stage` and every stage that its roles come from, directly or not."""
    found: set[str] = set()
    unseen = [stage.name]
    # Each once: of many roles that come from one stage, every line back to the first is another way.
    while unseen:
        name = unseen.pop()
        if name not in found:
            found.add(name)
            unseen += [role.from_ for role in recipe.stage(name).roles.values() if role.from_ != "base"]
    return found
