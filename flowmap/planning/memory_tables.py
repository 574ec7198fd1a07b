"""Show what `flowmap plan` found of memory: what a device holds in a step, at which moment, and what comes besides."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from flowmap.planning.beside import LIBRARIES
from flowmap.planning.columns import gigabytes, many, new_table, note, point
from flowmap.planning.limits import fitting
from flowmap.planning.plan import Planned

_PARTS = ("weights", "gradients", "optimiser", "EMA", "activ.", "copies", "gathered")
_COLUMNS = ("parameters", "trained", *_PARTS, "total")


def show_memory(planned: Planned, console: Console) -> None:
    """Print what a device holds in a step, when that is most, and what comes besides."""
    number = planned.devices
    console.print(f"\n[bold]Memory of each of {number} devices, in GB[/]" if number > 1 else "\n[bold]Memory, in GB[/]")
    table = new_table(("stage",), _COLUMNS)
    for stage in planned.stages:
        made = stage.estimate
        assert made is not None
        taken = made.memory
        parts = [taken.weights, taken.gradients, taken.optimiser, taken.ema]
        parts += [taken.activations, taken.copies, taken.gathered]
        table.add_row(
            escape(stage.plan.stage.name),
            many(made.parameters),
            many(made.trained_parameters),
            *(gigabytes(part) for part in parts),
            f"[bold]{gigabytes(taken.total)}[/]",
        )
    console.print(table)
    most = max(stage.estimate.memory.total for stage in planned.stages if stage.estimate is not None)
    if planned.room is not None and (words := fitting(most, planned.room)) is not None:
        console.print(f"[green]✓[/] {words}")
    micro = planned.recipe.compute.micro_batch
    how = f"micro-batches of {micro}" if micro else "all samples of a device at once (compute.micro_batch)"
    sequence = planned.recipe.compute.sequence
    shared = f" Each sample is shared by {sequence} devices (compute.sequence)." * (sequence > 1)
    sharded = " All but activations and what is gathered is divided by the number of devices (FSDP2)." * (number > 1)
    note(
        "Parameters are those of the base and all roles: exact, as are weights, gradients, optimiser (AdamW) and EMA. "
        f"Activations are estimated, for {how}, with the memory of finished chunks; copies are those that mixed "
        f"precision makes of what is trained.{shared}{sharded} What stands below, "
        "and the allocator's own waste, come on top: leave a tenth free.",
        console,
    )
    _show_moments(planned, console)
    show_beside(planned, console)


def _show_moments(planned: Planned, console: Console) -> None:
    """What a step does when it takes most."""
    console.print("\n[bold]When activations are most[/]")
    for stage in planned.stages:
        assert stage.estimate is not None
        moment = stage.estimate.moment
        sizes = {"graphs": moment.graphs, "memories": moment.memories, "computing": moment.workspace}
        parts = [f"{name} {gigabytes(size)}" for name, size in (sizes | {"prompts": moment.prompts}).items() if size]
        point(f"{stage.plan.stage.name}: {moment.words()} ({', '.join(parts)} GB)", console)


def show_beside(planned: Planned, console: Console) -> None:
    """What a run takes besides its steps."""
    console.print("\n[bold]Besides, in GB[/]")
    point(f"libraries {gigabytes(LIBRARIES)}: always, on each device; Python and torch, or a GPU's context", console)
    found = planned.evaluation
    if found is not None:
        network = f"the network of stage '{found.stage}'" if planned.stages else "it"
        holds = f"holds its part of {network}, gathers units" if found.sharded else f"holds {network} whole"
        made = f"{found.samples} sample{'s' * (found.samples > 1)} at a time"
        when = "when training has ended; " if planned.stages else ""
        point(
            f"evaluation {gigabytes(found.total)}: {when}one device {holds} "
            f"({gigabytes(found.weights)}) and calls it with {made} ({gigabytes(found.call)})",
            console,
        )
    if planned.encoders:
        each = ", ".join(f"{name} {gigabytes(size)}" for name, size in planned.encoders.items())
        point(f"{each}: while raw data or prompts are read, on each device; not with encoded data", console)
