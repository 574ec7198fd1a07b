"""Read a specification, and unfold it into one recipe per contestant. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flowmap.comparison.common import odd_ones, what_is_shared
from flowmap.comparison.entrants import Comparison, Entrant, evaluation_of, one_type, origin
from flowmap.comparison.specification import STUDENT, CompareSpec, ContestantConfig, Table, spec_findings
from flowmap.errors import FlowmapError
from flowmap.plugin.fields import AnyObjective
from flowmap.recipe.messages import Source, explain, validation_findings
from flowmap.recipe.overrides import override
from flowmap.recipe.read import read, tables_of, text_of
from flowmap.recipe.recipe import Absent, Recipe
from flowmap.schema.config import Config, Finding
from flowmap.schema.words import unknown_word

_UNKNOWN = 1_000_000  # steps, until the budget says how many


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
    _refuse(list(spec_findings(spec)), source)
    return _unfold(spec, source, absent)


def _refuse(findings: Sequence[Finding], source: Source) -> None:
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        raise FlowmapError("\n".join(dict.fromkeys(explain(errors, source))))


def _unfold(spec: CompareSpec, source: Source, absent: Absent) -> tuple[Comparison, list[str]]:
    entrants: list[Entrant] = []
    by_contestant: list[list[Finding]] = []
    for index, contestant in enumerate(spec.contestants):
        findings: list[Finding] = []
        by_contestant.append(findings)
        raw = _recipe_of(spec, contestant)
        shared = len(raw.get("stages", ())) - len(contestant.stages)

        def located(finding: Finding, number: int = index, shared: int = shared) -> Finding:
            return replace(finding, field=origin(finding.field, number, shared, source.raw))

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
    found = [*_told_of(by_contestant, spec, source), *odd_ones(spec, entrants)]
    _refuse(found, source)
    evaluation = evaluation_of(entrants[0])
    names = [metric.label() for metric in evaluation.metrics]
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
    return comparison, list(dict.fromkeys(explain(found, source)))


def _told_of(by_contestant: Sequence[Sequence[Finding]], spec: CompareSpec, source: Source) -> Iterator[Finding]:
    """The findings about each contestant; what stands in what all share and is not said of all names whose it is."""
    whose: dict[Finding, list[int]] = {}
    for index, findings in enumerate(by_contestant):
        for finding in dict.fromkeys(findings):
            whose.setdefault(finding, []).append(index)
    for finding, those in whose.items():
        told = finding.message
        if finding.field[:1] != ("contestants",) and len(those) < len(by_contestant):
            named = (f"{spec.contestants[index].name}, {source.place(('contestants', index))}" for index in those)
            told = f"{told} (contestant {'; '.join(named)})"
        yield replace(finding, message=told)


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
        "context": contestant.context,
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
        if isinstance(old, dict) and isinstance(value, dict) and one_type(old, value):
            result[key] = merged(old, value)
    return result


def _plain(table: Mapping[str, Any]) -> Table:
    """`table` with dicts and lists of its own, to be changed freely; arrays as TOML gives them."""
    return {key: _copied(value) for key, value in table.items()}


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _plain(value)
    return [_copied(v) for v in value] if isinstance(value, list | tuple) else value


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
        for name, ours, theirs in what_is_shared(first, entrant.recipe):
            if ours != theirs:
                raise FlowmapError(f"{path}: {name} differs from that of {paths[0]}; scores could not be compared")
    comparison = Comparison(
        name="-vs-".join(entrant.name for entrant in entrants),
        about="",
        seeds=first.seeds,
        processes=1,
        metric=evaluation_of(entrants[0]).metrics[0].label(),
        against=None,
        confidence=0.95,
        budget=None,
        entrants=tuple(entrants),
        text="\n".join(f"# {path}\n{text_of(path)}" for path in paths),
    )
    return comparison, warnings
