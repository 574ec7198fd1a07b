"""`flowmap evaluate`: measure a finished run by its own recipe, or weights from outside by any."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from flowmap.console.commands import evaluate_line, going_on, process
from flowmap.errors import FlowmapError
from flowmap.files.folder import StoppedError, set_aside
from flowmap.files.texts import TextError, is_file, read_text
from flowmap.launch.run import Commands, carry_out
from flowmap.plugin.kinds import SamplerConfig
from flowmap.reading.open import open_run, rerun
from flowmap.recipe.layout import LOCK, Plan
from flowmap.recipe.near import runs_near
from flowmap.recipe.outside import BASE, Outside, is_nowhere, is_weights, look_up
from flowmap.recipe.published import own_sampler
from flowmap.recipe.read import read
from flowmap.recipe.recipe import Recipe
from flowmap.recipe.shipped import shipped
from flowmap.recipe.tables import ContestConfig, EvaluationConfig
from flowmap.schema.words import needed
from flowmap.statistics.scores import METRICS
from flowmap.training.changes import read_lock
from flowmap.training.stage import finished
from flowmap.weights.runs import RUN_LOCK


def evaluate_at(
    where: str, recipe: Path | None, overrides: Sequence[str], runs: Path, fresh: bool, console: Console
) -> Plan:
    """Measure what is at `where` (a run's folder, a folder of weights, a hub id) and write a report; returns the plan.

    A run is measured by its own recipe, in its own folder. With `recipe` (and `overrides` of it) `where` are weights,
    a run's too, and the results go to `runs`/<recipe>-<folder>. What has been measured is not measured again, unless it
    is to be `fresh`. Raises FlowmapError for what the user can act on.
    """
    if not where.strip():
        raise FlowmapError("no folder is named: give that of a run or of weights, or a hub id")
    folder = Path(where)
    if recipe is not None:
        return _evaluate_weights(where, recipe, overrides, runs, fresh, console)
    if any(is_file(place / RUN_LOCK) for place in (folder, folder.parent)):
        if overrides:
            raise FlowmapError("--set: a run is measured by its own recipe; give --recipe to measure it by another")
        return _evaluate_run(folder, fresh, console)
    if is_nowhere(where):
        raise FlowmapError(f"{where} is no folder, neither of a run nor of weights{runs_near(folder)}")
    example = shlex.quote(str(_example(look_up(where))))
    raise FlowmapError(
        f"{where}: only a recipe says by what weights are measured; give one:\n"
        f"  flowmap evaluate {shlex.quote(where)} --recipe {example}"
    )


def _evaluate_run(folder: Path, fresh: bool, console: Console) -> Plan:
    plan = open_run(folder)
    evaluation = plan.recipe.evaluation
    if evaluation is None:
        raise FlowmapError(
            f"{folder}: its recipe has no [evaluation]; add one, and run the recipe again, which trains nothing anew. "
            f"By another recipe: flowmap evaluate {shlex.quote(str(folder))} --recipe RECIPE"
        )
    with going_on(rerun(folder)):
        for stage in plan.stages:
            if finished(stage.folder, stage.stage.steps, check=process()[0] == 0) is None:
                raise StoppedError(f"stage '{stage.stage.name}' is not finished in {stage.folder}.")
    absent = [finding.message for finding in plan.recipe.here("error") if finding.level == "error"]
    if absent:
        raise FlowmapError("\n".join(absent))
    if fresh and process()[0] == 0:
        set_aside(plan.folder / METRICS)
    # All stages are finished: nothing is trained.
    return carry_out(plan.recipe, plan.folder.parent, console, Commands(rerun(folder), rerun(folder)))


def _evaluate_weights(
    where: str, path: Path, overrides: Sequence[str], runs: Path, fresh: bool, console: Console
) -> Plan:
    recipe, _ = read(path, overrides)
    if recipe.evaluation is None:
        raise FlowmapError(f"{path}: has no [evaluation], which says by what weights are measured")
    weights = look_up(where if is_weights(where) else f"./{where}")
    measured, told = _recipe_for(weights, recipe, recipe.evaluation, path)
    findings = [*measured.findings(), *measured.here("error")]
    said: dict[str, list[str]] = {"error": [], "warning": told}
    for finding in findings:
        field = ".".join(map(str, finding.field))
        said[finding.level].append(f"{where}, by {path}: {field}: {finding.message}")
    if said["error"]:
        raise FlowmapError("\n".join(said["error"]))
    _refuse_others(runs / measured.name, weights.name)
    for text in () if process()[0] else said["warning"]:
        console.print(f"[yellow]{escape(text)}[/]", soft_wrap=True)
    if fresh and process()[0] == 0:
        set_aside(runs / measured.name / METRICS)
    command = evaluate_line(where, path, overrides, runs)
    return carry_out(measured, runs, console, Commands(command, command))


def _recipe_for(weights: Outside, recipe: Recipe, evaluation: EvaluationConfig, path: Path) -> tuple[Recipe, list[str]]:
    """The recipe that measures `weights` as `recipe` measures its stages and trains nothing; and what is different."""
    told, teacher = [], evaluation.teacher
    if not is_weights(teacher):
        if recipe.backbone.random_base:
            own = f"; without --recipe, {weights.name} is measured by its own" if weights.run else ""
            if weights.run and "evaluation" not in read_lock(weights.run / LOCK):
                own = (
                    f"; add an [evaluation] to the recipe of {weights.name}, and run that again: it trains nothing anew"
                )
            raise FlowmapError(
                f"{path}: its teacher is the stage '{teacher}', which only a run of it has{own}. To measure by this "
                "recipe name weights: --set evaluation.teacher=FOLDER (with a '/' in it)"
            )
        told.append(f"the teacher is '{BASE}', the backbone's own weights: stage '{teacher}' is there in a run only")
        teacher = BASE
    fields = {"teacher": teacher, "contests": _contests(weights, recipe, evaluation)}
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", Path(os.path.abspath(weights.name)).name)
    changed = {
        "name": f"{recipe.name}-{name}",
        "seeds": recipe.seeds[:1],  # weights from outside have one training
        "stages": (),
        "evaluation": evaluation.model_copy(update=fields),
    }
    return recipe.model_copy(update=changed), told


def _contests(weights: Outside, recipe: Recipe, evaluation: EvaluationConfig) -> tuple[ContestConfig, ...]:
    """The contests of `evaluation` with `weights` in the place of stages, where samplers and frames go with them."""
    spec, kind = recipe.data.spec(), weights.pretrained.kind
    possible = weights.sized(spec).backbone.contexts(spec)
    least = needed(possible)
    found: list[ContestConfig] = []
    seen: set[tuple[str, int]] = set()
    for contest in evaluation.contests:
        chosen: list[SamplerConfig] = []
        context = contest.context or least
        for sampler in contest.samplers:
            if sampler.network == kind and (sampler.type, context) not in seen:
                chosen.append(sampler)
                seen.add((sampler.type, context))
        if chosen and (not context or context in possible):
            same = {"stage": weights.name, "weights": "ema", "samplers": tuple(chosen), "context": context}
            found.append(contest.model_copy(update=same))
    if not found:
        told = weights.pretrained
        scale = told.cfg_scale if spec.conditional else 1.0
        found.append(ContestConfig(stage=weights.name, samplers=(own_sampler(told),), cfg_scale=scale, context=least))
    return tuple(found)


def _refuse_others(folder: Path, name: str) -> None:
    """Raise FlowmapError if `folder` holds anything but the evaluation of the weights `name`."""
    if not is_file(folder / LOCK):
        return
    lock = read_lock(folder / LOCK)
    evaluation = lock.get("evaluation")
    contests = evaluation.get("contests") if isinstance(evaluation, dict) else None
    ours = isinstance(contests, list) and all(isinstance(c, dict) and c.get("stage") == name for c in contests)
    if lock.get("stages") or not ours:
        raise FlowmapError(
            f"{folder} holds another run or the evaluation of other weights; move it away, or say --runs elsewhere"
        )


def _example(weights: Outside) -> Path:
    """A recipe that such weights could be measured by, if one is near."""
    wanted = f'type = "{weights.backbone.type}"'
    here = {path: path for path in sorted(Path("recipes").glob("*.toml"))}
    for path, file in {**here, **{Path(name): file for name, file in shipped().items()}}.items():
        with suppress(OSError, TextError):  # it is a guess: what cannot be read is no example
            if wanted in read_text(file):
                return path
    return Path("RECIPE")
