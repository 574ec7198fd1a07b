"""Open the folder of a run, and choose what of it to use: its stages, their samplers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from flowmap.console.commands import command_line
from flowmap.console.options import option
from flowmap.errors import FlowmapError
from flowmap.files.folder import StoppedError
from flowmap.files.texts import is_file
from flowmap.plugin.catalogue import catalogue
from flowmap.plugin.kinds import SamplerConfig
from flowmap.recipe.layout import LOCK, Plan, StagePlan, make_plan
from flowmap.recipe.near import runs_near
from flowmap.recipe.outside import is_weights
from flowmap.recipe.recipe import Recipe
from flowmap.recipe.run_weights import main_stage
from flowmap.schema.words import NetworkKind, unknown_word
from flowmap.training.changes import read_lock

_ANEW = "run the recipe again, which writes it anew"


def open_run(folder: Path) -> Plan:
    """The plan of the run in `folder`. Raises FlowmapError if it is no run of this version's recipes."""
    if not is_file(folder / LOCK):
        if is_file(folder.parent / LOCK):
            raise FlowmapError(f"{folder} is not the folder of a run; {folder.parent} is one")
        raise FlowmapError(f"{folder} is not the folder of a run{runs_near(folder)}")
    lock = read_lock(folder / LOCK, _ANEW)
    if "name" not in lock:
        raise FlowmapError(f"{folder} is the folder of one stage; give the run's folder, which lies above it")
    try:
        recipe = Recipe.model_validate(lock)
    except ValidationError as error:
        raise FlowmapError(
            f"{folder / LOCK} does not fit this version of flowmap or its plugins: {error.error_count()} problems, "
            f"first {error.errors()[0]['loc']}: {error.errors()[0]['msg']}"
        ) from None
    if why := _unsound(recipe):
        raise FlowmapError(f"{folder / LOCK} is damaged: {why}; {_ANEW}", code=1)
    return make_plan(recipe.model_copy(update={"name": folder.resolve().name}), folder.resolve().parent)


def _unsound(recipe: Recipe) -> str | None:
    """Why a lock, whose every table is right, is not one that was written; None if it is."""
    earlier: list[str] = []
    for stage in recipe.stages:
        if stage.name in earlier:
            return f"two of its stages are called '{stage.name}'"
        for role in stage.roles.values():
            if role.from_ not in ("base", *earlier):
                return f"stage '{stage.name}' starts from '{role.from_}', which does not come before it"
        earlier.append(stage.name)
    evaluation = recipe.evaluation
    named = [evaluation.teacher, *(contest.stage for contest in evaluation.contests)] if evaluation else []
    unknown = [name for name in named if name not in earlier and not is_weights(name)]
    return f"its evaluation names '{unknown[0]}', which is no stage of it" if unknown else None


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
    if not names:
        raise FlowmapError(f"{plan.folder}: this run trained nothing, so it has no weights of its own")
    seed = plan.recipe.seeds[0] if seed is None else seed
    if seed not in plan.recipe.seeds:
        raise FlowmapError(f"{option('train-seed', seed)}: this run has {', '.join(map(str, plan.recipe.seeds))}")
    if stage is not None and stage not in names:
        raise FlowmapError(f"{option('stage', stage)}: {unknown_word('stage', stage, names)}")
    if stage is None:
        stage = main_stage(plan.recipe.stages, plan.recipe.evaluation)
    return plan.find(stage, seed)


def choose_sampler(recipe: Recipe, plan: StagePlan, name: str | None) -> SamplerConfig:
    """The sampler called `name`, or the first that the recipe tries on the stage of `plan`.

    Raises FlowmapError if there is none of that name, or if it does not go with the stage's network.
    """
    student = plan.stage.objective.roles()["student"]
    if name is None:
        contests = recipe.evaluation.contests if recipe.evaluation else ()
        named = [c.samplers[0] for c in contests if c.stage == plan.stage.name and c.samplers]
        if named:
            return named[0]
        name = "euler" if student.kind == "velocity" else "consistency" if student.to_data else "flow_map"
    return sampler_called(name, student.kind, f"stage '{plan.stage.name}' trains")


def sampler_called(name: str, kind: NetworkKind, whose: str) -> SamplerConfig:
    """The sampler called `name`, with its defaults, for a network of `kind`; `whose` says whose that is.

    Raises FlowmapError if there is none of that name, or if it does not go with such a network.
    """
    try:
        found = catalogue().find("sampler", name)
    except LookupError as error:
        raise FlowmapError(f"{option('sampler', name)}: {error.args[0]}") from None
    try:
        config = found.model_validate({"type": name})
    except ValidationError as error:
        raise FlowmapError(
            f"{option('sampler', name)}: needs settings of its own: {error.errors()[0]['msg']}"
        ) from None
    assert isinstance(config, SamplerConfig)
    if config.network == "flow_map" and kind == "velocity":
        raise FlowmapError(f"{option('sampler', name)}: it needs a flow map, and {whose} a velocity; try euler or heun")
    return config


@contextmanager
def reopened(folder: Path) -> Iterator[None]:
    """Say, if what the run in `folder` should have is not there, whose it is and how to go on with that run."""
    try:
        yield
    except StoppedError as error:
        how = error.before(rerun(folder))
        raise FlowmapError(f"the weights are a run's, and {error}\nFirst: {how}", error.code) from None
