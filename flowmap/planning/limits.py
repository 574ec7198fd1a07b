"""Refuse what cannot run on the devices there are, with the numbers: by `flowmap plan` and `flowmap run` alike."""

from __future__ import annotations

from collections.abc import Iterator

from flowmap.errors import FlowmapError
from flowmap.planning.estimate import GB, Memory, memory_of
from flowmap.planning.footprints import footprint_of
from flowmap.plugin.footprint import Footprint
from flowmap.recipe.layout import Plan, StagePlan
from flowmap.recipe.recipe import Recipe

_TIGHT = 0.9


def refuse_impossible(recipe: Recipe, plan: Plan, devices: int, memory: int | None) -> None:
    """Raise FlowmapError if a stage of `plan` cannot run on `devices`, of so many bytes of `memory` each (None: any).

    Of memory only what training takes at least is looked at, without activations.
    """
    micro = recipe.compute.micro_batch
    for stage in plan.stages:
        batch = stage.stage.batch
        group = stage.stage.objective.group()
        if batch % (devices * (micro or group)):
            raise FlowmapError(_indivisible(stage, devices, micro, group))
    if memory is None:
        return
    footprint = footprint_of(recipe)
    if footprint is None:
        return
    for stage in plan.stages:
        taken = memory_of(stage.stage.objective.roles(), footprint, devices, 0)
        if taken.least > memory:
            raise FlowmapError(
                f"stage '{stage.stage.name}' does not fit: on each of {_devices(devices)} it takes at least "
                f"{_gb(taken.least)} GB without activations ({_parts(taken)}), and there are {_gb(memory)} GB. "
                f"What helps: {_help(footprint, activations=False)}"
            )


def tight(name: str, taken: Memory, footprint: Footprint, memory: int) -> str | None:
    """A warning if stage `name` fills nearly all of a device's `memory`, or more."""
    if taken.total <= _TIGHT * memory:
        return None
    word = "more than" if taken.total > memory else f"{100 * taken.total / memory:.0f} % of"
    return (
        f"stage '{name}' is estimated at {_gb(taken.total)} GB on each device ({_parts(taken)}, activations "
        f"{_gb(taken.activations)}), {word} its {_gb(memory)} GB. What helps: {_help(footprint, activations=True)}"
    )


def fitting(most: int, memory: int) -> str | None:
    """Say that stages of which the largest is estimated at `most` bytes fit; None if they do not, or hardly."""
    if most > _TIGHT * memory:
        return None
    return f"It fits: at most {_gb(most)} of the {_gb(memory)} GB of each device."


def _indivisible(stage: StagePlan, devices: int, micro: int, group: int) -> str:
    batch, part = stage.stage.batch, micro or group
    together = devices * part
    below, above = batch // together * together, (batch // together + 1) * together
    near = f"{below} or {above}" if below else str(above)
    counts = [n for n in range(1, batch + 1) if batch % (n * part) == 0]
    closest = sorted(sorted(counts, key=lambda n: abs(n - devices))[:2])
    how = f" x compute.micro_batch = {micro}" if micro else ""
    if group > 1:
        how += f" in whole groups of {group} (objective '{stage.stage.objective.type}')"
    fits = f", or {' or '.join(map(str, closest))} device{'s' if closest != [1] else ''}" if closest else ""
    return (
        f"stage '{stage.stage.name}': a batch of {batch} cannot be shared evenly by {_devices(devices)}{how}; "
        f"use a batch of {near}{fits}"
    )


def _devices(number: int) -> str:
    return f"{number} device{'s' if number > 1 else ''}"


def _parts(taken: Memory) -> str:
    parts = {
        "weights": taken.weights,
        "gradients": taken.gradients,
        "optimiser": taken.optimiser,
        "moving average": taken.ema,
        "gathered": taken.gathered,
    }
    return ", ".join(f"{name} {_gb(size)}" for name, size in parts.items() if size)


def _help(footprint: Footprint, activations: bool) -> str:
    ways = [] if footprint.base().count else ["adapters on one base (backbone.lora)"]
    ways.append("more devices")
    if activations:
        ways += ["compute.micro_batch = 1", "backbone.gradient_checkpointing = 'block'"]
    elif footprint.base().count:
        if footprint.base().bytes > 3 * footprint.base().count:
            ways.append("backbone.base_precision = 'bfloat16'")
        ways.append("a smaller backbone.lora.rank")
    return ", ".join(ways)


def _gb(size: float) -> str:
    return f"{size / GB:.1f}"


def needs(footprint: Footprint) -> Iterator[str]:
    """Sentences on what the weights, and what is trained of them, take in memory."""
    base, student, critic = footprint.base(), footprint.own("flow_map"), footprint.own("velocity")
    if not base.count:
        yield (
            f"memory for {student.count / 1e9:.2f}B parameters in each role, all trained: "
            f"{16 * student.count / 1e9:.0f} GB a role"
        )
        return
    yield f"memory for one base of {base.count / 1e9:.2f}B parameters that all roles share: {base.bytes / 1e9:.1f} GB"
    yield (
        f"memory for adapters: {student.count / 1e9:.2f}B parameters in a student, {critic.count / 1e9:.2f}B in a "
        f"critic; with gradient, optimiser and moving average {20 * student.count / 1e9:.1f} and "
        f"{16 * critic.count / 1e9:.1f} GB; activations come on top (flowmap plan)"
    )
