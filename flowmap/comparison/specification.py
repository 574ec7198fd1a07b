"""What `flowmap compare` compares: a specification in TOML, unfolded into one recipe per contestant. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, final

from pydantic import Field, ValidationError

from flowmap.errors import FlowmapError
from flowmap.files.texts import parse_toml
from flowmap.plugin.fields import AnyObjective, AnySampler
from flowmap.recipe.lines import Path as Place
from flowmap.recipe.messages import Source, explain, validation_findings
from flowmap.recipe.overrides import override
from flowmap.recipe.recipe import Absent, Recipe, read, tables_of, text_of
from flowmap.recipe.tables import EvaluationConfig
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

_UNKNOWN = 1_000_000  # steps, until the budget says how many

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
        min_length=1, max_length=MOST_ROWS, description="each is one row of the results"
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


@final
@dataclass(frozen=True)
class Entrant:
    """One contestant, as a complete recipe; its folder's name.

    `own` maps the stages that the budget pays for to their shares of it. Their steps in the recipe are a placeholder;
    `steps` has what the budget buys, by training seed, once that is known. `index` is its place in the specification.
    """

    name: str
    recipe: Recipe
    own: Mapping[str, float]
    index: int = 0
    steps: Mapping[int, Mapping[str, int]] = field(default_factory=dict)

    def of_seed(self, seed: int) -> Recipe:
        """The recipe of one training seed, a run called `seed-<n>`, with the steps that are known."""
        known = self.steps.get(seed, {})
        stages = tuple(s.model_copy(update={"steps": known.get(s.name, s.steps)}) for s in self.recipe.stages)
        return self.recipe.model_copy(update={"name": f"seed-{seed}", "seeds": (seed,), "stages": stages})


@final
@dataclass(frozen=True)
class Comparison:
    """A whole comparison; `text` is its specification as it was written, `source` where its fields stand in that."""

    name: str
    about: str
    seeds: tuple[int, ...]
    processes: int
    metric: str
    against: str | None
    confidence: float
    budget: BudgetConfig | None
    entrants: tuple[Entrant, ...]
    text: str
    source: Source | None = None

    def told(self, entrant: Entrant, findings: Sequence[Finding]) -> list[str]:
        """A line for each of `findings` about the recipe of `entrant`, with the place in the specification, if any."""
        if self.source is None:
            return [f"{entrant.name}: {'.'.join(map(str, f.field))}: {f.level}: {f.message}" for f in findings]
        shared, raw = len(entrant.recipe.stages) - len(entrant.own), self.source.raw
        located = [replace(f, field=_origin(f.field, entrant.index, shared, raw)) for f in findings]
        return [f"{line} (contestant {entrant.name})" for line in explain(located, self.source)]


def read_comparison(
    paths: Sequence[Path], overrides: Sequence[str] = (), absent: Absent = "ignore"
) -> tuple[Comparison, list[str]]:
    """Read one specification, or several recipes to compare as they are; return it and its warnings.

    `absent` says what it means if weights or data are not on this machine. Raises FlowmapError with one line per
    problem: file, line, field, what is allowed, the nearest word.
    """
    if len(paths) > 1:
        return _of_recipes(paths, overrides, absent)
    text = text_of(paths[0])
    raw = tables_of(paths[0], text)
    if "contestants" not in raw and ("stages" in raw or "evaluation" in raw):
        raise FlowmapError(f"{paths[0]}: is a recipe; give a specification with contestants, or several recipes")
    source = Source(str(paths[0]), text, raw)
    for setting in overrides:
        override(source, setting)
    try:
        spec = CompareSpec.model_validate(raw)
    except ValidationError as error:
        _refuse(validation_findings(error), source)
    _refuse(list(_spec_findings(spec)), source)
    return _unfold(spec, source, absent)


def is_comparison(path: Path) -> bool:
    """Whether the file at `path` looks like a specification of contestants."""
    try:
        return "contestants" in parse_toml(text_of(path))
    except ValueError:  # it is no TOML, which will be said where it is read
        return False


def _refuse(findings: Sequence[Finding], source: Source) -> None:
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        raise FlowmapError("\n".join(dict.fromkeys(explain(errors, source))))


def _spec_findings(spec: CompareSpec) -> Iterator[Finding]:
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
        yield Finding("error", ("steps",), "the budget gives the steps; leave it out, or set share")
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


def _unfold(spec: CompareSpec, source: Source, absent: Absent) -> tuple[Comparison, list[str]]:
    entrants: list[Entrant] = []
    findings: list[Finding] = []
    for index, contestant in enumerate(spec.contestants):
        raw = _recipe_of(spec, contestant)
        shared = len(raw.get("stages", ())) - len(contestant.stages)

        def located(finding: Finding, number: int = index, shared: int = shared) -> Finding:
            return replace(finding, field=_origin(finding.field, number, shared, source.raw))

        try:
            recipe = Recipe.model_validate(raw)
        except ValidationError as error:
            findings += map(located, validation_findings(error))
            continue
        lacking = recipe.here(absent)
        findings += map(located, [*recipe.findings(), *lacking])
        shares = [float(stage.get("share", 1.0)) for stage in contestant.stages]
        own = {s.name: share / sum(shares) for s, share in zip(recipe.stages[shared:], shares, strict=True)}
        entrants.append(Entrant(contestant.name, recipe, own, index))
    _refuse(findings, source)
    evaluation = evaluation_of(entrants[0])
    names = [metric.type for metric in evaluation.metrics]
    if spec.metric is not None and spec.metric not in names:
        _refuse([Finding("error", ("metric",), unknown_word("metric", spec.metric, names))], source)
    comparison = Comparison(
        name=spec.name,
        about=spec.about.strip(),
        seeds=spec.seeds,
        processes=spec.processes,
        metric=spec.metric or names[0],
        against=spec.against,
        confidence=spec.confidence,
        budget=spec.budget,
        entrants=tuple(entrants),
        text=source.text,
        source=source,
    )
    return comparison, list(dict.fromkeys(explain(findings, source)))


def evaluation_of(entrant: Entrant) -> EvaluationConfig:
    """How an entrant is measured; every entrant of a comparison is."""
    assert entrant.recipe.evaluation is not None
    return entrant.recipe.evaluation


def _recipe_of(spec: CompareSpec, contestant: ContestantConfig) -> Table:
    """The complete recipe of `contestant`, not yet checked."""
    raw = merged(_plain(spec.recipe), _plain(contestant.recipe))
    stages = [_stage_of(spec.stage, stage) for stage in contestant.stages]
    if stages:
        stages[-1]["name"] = STUDENT
    contest: Table = {
        "stage": contestant.stage or STUDENT,
        "samplers": list(contestant.samplers),
        "weights": contestant.weights,
        "cfg_scale": contestant.cfg_scale,
    }
    # A recipe without evaluation is refused by naming what an evaluation needs.
    evaluation = {"noise": "common", **raw.get("evaluation", {}), "contests": [contest]}
    return {
        **raw,
        "name": contestant.name,
        "seeds": list(spec.seeds),
        "stages": [*raw.get("stages", ()), *stages],
        "evaluation": evaluation,
    }


def _stage_of(template: Table, stage: Table) -> Table:
    """A contestant's stage: its own fields over those of the `template`, as far as its objective has use for them."""
    own = {key: value for key, value in _plain(stage).items() if key != "share"}
    both = merged(_plain(template), own)
    needed = _roles_of(both.get("objective"))
    if needed is not None and isinstance(both.get("roles"), dict):
        named = own.get("roles", {})
        both["roles"] = {role: table for role, table in both["roles"].items() if role in needed or role in named}
    both["steps"] = _UNKNOWN
    return both


class _Objective(Config):
    objective: AnyObjective


def _roles_of(objective: Any) -> set[str] | None:
    """The roles that `objective` has; None if it is not a valid one, which the recipe's check will say."""
    try:
        return set(_Objective.model_validate({"objective": objective}).objective.roles())
    except ValidationError:
        return None


def merged(base: Table, over: Table) -> Table:
    """`over` on top of `base`: tables field by field, unless they are of different types; all else replaces."""
    result = dict(base)
    for key, value in over.items():
        old = base.get(key)
        result[key] = value
        if isinstance(old, dict) and isinstance(value, dict):
            kind = old.get("type")
            result[key] = merged(old, value) if value.get("type", kind) == kind else value
    return result


def _plain(table: Mapping[str, Any]) -> Table:
    """`table` with dicts and lists of its own, to be changed freely; arrays as TOML gives them."""
    return {key: _copied(value) for key, value in table.items()}


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _plain(value)
    return [_copied(v) for v in value] if isinstance(value, list | tuple) else value


def _origin(field: Place, index: int, shared: int, raw: Table) -> Place:
    """Where in the specification the `field` of contestant `index`'s recipe was set."""
    mine: Place = ("contestants", index)
    if field[:1] == ("name",):
        return (*mine, "name")
    if field[:2] == ("evaluation", "contests"):
        return (*mine, *field[3:])
    if field[:1] == ("seeds",):
        return field
    if field[:1] == ("stages",) and len(field) > 1 and isinstance(field[1], int) and field[1] >= shared:
        own: Place = (*mine, "stages", field[1] - shared)
        rest = field[2:]
        if not rest or _there(raw, (*own, *rest[:1])):
            return (*own, *rest)
        return ("stage", *rest) if _there(raw, ("stage", *rest[:1])) else (*own, *rest)
    return (*mine, "recipe", *field) if _there(raw, (*mine, "recipe", *field)) else ("recipe", *field)


def _there(raw: Any, path: Place) -> bool:
    for part in path:
        try:
            raw = raw[part]
        except (LookupError, TypeError):
            return False
    return True


def _of_recipes(paths: Sequence[Path], overrides: Sequence[str], absent: Absent) -> tuple[Comparison, list[str]]:
    """Several recipes as they are, each a contestant with all of its contests."""
    warnings: list[str] = []
    entrants: list[Entrant] = []
    for path in paths:
        recipe, said = read(path, [*overrides, "evaluation.noise=common"], absent)
        warnings += said
        if recipe.name in [entrant.name for entrant in entrants]:
            raise FlowmapError(f"{path}: two of the recipes are called '{recipe.name}'; give each a name of its own")
        entrants.append(Entrant(recipe.name, recipe, {}))
    first = entrants[0].recipe
    for path, entrant in zip(paths[1:], entrants[1:], strict=True):
        for name, ours, theirs in _must_agree(first, entrant.recipe):
            if ours != theirs:
                raise FlowmapError(f"{path}: {name} differs from that of {paths[0]}; scores could not be compared")
    comparison = Comparison(
        name="-vs-".join(entrant.name for entrant in entrants),
        about="",
        seeds=first.seeds,
        processes=1,
        metric=evaluation_of(entrants[0]).metrics[0].type,
        against=None,
        confidence=0.95,
        budget=None,
        entrants=tuple(entrants),
        text="\n".join(f"# {path}\n{text_of(path)}" for path in paths),
    )
    return comparison, warnings


def _must_agree(one: Recipe, other: Recipe) -> Iterator[tuple[str, Any, Any]]:
    yield "seeds", one.seeds, other.seeds
    yield "data", one.measured_data(), other.measured_data()
    for name in EvaluationConfig.model_fields:
        if name not in ("contests", "teacher", "data"):
            values = (getattr(recipe.evaluation, name) for recipe in (one, other))
            yield f"evaluation.{name}", *values
