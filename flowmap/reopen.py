"""Open the folder of a run, and choose what of it to use: its stages, their samplers."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from flowmap.commands import command_line
from flowmap.configs import SamplerConfig, unknown_word
from flowmap.errors import FlowmapError
from flowmap.plan import LOCK, Plan, StagePlan, make_plan
from flowmap.recipe import Recipe
from flowmap.run import read_lock


def open_run(folder: Path) -> Plan:
    """The plan of the run in `folder`. Raises FlowmapError if it is no run of this version's recipes."""
    if not (folder / LOCK).is_file():
        if (folder.parent / LOCK).is_file():
            raise FlowmapError(f"{folder} is not the folder of a run; {folder.parent} is one")
        near = sorted(p.parent.name for p in folder.parent.glob(f"*/{LOCK}")) if folder.parent.is_dir() else []
        there = f"; runs in {folder.parent}: {', '.join(near)}" if near else ""
        raise FlowmapError(f"{folder} is not the folder of a run{there}")
    lock = read_lock(folder / LOCK)
    if "name" not in lock:
        raise FlowmapError(f"{folder} is the folder of one stage; give the run's folder, which lies above it")
    try:
        recipe = Recipe.model_validate(lock)
    except ValidationError as error:
        raise FlowmapError(
            f"{folder / LOCK} does not fit this version of flowmap or its plugins: {error.error_count()} problems, "
            f"first {error.errors()[0]['loc']}: {error.errors()[0]['msg']}"
        ) from None
    return make_plan(recipe.model_copy(update={"name": folder.resolve().name}), folder.resolve().parent)


def rerun(folder: Path) -> str:
    """What to type to go on with the run in `folder`, from what it holds itself."""
    folder = folder.resolve()
    name = folder.name
    renamed = [f"name={name}"] if read_lock(folder / LOCK).get("name") != name else []
    return command_line(folder / LOCK, renamed, (), folder.parent)


def choose_stage(plan: Plan, stage: str | None, seed: int | None) -> StagePlan:
    """The stage called `stage`, or the one the recipe is for; of training seed `seed`, or the first.

    Raises FlowmapError if there is no such stage or seed.
    """
    names = [s.name for s in plan.recipe.stages]
    seed = plan.recipe.seeds[0] if seed is None else seed
    if seed not in plan.recipe.seeds:
        raise FlowmapError(f"--train-seed {seed}: this run has {', '.join(map(str, plan.recipe.seeds))}")
    if stage is not None and stage not in names:
        raise FlowmapError(f"--stage {stage}: {unknown_word('stage', stage, names)}")
    if stage is None:
        # The newest flow map of the on-policy line is what a recipe is for: the last stage that a contest names first.
        # A control is what another stage is held against.
        contests = plan.recipe.evaluation.contests if plan.recipe.evaluation else ()
        controls = {c.against for c in contests}
        maps = [c.stage for c in contests if c.samplers[0].type == "flow_map" and c.stage not in controls]
        stage = maps[-1] if maps else names[-1]
    return plan.find(stage, seed)


def choose_sampler(recipe: Recipe, plan: StagePlan, name: str | None) -> SamplerConfig:
    """The sampler called `name`, or the first that the recipe tries on the stage of `plan`.

    Raises FlowmapError if there is none of that name, or if it does not go with the stage's network.
    """
    from flowmap.catalogue import catalogue

    kind = plan.stage.objective.roles()["student"].kind
    if name is None:
        contests = recipe.evaluation.contests if recipe.evaluation else ()
        named = [c.samplers[0] for c in contests if c.stage == plan.stage.name]
        if named:
            return named[0]
        name = "flow_map" if kind == "flow_map" else "euler"
    try:
        found = catalogue().find("sampler", name)
    except LookupError as error:
        raise FlowmapError(f"--sampler {name}: {error.args[0]}") from None
    try:
        config = found.model_validate({"type": name})
    except ValidationError as error:
        raise FlowmapError(f"--sampler {name}: needs settings of its own: {error.errors()[0]['msg']}") from None
    assert isinstance(config, SamplerConfig)
    if config.network == "flow_map" and kind == "velocity":
        raise FlowmapError(
            f"--sampler {name}: it needs a flow map, and stage '{plan.stage.name}' trains a velocity; try euler or heun"
        )
    return config
