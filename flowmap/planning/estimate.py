"""What a stage takes on so many devices: memory, arithmetic and time. Torch-free.

From what its networks take (flowmap.plugin.footprint) and how they are called (flowmap.planning.count).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from flowmap.planning.activations import Moment, fullest
from flowmap.plugin.footprint import Footprint, Weights
from flowmap.recipe.layout import StagePlan
from flowmap.recipe.tables import ComputeConfig
from flowmap.schema.specs import RoleSpec
from flowmap.training.sharing import reduced_once, replicated

if TYPE_CHECKING:
    from flowmap.planning.count import StageCost
    from flowmap.planning.events import Call

GB = 1e9
_FLOAT32, _BFLOAT16 = 4, 2
_GATHERED = 3  # units at once


@final
@dataclass(frozen=True)
class Memory:
    """Bytes on each device.

    `weights` of the base and of every role; `gradients` and AdamW's two moments (`optimiser`) of what is trained, and
    the student's moving average (`ema`), all float32; `activations`: the most at any moment of a step, with what is
    remembered of finished chunks; `copies` in bfloat16 of what a role trains, while a forward of it runs; `gathered`:
    with several devices, three units and the rest of the network whole, and the gradient of one role where gradients
    are averaged once a turn.
    """

    weights: int
    gradients: int
    optimiser: int
    ema: int
    activations: int
    gathered: int
    copies: int = 0

    @property
    def least(self) -> int:
        """All but activations and copies: no training takes less."""
        return self.weights + self.gradients + self.optimiser + self.ema + self.gathered

    @property
    def total(self) -> int:
        """All together."""
        return self.least + self.activations + self.copies


@final
@dataclass(frozen=True)
class StageEstimate:
    """One stage: parameters (`base`, and `own` per role; bytes before they are shared out), memory, arithmetic.

    `moment` is that with most activations. `flops` are those of a step over all devices, `seconds` those of a step,
    `gpu_hours` those of the whole stage.
    """

    base: Weights
    own: Mapping[str, Weights]
    trained: tuple[str, ...]
    memory: Memory
    moment: Moment
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
    trained = tuple(name for name, spec in specs.items() if spec.trained)
    moment = _of_one_device(fullest(cost, specs, footprint), compute.sequence)
    copies = _copies(plan, devices, max(own[name].count for name in trained))
    held = memory_of(specs, footprint, compute, devices, room)
    memory = replace(held, activations=moment.total, copies=copies)
    flops = (devices // compute.sequence) * sum(
        times * event.samples * _cost(event, specs, footprint)
        for script, times in cost.scripts.items()
        for event in script
        if not isinstance(event, int)
    )
    seconds = flops / cost.whole_steps / (tflops * 1e12 * devices)
    hours = seconds * plan.stage.steps * devices / 3600
    return StageEstimate(footprint.base(), own, trained, memory, moment, flops / cost.whole_steps, seconds, hours)


def _cost(call: Call, specs: Mapping[str, RoleSpec], footprint: Footprint) -> int:
    """FLOPs of one sample."""
    return footprint.flops(specs[call.role].kind, call.shape, call.gradient)


def _of_one_device(moment: Moment, sequence: int) -> Moment:
    """`moment` on one of `sequence` devices that share a sample: a part of tokens and memories, the whole prompt."""
    parts = {name: math.ceil(getattr(moment, name) / sequence) for name in ("graphs", "memories", "workspace")}
    return replace(moment, **parts)


def _copies(plan: StagePlan, devices: int, trained: int) -> int:
    """Bytes of what autocast makes of `trained` parameters and keeps until a forward ends.

    Where backward recomputes nothing a graph holds them, and they are among the activations; what is gathered of
    several devices is so in bfloat16.
    """
    recipe = plan.recipe
    made = devices == 1 and recipe.compute.precision == "bf16" and recipe.backbone.recomputation() != "none"
    return _BFLOAT16 * trained if made else 0


def memory_of(
    specs: Mapping[str, RoleSpec],
    footprint: Footprint,
    compute: ComputeConfig,
    devices: int,
    room: int | None = None,
) -> Memory:
    """What a stage of the roles `specs` takes on each device, without activations.

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
        activations=0,
        gathered=gathered,
    )
