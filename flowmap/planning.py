"""`flowmap plan`: what a recipe will cost, stage by stage, beside what a run of it has measured."""

from __future__ import annotations

import json
import statistics
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flowmap.cost import StageCost, count
from flowmap.estimate import GB, StageEstimate, estimate, refuse_impossible, tight
from flowmap.folder import read_lines
from flowmap.footprint import Footprint
from flowmap.plan import LOCK, Plan, StagePlan, make_plan
from flowmap.recipe import Recipe, read

TFLOPS = 400.0
"""What a device is assumed to achieve, in 1e12 / s: about 40 % of the 989 that an H100 can at most (dense bf16)."""

_WIDTH = 98
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
    """All stages of a recipe's first seed, for `devices` that achieve `tflops` each."""

    recipe: Recipe
    devices: int
    tflops: float
    stages: tuple[PlannedStage, ...]
    warnings: tuple[str, ...]


def plan_recipe(
    path: Path,
    overrides: Sequence[str] = (),
    devices: int = 1,
    memory: float | None = None,
    tflops: float = TFLOPS,
    runs: Path = Path("runs"),
) -> Planned:
    """Count and estimate every stage of the recipe at `path`; a device has `memory` GB, if that is to be checked.

    Raises FlowmapError if the recipe is wrong, or cannot run on such devices.
    """
    recipe, warnings = read(path, overrides)
    plan = make_plan(recipe, runs)
    room = None if memory is None else int(memory * GB)
    refuse_impossible(recipe, plan, devices, room)
    footprint = recipe.backbone.footprint(recipe.data.spec(), recipe.compute.precision)
    stages = []
    for stage in plan.stages:
        if stage.seed != recipe.seeds[0]:
            continue
        cost = count(stage, devices)
        made = None if footprint is None else estimate(stage, cost, footprint, devices, tflops)
        stages.append(PlannedStage(stage, cost, made, _measured(plan, stage)))
    full = _full(stages, footprint, room)
    return Planned(recipe, devices, tflops, tuple(stages), (*warnings, *full))


def _full(stages: Sequence[PlannedStage], footprint: Footprint | None, room: int | None) -> Iterator[str]:
    for stage in stages:
        if stage.estimate is not None and footprint is not None and room is not None:
            words = tight(stage.plan.stage.name, stage.estimate.memory, footprint, room)
            if words is not None:
                yield f"warning: {words}"


def _measured(plan: Plan, stage: StagePlan) -> Measured | None:
    """What the run in the plan's folder has measured of `stage`, if it is one of the same configuration."""
    steps = read_lines(stage.folder / "steps.jsonl")
    try:
        lock = tomllib.loads((stage.folder / LOCK).read_text())
        about = json.loads((plan.folder / "about.json").read_text())
    except (OSError, ValueError):
        return None
    if not steps or lock != stage.lock:
        return None
    seconds = statistics.median(line["seconds"] for line in steps[_GIVEN_UP:] or steps)
    peak = max(line["peak_bytes"] for line in steps)
    return Measured(peak, seconds, str(about.get("device")), int(about.get("processes", 1)))


# --- as JSON


def as_json(planned: Planned) -> str:
    """All numbers, raw: bytes, FLOPs, seconds; calls are means over the counted steps of one device."""
    stages = [_stage_json(stage) for stage in planned.stages]
    return json.dumps({"devices": planned.devices, "tflops": planned.tflops, "stages": stages}, indent=2)


def _stage_json(stage: PlannedStage) -> dict[str, Any]:
    made = stage.estimate
    result: dict[str, Any] = {
        "stage": stage.plan.stage.name,
        "steps": stage.plan.stage.steps,
        "batch": stage.plan.stage.batch,
        "counted_steps": stage.cost.steps,
        "roles": _rows(stage),
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
        result["compute"] = {
            "flops_per_step": made.flops,
            "seconds_per_step": made.seconds,
            "gpu_hours": made.gpu_hours,
        }
    if stage.measured is not None:
        result["measured"] = asdict(stage.measured)
    return result


def _rows(stage: PlannedStage) -> list[dict[str, Any]]:
    cost = stage.cost
    return [
        {
            "role": role,
            "trained": spec.trained,
            "calls_with_gradient": cost.calls[role].grad / cost.steps,
            "calls_without_gradient": cost.calls[role].no_grad / cost.steps,
            "samples_with_gradient": cost.calls[role].grad_samples / cost.steps,
            "samples_without_gradient": cost.calls[role].no_grad_samples / cost.steps,
            "backwards": cost.backwards.get(role, 0) / cost.steps,
        }
        for role, spec in stage.plan.stage.objective.roles().items()
    ]


# --- as tables


def show(planned: Planned, console: Console) -> None:
    """Print three tables: calls, memory of a device, and time."""
    _show_calls(planned, console)
    if any(stage.estimate is None for stage in planned.stages):
        kind = planned.recipe.backbone.type
        console.print(f"\nMemory and arithmetic are not known: backbone '{escape(kind)}' does not say what it takes.")
        return
    _show_memory(planned, console)
    _show_compute(planned, console)
    _show_measured(planned, console)


def _table(words: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in words:
        table.add_column(column, no_wrap=True)
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _note(text: str, console: Console) -> None:
    console.print(f"\n[dim]{escape(textwrap.fill(text, _WIDTH))}[/]", highlight=False)


def _show_calls(planned: Planned, console: Console) -> None:
    numbers = ("calls\n∇ + no ∇", "samples\n∇ + no ∇", "back-\nwards")
    table = _table(("stage", "steps", "batch", "role", ""), numbers)
    for stage in planned.stages:
        head = [stage.plan.stage.name, str(stage.plan.stage.steps), str(stage.plan.stage.batch)]
        for row in _rows(stage):
            table.add_row(
                *map(escape, head),
                row["role"],
                "trains" if row["trained"] else "[dim]frozen[/]",
                f"{row['calls_with_gradient']:.3g} + {row['calls_without_gradient']:.3g}",
                f"{row['samples_with_gradient']:.0f} + {row['samples_without_gradient']:.0f}",
                f"{row['backwards']:.3g}",
            )
            head = ["", "", ""]
    console.print(table)
    counted = max(stage.cost.steps for stage in planned.stages)
    whose = "" if planned.devices == 1 else f" of one of {planned.devices} devices"
    _note(
        f"Exact, per step{whose}: network calls with gradient (∇) and without, and samples through them; "
        f"means over a stage's first {counted} steps at most, with the run's own draws.",
        console,
    )


def _show_memory(planned: Planned, console: Console) -> None:
    number = planned.devices
    console.print(f"\n[bold]Memory of each of {number} devices, in GB[/]" if number > 1 else "\n[bold]Memory, in GB[/]")
    columns = ("parameters", "trained", "weights", "gradients", "optimiser", "EMA", "activ.", "gathered", "total")
    table = _table(("stage",), columns)
    for stage in planned.stages:
        made = stage.estimate
        assert made is not None
        taken = made.memory
        parts = (taken.weights, taken.gradients, taken.optimiser, taken.ema, taken.activations, taken.gathered)
        table.add_row(
            escape(stage.plan.stage.name),
            _many(made.parameters),
            _many(made.trained_parameters),
            *(_gigabytes(part) for part in parts),
            f"[bold]{_gigabytes(taken.total)}[/]",
        )
    console.print(table)
    micro = planned.recipe.compute.micro_batch
    how = f"micro-batches of {micro}" if micro else "all samples of a device at once (compute.micro_batch)"
    sharded = " All but activations and what is gathered is divided by the number of devices (FSDP2)." * (number > 1)
    _note(
        "Parameters are those of the base and all roles: exact, as are weights, gradients, optimiser (AdamW) and EMA. "
        f"Activations are estimated, for {how}, with the memory of finished chunks.{sharded} Encoders, evaluation and "
        "the allocator's own waste come on top: leave a tenth free.",
        console,
    )


def _show_compute(planned: Planned, console: Console) -> None:
    console.print("\n[bold]Compute[/]")
    table = _table(("stage",), ("steps", "PFLOP / step", "s / step", "days", "GPU-hours"))
    hours = 0.0
    days = 0.0
    for stage in planned.stages:
        made = stage.estimate
        assert made is not None
        lasts = made.seconds * stage.plan.stage.steps / 86400
        hours, days = hours + made.gpu_hours, days + lasts
        table.add_row(
            escape(stage.plan.stage.name),
            str(stage.plan.stage.steps),
            _digits(made.flops / 1e15),
            _digits(made.seconds),
            _digits(lasts),
            _digits(made.gpu_hours),
        )
    if len(planned.stages) > 1:
        table.add_row("[bold]all[/]", "", "", "", _digits(days), f"[bold]{_digits(hours)}[/]")
    console.print(table)
    seeds = len(planned.recipe.seeds)
    times = f" The recipe has {seeds} seeds: all this {seeds} times." if seeds > 1 else ""
    assumed = "about 40 % of an H100's dense bf16 peak; " if planned.tflops == TFLOPS else ""
    each = f"each of {planned.devices} devices" if planned.devices > 1 else "the device"
    _note(
        f"Estimated: at {planned.tflops:g} TFLOP/s achieved on {each} ({assumed}--tflops). FLOPs are those of matrix "
        "products, of masked attention only what the mask lets through. Recomputation is in it, evaluation is not."
        f"{times}",
        console,
    )


def _show_measured(planned: Planned, console: Console) -> None:
    lines = []
    for stage in planned.stages:
        seen, made = stage.measured, stage.estimate
        if seen is None or made is None:
            continue
        name = escape(stage.plan.stage.name)
        on = f"{seen.devices} x {seen.device}" if seen.devices > 1 else seen.device
        if seen.devices != planned.devices:
            lines.append(f"{name}: measured on {escape(on)}; to compare: --devices {seen.devices}")
            continue
        whole = ", of the whole process" if seen.device == "cpu" else ""
        lines.append(
            f"{name}: measured {_gigabytes(seen.peak_bytes)} GB on {escape(on)}{whole}, estimate "
            f"{_gigabytes(made.memory.total)}: {_deviation(made.memory.total, seen.peak_bytes)}; "
            f"{_digits(seen.seconds)} s a step, estimate {_digits(made.seconds)}: "
            f"{_deviation(made.seconds, seen.seconds)}"
        )
    if lines:
        console.print(f"\n[bold]Measured in {escape(str(planned.stages[0].plan.folder.parent))}[/]")
    for line in lines:
        console.print(f"• {line}", highlight=False)


def _deviation(said: float, measured: float) -> str:
    return f"{100 * (said / measured - 1):+.0f} %" if measured else "?"


def _gigabytes(size: float) -> str:
    return (
        f"{size / GB:.1f}"
        if size >= GB / 10
        else ("0" if not size else f"{size / GB:.1g}" if size >= 1e6 else "<0.001")
    )


def _many(number: int) -> str:
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.2f}{name}"
    return str(number)


def _digits(number: float) -> str:
    """About three digits."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
