"""The tiny twin of a recipe: the same stages with small weights and data, and as few steps as go down every path."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from flowmap.plugin.kinds import DataConfig, SamplerConfig
from flowmap.recipe.outside import BASE, is_weights
from flowmap.recipe.recipe import Recipe
from flowmap.recipe.tables import ContestConfig, EvaluationConfig, StageConfig

STEPS = 3
STOP_AFTER = 2
"""The first stage is stopped after so many steps, and resumed."""

_BATCH = 4
_CALLS = (1, 4)


def twin_of(recipe: Recipe, folder: Path, processes: int) -> Recipe:
    """The same recipe with tiny weights and data, and just enough steps to go down every path."""
    groups = [stage.objective.group() for stage in recipe.stages]
    together = math.lcm(*groups)
    parts = folder / "parts"
    parts.mkdir(parents=True)
    data: DataConfig = recipe.data.rehearsed(parts)
    backbone = recipe.backbone.rehearsed(parts)
    # A twin has few heads.
    sequence = math.gcd(recipe.compute.sequence, processes, backbone.attention_heads(data.spec()) or 1)
    shares = processes // sequence
    least = shares * together * -(-_BATCH // (shares * together))
    everything: dict[str, Any] = {
        "name": "run",
        "seeds": recipe.seeds[:1],
        "data": data,
        "backbone": backbone,
        "stages": tuple(
            stage.model_copy(
                update={
                    "steps": STEPS,
                    "batch": _batch(recipe, stage, least),
                    "optimizer": stage.optimizer.model_copy(update={"warmup": min(stage.optimizer.warmup, 1)}),
                    "data": None,  # the twin's data serve every stage
                    "ema": stage.ema.model_copy(update={"start": min(stage.ema.start, 1)}),
                }
            )
            for stage in recipe.stages
        ),
        "compute": recipe.compute.model_copy(
            update={"micro_batch": together if recipe.compute.micro_batch else 0, "sequence": sequence}
        ),
        "checkpoints": recipe.checkpoints.model_copy(update={"every": STOP_AFTER}),
    }
    if recipe.evaluation is not None:
        teacher = recipe.evaluation.teacher_sampler
        own = teacher.own_times()
        calls = tuple(n for n in recipe.evaluation.calls if n in _CALLS) or recipe.evaluation.calls[:1]
        small = {
            "calls": calls,
            "teacher_calls": (own.steps if own else 2) * teacher.calls_per_step,
            "samples": 2,
            "repeats": 2,
            "real": 4,
            "data": None,
        }
        small["metrics"] = tuple(metric.rehearsed(parts) for metric in recipe.evaluation.metrics)
        everything["evaluation"] = recipe.evaluation.model_copy(update=small | of_twins(recipe, recipe.evaluation))
    return recipe.model_copy(update=everything)


def _batch(recipe: Recipe, stage: StageConfig, least: int) -> int:
    """The smallest batch, from `least` on, that the objective takes; that of the recipe if none is."""
    batch = least
    while batch < stage.batch:
        facts = recipe.facts(stage.model_copy(update={"batch": batch}))
        if all(finding.level != "error" for finding in stage.objective.findings(facts)):
            return batch
        batch *= 2
    return stage.batch


def of_twins(recipe: Recipe, evaluation: EvaluationConfig) -> dict[str, Any]:
    """Who is measured where weights from outside have no twin: the base's takes their place, which is a velocity."""
    last = recipe.stages[-1].name

    def twin(name: str, *samplers: SamplerConfig) -> str | None:
        if not is_weights(name):
            return name
        velocity = all(sampler.network == "velocity" for sampler in samplers)
        return BASE if velocity and not recipe.backbone.random_base else None

    contests: list[ContestConfig] = []
    seen: set[tuple[str, str, str, int]] = set()
    for contest in evaluation.contests:
        name = twin(contest.stage, *contest.samplers)
        if name is None:
            continue
        weights = contest.weights if name == contest.stage else "ema"
        rows = {s: (name, weights, s.type, contest.context) for s in contest.samplers}
        fresh = tuple(sampler for sampler, row in rows.items() if row not in seen)
        seen |= set(rows.values())
        if fresh:
            contests.append(contest.model_copy(update={"stage": name, "weights": weights, "samplers": fresh}))
    own = ContestConfig(stage=last, samplers=(evaluation.teacher_sampler,))
    teacher = twin(evaluation.teacher, evaluation.teacher_sampler)
    first = last if evaluation.teacher_sampler.network == "flow_map" else recipe.stages[0].name
    return {"teacher": teacher or first, "contests": tuple(contests) or (own,)}
