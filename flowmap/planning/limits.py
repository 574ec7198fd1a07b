"""Refuse what cannot run on the devices there are, with the numbers: by `flowmap plan` and `flowmap run` alike."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from flowmap.errors import FlowmapError
from flowmap.planning.beside import Evaluation, base_network, encoders_of, held_for_calls, raw_data
from flowmap.planning.estimate import GB, Memory, memory_of
from flowmap.planning.footprints import footprint_of
from flowmap.plugin.footprint import Footprint
from flowmap.recipe.layout import Plan, StagePlan
from flowmap.recipe.recipe import Recipe

_TIGHT = 0.9
_WHOLE = "one device holds the network whole"
_ELSEWHERE = "What helps: leave [evaluation] out, and run flowmap evaluate where there is more memory"
_MORE = "What helps: devices with more memory, or more of them, which share the network (torchrun --nproc-per-node)"


def refuse_impossible(
    recipe: Recipe, plan: Plan, devices: int, memory: int | None, trained: Collection[StagePlan] | None = None
) -> None:
    """Raise FlowmapError if a stage of `plan` cannot run on `devices`, of so many bytes of `memory` each (None: any).

    Only those that are to be `trained` have to, or all. Of memory only what training takes at least is looked at,
    without activations.
    """
    stages = plan.stages if trained is None else trained
    micro, sequence = recipe.compute.micro_batch, recipe.compute.sequence
    if devices % sequence:
        raise FlowmapError(_unshared(devices, sequence))
    for stage in stages:
        batch = stage.stage.batch
        group = stage.stage.objective.group()
        if batch % (devices // sequence * (micro or group)):
            raise FlowmapError(_indivisible(stage, devices, sequence, micro, group))
    if memory is None:
        return
    footprint = footprint_of(recipe)
    if footprint is None:
        return
    encoders = encoders_of(recipe)
    for stage in stages:
        taken = memory_of(stage.stage.objective.roles(), footprint, recipe.compute, devices, memory)
        if taken.least <= memory < taken.least + sum(encoders.values()) and raw_data(recipe, stage.stage):
            raise FlowmapError(
                f"stage '{stage.stage.name}' does not fit: its data are raw, so that on each of {_devices(devices)} "
                f"{named(encoders)} stand beside at least {_gb(taken.least)} GB ({_parts(taken)}), and there are "
                f"{_gb(memory)} GB. What helps: flowmap encode, once, ahead of training"
            )
        if taken.least > memory:
            raise FlowmapError(
                f"stage '{stage.stage.name}' does not fit: on each of {_devices(devices)} it takes at least "
                f"{_gb(taken.least)} GB without activations ({_parts(taken)}), and there are {_gb(memory)} GB. "
                f"What helps: {_help(recipe, footprint, activations=False)}"
            )

    if recipe.evaluation is not None:
        _refuse_evaluation(recipe, footprint, devices, memory)


def _refuse_evaluation(recipe: Recipe, footprint: Footprint, devices: int, memory: int) -> None:
    """Of its memory only the weights are looked at."""
    kinds = {stage.objective.roles()["student"].kind for stage in recipe.stages} or {base_network(recipe)[0]}
    held = [held_for_calls(recipe.compute, footprint, kind, devices, memory) for kind in kinds]
    most, sharded = max(held, default=(0, False))
    if most > memory:
        how = f"each of {_devices(devices)} holds its part of the network and gathers units" if sharded else _WHOLE
        elsewhere = _ELSEWHERE if recipe.stages else _MORE
        helps = "What helps: compute.sampling = 'sharded'" if devices > 1 and not sharded else elsewhere
        raise FlowmapError(
            f"the evaluation does not fit: {how}, which takes {_gb(most)} GB, and there are {_gb(memory)} GB. {helps}"
        )


def crowded(evaluation: Evaluation | None, memory: int | None, trains: bool = True) -> Iterator[str]:
    """A warning if the evaluation fills nearly all of a device's `memory`, or more, in a recipe that `trains` too."""
    if evaluation is None or memory is None or evaluation.total <= _TIGHT * memory:
        return
    whose = f"stage '{evaluation.stage}'" if trains else f"'{evaluation.stage}'"
    helps = _ELSEWHERE if trains else _MORE
    yield (
        f"warning: the evaluation of {whose} is estimated at {_gb(evaluation.total)} GB on one "
        f"device, which holds {_held_words(evaluation)} ({_gb(evaluation.weights)}) and calls it with "
        f"{evaluation.samples} samples at a time ({_gb(evaluation.call)}), of {_gb(memory)} GB. {helps}"
    )


def _held_words(evaluation: Evaluation) -> str:
    """What a device holds of the network while that is evaluated."""
    return "its part of the network and what is gathered" if evaluation.sharded else "the network whole"


def named(encoders: Mapping[str, int]) -> str:
    """What encodes, and its GB."""
    return " and ".join(f"{name} ({_gb(size)} GB)" for name, size in encoders.items())


def tight(name: str, taken: Memory, recipe: Recipe, footprint: Footprint, memory: int) -> str | None:
    """A warning if stage `name` fills nearly all of a device's `memory`, or more."""
    if taken.total <= _TIGHT * memory:
        return None
    word = "more than" if taken.total > memory else f"{100 * taken.total / memory:.0f} % of"
    return (
        f"stage '{name}' is estimated at {_gb(taken.total)} GB on each device ({_parts(taken)}, activations "
        f"{_gb(taken.activations + taken.copies)}), {word} its {_gb(memory)} GB. "
        f"What helps: {_help(recipe, footprint, activations=True)}"
    )


def fitting(most: int, memory: int) -> str | None:
    """Say that stages of which the largest is estimated at `most` bytes fit; None if they do not, or hardly."""
    if most > _TIGHT * memory:
        return None
    return f"It fits: at most {_gb(most)} of the {_gb(memory)} GB of each device."


def _unshared(devices: int, sequence: int) -> str:
    below, above = devices // sequence * sequence, (devices // sequence + 1) * sequence
    near = f"{below} or {above}" if below else str(above)
    return (
        f"compute.sequence = {sequence}: {_devices(devices)} cannot be divided into groups of {sequence}, which share "
        f"the tokens of a sample; use {near} devices (torchrun --nproc-per-node), or a number that divides {devices}"
    )


def _indivisible(stage: StagePlan, devices: int, sequence: int, micro: int, group: int) -> str:
    batch, part = stage.stage.batch, micro or group
    shares = devices // sequence
    together = shares * part
    below, above = batch // together * together, (batch // together + 1) * together
    near = f"{below} or {above}" if below else str(above)
    counts = [n for n in range(1, batch + 1) if batch % (n * part) == 0]
    closest = [n * sequence for n in sorted(sorted(counts, key=lambda n: abs(n - shares))[:2])]
    how = f" in groups of compute.sequence = {sequence}" if sequence > 1 else ""
    how += f" x compute.micro_batch = {micro}" if micro else ""
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


def _help(recipe: Recipe, footprint: Footprint, activations: bool) -> str:
    """Ways to take less that `recipe` does not go yet."""
    ways = [] if footprint.base().count else ["adapters on one base (backbone.lora)"]
    ways.append("more devices")
    if activations:
        if recipe.backbone.attention_heads(recipe.data.spec()) != 1:
            ways.append("more that share a sample (compute.sequence)")
        if recipe.compute.micro_batch != 1:
            ways.append("compute.micro_batch = 1")
        if recipe.backbone.recomputation() in ("none", "selective"):
            ways.append("backbone.gradient_checkpointing = 'block'")
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
