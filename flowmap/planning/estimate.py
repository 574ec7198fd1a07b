"""What a stage takes on so many devices: memory, arithmetic and time. Torch-free.

From what its networks take (flowmap.plugin.footprint) and how they are called (flowmap.planning.count).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from flowmap.phases import each
from flowmap.plugin.footprint import CallShape, Footprint, Weights
from flowmap.recipe.layout import StagePlan
from flowmap.recipe.tables import ComputeConfig
from flowmap.schema.specs import RoleSpec
from flowmap.schema.words import NetworkKind
from flowmap.training.sharing import reduced_once, replicated

if TYPE_CHECKING:
    from flowmap.planning.count import StageCost
    from flowmap.planning.events import Call, Event

GB = 1e9
_FLOAT32 = 4
_GATHERED = 3  # units at once


@final
@dataclass(frozen=True)
class Memory:
    """Bytes on each device.

    `weights` of the base and of every role; `gradients` and AdamW's two moments (`optimiser`) of what is trained, and
    the student's moving average (`ema`), all float32; `activations`: the most at any moment of a step, with what is
    remembered of finished chunks; `gathered`: with several devices, three units and the rest of the network whole, and
    the gradient of one role where gradients are averaged once a turn.
    """

    weights: int
    gradients: int
    optimiser: int
    ema: int
    activations: int
    gathered: int

    @property
    def least(self) -> int:
        """All but activations: no training takes less."""
        return self.weights + self.gradients + self.optimiser + self.ema + self.gathered

    @property
    def total(self) -> int:
        """All together."""
        return self.least + self.activations


@final
@dataclass(frozen=True)
class StageEstimate:
    """One stage: parameters (`base`, and `own` per role; bytes before they are shared out), memory, arithmetic.

    `flops` are those of a step over all devices, `seconds` those of a step, `gpu_hours` those of the whole stage.
    """

    base: Weights
    own: Mapping[str, Weights]
    trained: tuple[str, ...]
    memory: Memory
    flops: float
    seconds: float
    gpu_hours: float

    @property
    def parameters(self) -> int:
        """Of the base and all roles."""
        return self.base.count + sum(own.count for own in self.own.values())

    @property
    def trained_parameters(self) -> int:
        """Of the roles that are trained."""
        return sum(self.own[name].count for name in self.trained)


def estimate(
    plan: StagePlan, cost: StageCost, footprint: Footprint, devices: int, tflops: float, room: int | None = None
) -> StageEstimate:
    """The estimate of the stage `plan`, whose calls are `cost`, on `devices` that achieve `tflops` (1e12 / s) each.

    Each device has `room` bytes, if that is known.
    """
    specs, compute = plan.stage.objective.roles(), plan.recipe.compute
    own = {name: footprint.own(spec.kind) for name, spec in specs.items()}
    memory = memory_of(specs, footprint, compute, devices, _activations(cost, specs, footprint, compute.sequence), room)
    flops = (
        devices
        // compute.sequence
        * sum(
            times * event.samples * _cost(event, specs, footprint)
            for script, times in cost.scripts.items()
            for event in script
            if not isinstance(event, int)
        )
    )
    seconds = flops / cost.whole_steps / (tflops * 1e12 * devices)
    hours = seconds * plan.stage.steps * devices / 3600
    trained = tuple(name for name, spec in specs.items() if spec.trained)
    return StageEstimate(footprint.base(), own, trained, memory, flops / cost.whole_steps, seconds, hours)


def _cost(call: Call, specs: Mapping[str, RoleSpec], footprint: Footprint) -> int:
    """FLOPs of one sample."""
    return footprint.flops(specs[call.role].kind, call.shape, call.gradient)


def memory_of(
    specs: Mapping[str, RoleSpec],
    footprint: Footprint,
    compute: ComputeConfig,
    devices: int,
    activations: int,
    room: int | None = None,
) -> Memory:
    """What a stage of the roles `specs` takes on each device, with so many bytes of `activations`.

    Where `compute` leaves to the devices what is whole on each, it goes by their `room` in bytes; nothing is, if None.
    """
    base, own = footprint.base(), {name: footprint.own(spec.kind) for name, spec in specs.items()}
    trained = [own[name] for name, spec in specs.items() if spec.trained]
    frozen = [base, *(own[name] for name, spec in specs.items() if not spec.trained)]
    still = sum(part.bytes for part in frozen)
    whole = gathered = 0
    if devices > 1 and replicated(compute.base, still, room or 0):
        whole, frozen = still, []
    if devices > 1 and base.count:
        # One network with everybody's adapters in it; while one unit computes, the next is fetched, and the last kept.
        gathered = sum(_GATHERED * part.unit + part.root for part in (*frozen, *trained))
    elif devices > 1:
        gathered = max(_GATHERED * part.unit + part.root for part in (*frozen, *trained))
    gradient = max((_FLOAT32 * part.count for part in trained), default=0)
    if devices > 1 and reduced_once(compute.reduction, gradient, room or 0):
        gathered += gradient
    count = sum(part.count for part in trained)
    return Memory(
        weights=whole + math.ceil(sum(part.bytes for part in (*frozen, *trained)) / devices),
        gradients=math.ceil(_FLOAT32 * count / devices),
        optimiser=math.ceil(2 * _FLOAT32 * count / devices),
        ema=math.ceil(_FLOAT32 * own["student"].count / devices),
        activations=activations,
        gathered=gathered,
    )


# --- activations


@final
class _Largest:
    """Sizes of calls. Of all shapes of one view the largest stands for the others: it decides, and measuring is slow.

    But not of whole ones: the first chunk of a rollout and all frames at once are both of that view.
    """

    def __init__(self, cost: StageCost, specs: Mapping[str, RoleSpec], footprint: Footprint) -> None:
        self._specs, self._footprint = specs, footprint
        self._shapes: dict[tuple[NetworkKind, str], CallShape] = {}
        for script in cost.scripts:
            for event in script:
                if not isinstance(event, int):
                    key = self._key(event)
                    known = self._shapes.get(key, event.shape)
                    self._shapes[key] = max(known, event.shape, key=_pairs)

    def _key(self, call: Call) -> tuple[NetworkKind, str]:
        whole = call.shape.view == "whole"
        return self._specs[call.role].kind, str(call.shape) if whole else call.shape.view

    def measure(self, cost: StageCost) -> None:
        """Measure each kind of call once: the footprint remembers, and that is what takes long."""
        calls = (event for script in cost.scripts for event in script if not isinstance(event, int))
        kinds = {(self._key(call), call.samples, call.gradient): call for call in calls}
        for call in each(list(kinds.values()), "measuring the memory of its calls", "kinds of call"):
            if call.gradient:
                self.held(call)
            self.workspace(call, call.gradient)

    def held(self, call: Call) -> int:
        """Bytes that `call` holds until its backward."""
        kind, _ = key = self._key(call)
        return _affine(lambda n: self._footprint.held(kind, self._shapes[key], n), call.samples)

    def workspace(self, call: Call, gradient: bool) -> int:
        """Bytes on top of those, while it or its backward runs."""
        kind, _ = key = self._key(call)
        return _affine(lambda n: self._footprint.workspace(kind, self._shapes[key], n, gradient), call.samples)

    def memory(self, call: Call) -> int:
        """Bytes of the memory that `call` goes by."""
        if call.shape.view not in ("following", "reading"):
            return 0
        return call.samples * self._footprint.memory(self._shapes[self._key(call)].start)


def _pairs(shape: CallShape) -> int:
    """What the size of a call goes by: its frames, and those that they see."""
    return shape.frames * (shape.start + shape.frames)


def _affine(size: Callable[[int], int], samples: int) -> int:
    """`size(samples)`, where every sample after the first adds the same."""
    if samples <= 2:
        return size(samples)
    one, two = size(1), size(2)
    return one + (samples - 1) * (two - one)


def _activations(cost: StageCost, specs: Mapping[str, RoleSpec], footprint: Footprint, sequence: int) -> int:
    """The most bytes at any moment of any script, with all graphs and memories that are alive then.

    Of a sample that `sequence` devices share each has its part of the tokens and of the memories, and the whole prompt.
    """
    sizes = _Largest(cost, specs, footprint)
    sizes.measure(cost)
    samples = max(e.samples for script in cost.scripts for e in script if not isinstance(e, int) and e.gradient)
    # Of every sample its condition and the null one.
    most = max(_peak(script, sizes) for script in cost.scripts)
    return math.ceil(most / sequence) + 2 * samples * footprint.prompt()


def _peak(script: tuple[Event, ...], sizes: _Largest) -> int:
    peak = held = 0
    # Calls whose graph is held, and the memories that those graphs need.
    memories: dict[int, tuple[int, int]] = {}
    for place, event in enumerate(script):
        if isinstance(event, int):
            call = script[event]
            assert not isinstance(call, int)
            # In backward: its own part of what is held goes only at its end.
            peak = max(peak, held + _kept(memories) + sizes.workspace(call, gradient=True))
            held -= sizes.held(call)
            memories.pop(event, None)
            continue
        memory = sizes.memory(event)
        kept = _kept({**memories, place: (event.shape.start, memory)} if memory else memories)
        if event.gradient:
            held += sizes.held(event)
            if memory:
                memories[place] = (event.shape.start, memory)
            peak = max(peak, held + kept)
        else:
            peak = max(peak, held + kept + sizes.workspace(event, gradient=False))
    return peak


def _kept(memories: Mapping[int, tuple[int, int]]) -> int:
    """Bytes of the memories: calls that start at the same frame share one."""
    return sum(dict(memories.values()).values())
