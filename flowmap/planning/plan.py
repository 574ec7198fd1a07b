"""`flowmap plan`: what a recipe will cost, stage by stage, beside what a run of it has measured."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

from flowmap.errors import FlowmapError
from flowmap.files.json_lines import cut_off
from flowmap.files.sealed import read_sealed
from flowmap.files.texts import TextError
from flowmap.phases import phase
from flowmap.planning.beside import LIBRARIES, Evaluation, encoders_of, evaluation_of
from flowmap.planning.count import StageCost, count
from flowmap.planning.estimate import GB, StageEstimate, estimate
from flowmap.planning.footprints import footprint_of
from flowmap.planning.limits import crowded, refuse_impossible, tight
from flowmap.plugin.footprint import Footprint
from flowmap.reading.read import read_about
from flowmap.recipe.layout import LOCK, Plan, StagePlan, make_plan
from flowmap.recipe.outside import BASE
from flowmap.recipe.read import read
from flowmap.recipe.recipe import Recipe
from flowmap.training.journal import STEPS, lost_steps, read_steps

TFLOPS = 400.0
"""What a device is assumed to achieve, in 1e12 / s: about 40 % of the 989 that an H100 can at most (dense bf16)."""

_MOST = 1_000_000  # devices, GB or TFLOP/s of one: a thousand times those of any machine there is
_GIVEN_UP = 2  # first steps of a run that are not timed: they compile and warm up


@final
@dataclass(frozen=True)
class Measured:
    """What a run of the same stage took: bytes of the fullest device, median seconds of a step, on what and how many.

    On a CPU the bytes are those of the whole process.
    """

    peak_bytes: int
    seconds: float
    device: str
    devices: int


@final
@dataclass(frozen=True)
class PlannedStage:
    """One stage: its counts, its estimate (None: the backbone does not know), what a run measured (None: no run)."""

    plan: StagePlan
    cost: StageCost
    estimate: StageEstimate | None
    measured: Measured | None


@final
@dataclass(frozen=True)
class Planned:
    """All stages of a recipe's first seed, for `devices` that achieve `tflops` each.

    A device has `room` bytes; None: nobody has said. `evaluation` is what takes most of that, if anything is measured,
    and `encoders` what encodes raw data.
    """

    recipe: Recipe
    devices: int
    tflops: float
    stages: tuple[PlannedStage, ...]
    warnings: tuple[str, ...]
    room: int | None = None
    evaluation: Evaluation | None = None
    encoders: Mapping[str, int] = field(default_factory=dict)


def plan_recipe(
    path: Path,
    overrides: Sequence[str] = (),
    devices: int = 1,
    memory: float | None = None,
    tflops: float = TFLOPS,
    runs: Path = Path("runs"),
) -> Planned:
    """Count and estimate every stage of the recipe at `path`; a device has `memory` GB, if that is to be checked.

    Raises FlowmapError if the recipe is wrong, cannot run on such devices, or no such devices are.
    """
    for option, value in (("devices", devices), ("memory", memory), ("tflops", tflops)):
        # Asked so that NaN, which is neither above nor below anything, is refused too.
        if value is not None and not 0 < value <= _MOST:
            raise FlowmapError(f"--{option}: must be above 0 and at most {_MOST:,}, not {value:g}")
    recipe, warnings = read(path, overrides)
    measured = recipe.evaluation and {recipe.evaluation.teacher, *(c.stage for c in recipe.evaluation.contests)}
    if not recipe.stages and BASE not in (measured or ()):
        raise FlowmapError(f"{path}: trains nothing and does not measure the backbone's own weights ('base'): no plan")
    plan = make_plan(recipe, runs)
    room = None if memory is None else int(memory * GB)
    with phase("making the networks without weights"):
        refuse_impossible(recipe, plan, devices, room)
    footprint = footprint_of(recipe)
    stages, doubts = [], list[str]()
    for stage in plan.stages:
        if stage.seed != recipe.seeds[0]:
            continue
        cost = count(stage, devices)
        with phase(f"{stage.stage.name}: estimating memory and arithmetic"):
            made = None if footprint is None else estimate(stage, cost, footprint, devices, tflops, room)
        stages.append(PlannedStage(stage, cost, made, _measured(plan, stage, doubts)))
    with phase("estimating what evaluation takes"):
        evaluation = None if footprint is None else evaluation_of(recipe, footprint, devices, room)
    full = [*_full(recipe, stages, footprint, room), *crowded(evaluation, room, bool(recipe.stages))]
    encoders = encoders_of(recipe)
    return Planned(recipe, devices, tflops, tuple(stages), (*warnings, *full, *doubts), room, evaluation, encoders)


def _full(
    recipe: Recipe, stages: Sequence[PlannedStage], footprint: Footprint | None, room: int | None
) -> Iterator[str]:
    for stage in stages:
        if stage.estimate is not None and footprint is not None and room is not None:
            words = tight(stage.plan.stage.name, stage.estimate.memory, recipe, footprint, room)
            if words is not None:
                yield f"warning: {words}"


def _measured(plan: Plan, stage: StagePlan, doubts: list[str]) -> Measured | None:
    """What the run in the plan's folder has measured of `stage`, if it is one of the same configuration.

    What is damaged has measured nothing, which `doubts` then says.
    """
    head, lock_file = f"warning: nothing measured of stage '{stage.stage.name}' is shown", stage.folder / LOCK
    try:
        steps = read_steps(stage.folder)
        if lost := lost_steps(stage.folder, steps):
            doubts.append(f"{head}: {stage.folder / STEPS} says nothing of the first {lost:,} steps")
        if told := cut_off(stage.folder / STEPS):
            doubts.append(f"warning: {told}")
        if lost or not steps:
            return None
        lock = read_sealed(lock_file)
        about = read_about(plan.folder)
    except TextError as error:
        doubts.append(f"{head}: {lock_file} {error}")
        return None
    except (OSError, FlowmapError) as error:
        doubts.append(f"{head}: {error}")
        return None
    if lock != stage.lock:
        return None
    seconds = statistics.median(line.seconds for line in steps[_GIVEN_UP:] or steps)
    peak = max(line.peak_bytes for line in steps)
    processes = about.get("processes")
    return Measured(peak, seconds, str(about.get("device")), processes if isinstance(processes, int) else 1)


# --- as JSON


def as_json(planned: Planned) -> str:
    """All numbers, raw: bytes, FLOPs, seconds; calls are means over the counted steps of one device."""
    stages = [_stage_json(stage) for stage in planned.stages]
    made: dict[str, Any] = {"devices": planned.devices, "tflops": planned.tflops, "stages": stages}
    if planned.evaluation is not None:
        made["evaluation"] = asdict(planned.evaluation) | {"total": planned.evaluation.total}
    return json.dumps(made | {"encoders": dict(planned.encoders), "libraries": LIBRARIES}, indent=2)


def _stage_json(stage: PlannedStage) -> dict[str, Any]:
    made = stage.estimate
    result: dict[str, Any] = {
        "stage": stage.plan.stage.name,
        "steps": stage.plan.stage.steps,
        "batch": stage.plan.stage.batch,
        "counted_steps": stage.cost.steps,
        "roles": rows_of(stage),
    }
    if made is not None:
        result["parameters"] = {
            "base": asdict(made.base),
            "own": {name: asdict(own) for name, own in made.own.items()},
            "all": made.parameters,
            "trained": made.trained_parameters,
        }
        memory = asdict(made.memory) | {"least": made.memory.least, "total": made.memory.total}
        result["memory_per_device"] = memory
        result["most_activations"] = {"when": made.moment.words(), **asdict(made.moment)}
        result["compute"] = {
            "flops_per_step": made.flops,
            "seconds_per_step": made.seconds,
            "gpu_hours": made.gpu_hours,
        }
    if stage.measured is not None:
        result["measured"] = asdict(stage.measured)
    return result


def rows_of(stage: PlannedStage) -> list[dict[str, Any]]:
    """A row for each role of the stage: its calls, samples and backwards, per step of one device."""
    cost = stage.cost
    return [
        {
            "role": role,
            "trained": spec.trained,
            "calls_with_gradient": cost.calls[role].grad / cost.whole_steps,
            "calls_without_gradient": cost.calls[role].no_grad / cost.whole_steps,
            "samples_with_gradient": cost.calls[role].grad_samples / cost.whole_steps,
            "samples_without_gradient": cost.calls[role].no_grad_samples / cost.whole_steps,
            "backwards": cost.backwards.get(role, 0) / cost.whole_steps,
        }
        for role, spec in stage.plan.stage.objective.roles().items()
    ]
