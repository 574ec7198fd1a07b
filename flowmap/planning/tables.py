"""Show what `flowmap plan` found as three tables: calls, memory of a device, and time."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from flowmap.planning.columns import gigabytes, new_table, note
from flowmap.planning.footprints import unknown_because
from flowmap.planning.memory_tables import show_beside, show_memory
from flowmap.planning.plan import TFLOPS, Planned, rows_of

_DWARFED = 100_000_000  # bytes of an estimate; Python and torch themselves take several times as much
_FLOPS = ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"))


def show(planned: Planned, console: Console) -> None:
    """Print three tables: calls, memory of a device, and time."""
    if not planned.stages and planned.evaluation is not None:
        parameters = f"{planned.evaluation.parameters:,}"
        console.print(f"It trains nothing, and measures the backbone's own weights: {parameters} parameters.")
        show_beside(planned, console)
        return
    if planned.stages:
        _show_calls(planned, console)
    if not planned.stages or any(stage.estimate is None for stage in planned.stages):
        kind = planned.recipe.backbone.type
        why = unknown_because(planned.recipe)
        console.print(
            f"\nMemory and arithmetic are not known: backbone '{escape(kind)}' does not say what it takes, "
            f"{escape(why)}.",
            soft_wrap=True,
        )
        return
    show_memory(planned, console)
    _show_compute(planned, console)
    _show_measured(planned, console)


def _show_calls(planned: Planned, console: Console) -> None:
    numbers = ("calls\n∇ + no ∇", "samples\n∇ + no ∇", "back-\nwards")
    table = new_table(("stage", "steps", "batch", "role", ""), numbers)
    for stage in planned.stages:
        head = [stage.plan.stage.name, str(stage.plan.stage.steps), str(stage.plan.stage.batch)]
        for row in rows_of(stage):
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
    part = any(stage.cost.whole_steps < stage.cost.steps for stage in planned.stages)
    note(
        f"Per step{whose}: network calls with gradient (∇) and without, and samples through them; means over a stage's "
        f"first {counted} steps at most, with the run's own draws. "
        + ("Exact, but that of many micro-batches one of each step is counted, in turn." if part else "Exact."),
        console,
    )


def _show_compute(planned: Planned, console: Console) -> None:
    console.print("\n[bold]Compute[/]")
    per_step = [stage.estimate.flops for stage in planned.stages if stage.estimate is not None]
    scale, unit = next((each for each in _FLOPS if max(per_step) >= each[0]), _FLOPS[-1])
    timed = planned.recipe.compute.device != "cpu" or planned.tflops != TFLOPS
    times = ("s / step", "days", "GPU-hours") if timed else ()
    table = new_table(("stage",), ("steps", f"{unit} / step", *times))
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
            _digits(made.flops / scale),
            *(_time(time) for time in (made.seconds, lasts, made.gpu_hours) if timed),
        )
    if len(planned.stages) > 1 and timed:
        table.add_row("[bold]all[/]", "", "", "", _time(days), f"[bold]{_time(hours)}[/]")
    console.print(table)
    seeds = len(planned.recipe.seeds)
    again = f" The recipe has {seeds} seeds: all this {seeds} times." if seeds > 1 else ""
    assumed = "about 40 % of an H100's dense bf16 peak; " if planned.tflops == TFLOPS else ""
    each = f"each of {planned.devices} devices" if planned.devices > 1 else "the device"
    pace = f"at {planned.tflops:g} TFLOP/s achieved on {each} ({assumed}--tflops)"
    if not timed:
        pace = "no times, for the recipe computes on a CPU, and what yours achieves is not known: give it by --tflops"
    note(
        f"Estimated: {pace}. FLOPs are those of matrix products, of masked attention only what the mask lets through. "
        f"Recomputation is in it, evaluation is not.{again}",
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
        whole = seen.device == "cpu"
        words = f"{name}: measured {gigabytes(seen.peak_bytes)} GB on {escape(on)}"
        if whole and made.memory.total < _DWARFED:
            words += (
                f", of the whole process: libraries alone take more than the estimate, {gigabytes(made.memory.total)}"
            )
        else:
            deviation = _deviation(made.memory.total, seen.peak_bytes)
            words += f"{', of the whole process' * whole}, estimate {gigabytes(made.memory.total)}: {deviation}"
        words += f"; {_digits(seen.seconds)} s a step"
        if whole and planned.tflops == TFLOPS:
            words += " (the estimate is of a GPU; to compare, --tflops)"
        else:
            words += f", estimate {_digits(made.seconds)}: {_deviation(made.seconds, seen.seconds)}"
        lines.append(words)
    if lines:
        console.print(f"\n[bold]Measured in {escape(str(planned.stages[0].plan.folder.parent))}[/]")
    for line in lines:
        console.print(f"• {line}", highlight=False)


def _time(amount: float) -> str:
    return "<0.001" if 0 < amount < 0.001 else _digits(amount)


def _deviation(said: float, measured: float) -> str:
    return f"{100 * (said / measured - 1):+.0f} %" if measured else "?"


def _digits(number: float) -> str:
    """About three digits."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
