"""What `flowmap compare` compares: a specification in TOML, unfolded into one recipe per contestant. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, ValidationError

from flowmap.plugin.fields import AnySampler
from flowmap.recipe.messages import validation_findings
from flowmap.schema.bounds import (
    MOST_CONTESTANTS,
    MOST_NAME,
    MOST_ROWS,
    MOST_SEEDS,
    MOST_STAGES,
    MOST_STAGES_IN_ALL,
    MOST_TEXT,
    Amount,
    Confidence,
    Given,
    Guidance,
    PathText,
    Seed,
    Trainings,
    Weight,
)
from flowmap.schema.config import Config, Finding
from flowmap.schema.words import NAME, Weights, unknown_word

SHARED = "shared"
"""The folder of what several contestants build on, so no contestant may be called so."""

STUDENT = "student"
"""What a contestant's last stage is called. With equal names, all contestants draw the same numbers."""

_NO_STEPS = "the budget gives the steps; leave it out"

Unit = Literal["steps", "calls", "seconds"]
Table = dict[str, Any]


class BudgetConfig(Config):
    """What each contestant may spend on its own stages, per seed."""

    by: Unit = Field(
        "calls",
        description="'steps' of training; 'calls', equivalents of a network call for one sample (a forward 1, its "
        "backward 2, what is recomputed in it 1); or 'seconds', at a pace that is measured once, before the start",
    )
    amount: Amount = Field(description="how many of them")


class ContestantConfig(Config):
    """One contestant: how its student is trained, and what samples it."""

    name: str = Field(pattern=NAME, max_length=MOST_NAME, description="names it on the page, and its folder")
    samplers: tuple[AnySampler, ...] = Field(
        (), max_length=MOST_ROWS, description="each is one row of the results; if left out, that of the weights"
    )
    stages: tuple[Table, ...] = Field(
        (),
        max_length=MOST_STAGES,
        description="what it trains, in order: fields as in a recipe's stages, those left out from 'stage'; without "
        "'steps', which the budget gives; 'share' is its part of the budget (equal parts if none has one); each but "
        "the last has a name",
    )
    stage: PathText | None = Field(
        None,
        description="in place of 'stages': a stage of 'recipe', or weights as an evaluation names them, measured as is",
    )
    weights: Weights = Field("ema", description="which of the last stage's weights")
    context: Given = Field(0, description="frames given clean, from held-out data; 1 is image-to-video")
    cfg_scale: Guidance = Field(1.0, description="guidance, w in null + w (cond - null); velocity samplers only")
    recipe: Table = Field(default_factory=dict, description="fields of 'recipe' that are different for this one")


class CompareSpec(Config):
    """A comparison: one recipe that all share, and what each contestant does differently."""

    name: str = Field(pattern=NAME, max_length=MOST_NAME, description="names the comparison's folder")
    about: str = Field("", max_length=MOST_TEXT, description="what it can and cannot show; printed on the page")
    seeds: tuple[Seed, ...] = Field(
        (0, 1, 2), min_length=1, max_length=MOST_SEEDS, description="training seeds; each trains everything anew"
    )
    processes: Trainings = Field(1, description="how many trainings run at the same time")
    metric: str | None = Field(None, description="what decides; the first of the evaluation's metrics if left out")
    against: str | None = Field(None, description="the contestant that sentences compare the others with")
    confidence: Confidence = Field(0.95, description="that no difference named at a number of calls is chance")
    budget: BudgetConfig | None = Field(None, description="what each may spend; needed if any contestant trains")
    recipe: Table = Field(description="a recipe without name, seeds and contests: what all share")
    stage: Table = Field(
        default_factory=dict, description="what each contestant's stages are unless they say otherwise"
    )
    contestants: tuple[ContestantConfig, ...] = Field(
        min_length=1, max_length=MOST_CONTESTANTS, description="who is compared"
    )


def spec_findings(spec: CompareSpec) -> Iterator[Finding]:
    """What is wrong with the specification as a whole; the recipes that it unfolds into are checked as recipes."""

    def wrong(*field: str | int, why: str) -> Finding:
        return Finding("error", field, why)

    if len(set(spec.seeds)) < len(spec.seeds):
        yield wrong("seeds", why="a seed is listed twice; every seed is one training run")
    names = [contestant.name for contestant in spec.contestants]
    if spec.against is not None and spec.against not in names:
        yield wrong("against", why=unknown_word("contestant", spec.against, names))
    if spec.budget is not None and spec.budget.by == "seconds" and spec.processes > 1:
        why = "trainings that share the machine cannot be timed against each other; with a budget in seconds use 1"
        yield wrong("processes", why=why)
    yield from _recipe_findings(spec.recipe)
    if "steps" in spec.stage:
        yield wrong("stage", "steps", why=_NO_STEPS)
    shared = spec.recipe.get("stages", ())
    own = sum(len(contestant.stages) for contestant in spec.contestants)
    in_all = own + len(spec.contestants) * (len(shared) if isinstance(shared, list | tuple) else 0)
    if in_all > MOST_STAGES_IN_ALL:
        why = (
            f"{len(spec.contestants)} contestants x {len(shared)} shared stages and {own} of their own are {in_all:,} "
            f"stages, and at most {MOST_STAGES_IN_ALL:,} are checked; compare fewer at a time"
        )
        yield wrong("contestants", why=why)
    for index, contestant in enumerate(spec.contestants):
        for finding in _contestant_findings(spec, contestant, names[:index]):
            yield replace(finding, field=("contestants", index, *finding.field))


def _recipe_findings(recipe: Table) -> Iterator[Finding]:
    """What a recipe that all share, or what is different for one contestant, cannot have, or not in that shape."""
    for name in ("name", "seeds"):
        if name in recipe:
            yield Finding("error", ("recipe", name), f"belongs to the comparison: write {name} at the top")
    stages, evaluation = recipe.get("stages", []), recipe.get("evaluation", {})
    if not isinstance(stages, list | tuple):
        yield Finding("error", ("recipe", "stages"), "must be an array of tables")
    if not isinstance(evaluation, Mapping):
        yield Finding("error", ("recipe", "evaluation"), "must be a table")
    elif "contests" in evaluation:
        yield Finding("error", ("recipe", "evaluation", "contests"), "are the contestants; leave it out")


def _contestant_findings(spec: CompareSpec, contestant: ContestantConfig, earlier: Sequence[str]) -> Iterator[Finding]:
    if contestant.name in earlier:
        yield Finding("error", ("name",), f"two contestants are called '{contestant.name}'")
    if contestant.name == SHARED:
        yield Finding("error", ("name",), f"'{SHARED}' has a meaning of its own; choose another name")
    if contestant.name.endswith((".json", ".jsonl", ".html")):
        why = "files of the comparison's folder are called so; choose another name"
        yield Finding("error", ("name",), why)
    yield from _recipe_findings(contestant.recipe)
    if bool(contestant.stages) == (contestant.stage is not None):
        why = "give either stages (what it trains) or stage (what is measured as it is)"
        yield Finding("error", ("name",), why)
    if contestant.stages and spec.budget is None:
        yield Finding("error", ("stages",), "nothing says how long to train; add [budget] with by and amount")
    some_share = any("share" in stage for stage in contestant.stages)
    for number, stage in enumerate(contestant.stages):
        for finding in _stage_findings(stage, number + 1 == len(contestant.stages), some_share):
            yield replace(finding, field=("stages", number, *finding.field))


class _Part(Config):
    """What a stage has of the budget, beside others."""

    share: Weight


def _stage_findings(stage: Table, last: bool, some_share: bool) -> Iterator[Finding]:
    if "steps" in stage:
        yield Finding("error", ("steps",), f"{_NO_STEPS}, or set share")
    share = stage.get("share")
    if share is None and some_share:
        yield Finding("error", (), "one stage has a share of the budget, so each needs one")
    elif share is not None:
        try:
            _Part.model_validate({"share": share})
        except ValidationError as error:
            yield from validation_findings(error)
    if not last and "name" not in stage:
        yield Finding("error", (), "each stage but the last needs a name")
    if last and "name" in stage:
        yield Finding("error", ("name",), f"the last stage is always called '{STUDENT}'; leave it out")
