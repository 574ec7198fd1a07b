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
from flowmap.schema.specs import RoleSpec

if TYPE_CHECKING:
    from flowmap.planning.count import StageCost
    from flowmap.planning.events import Call

GB = 1e9
_FLOAT32, _BFLOAT16 = 4, 2


@final
@dataclass(frozen=True)
class Memory:
    """Bytes on each device.

    `weights` of the base and of every role; `gradients` and AdamW's two moments (`optimiser`) of what is trained, and
    the student's moving average (`ema`), all float32; `activations`: the most at any moment of a step, with what is
    remembered of finished chunks; `copies` in bfloat16 of what a role trains, while a forward of it runs; `gathered`:
    with several devices, two units and the rest of the network whole.
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


def estimate(plan: StagePlan, cost: StageCost, footprint: Footprint, devices: int, tflops: float) -> StageEstimate:
    """The estimate of the stage `plan`, whose calls are `cost`, on `devices` that achieve `tflops` (1e12 / s) each."""
    specs = plan.stage.objective.roles()
    own = {name: footprint.own(spec.kind) for name, spec in specs.items()}
    trained = tuple(name for name, spec in specs.items() if spec.trained)
    moment = fullest(cost, specs, footprint)
    copies = _copies(plan, devices, max(own[name].count for name in trained))
    memory = replace(memory_of(specs, footprint, devices), activations=_of_one_device(moment), copies=copies)
    flops = devices * sum(
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


def _of_one_device(moment: Moment) -> int:
    """Bytes of the activations of `moment` on one device, which holds all tokens of its samples.

    Where several devices shared a sample, each would have its part of the graphs, the memories and the workspace.
    """
    return moment.total


def _copies(plan: StagePlan, devices: int, trained: int) -> int:
    """Bytes of what autocast makes of `trained` parameters and keeps until a forward ends.

    Where backward recomputes nothing a graph holds them, and they are among the activations; what is gathered of
    several devices is so in bfloat16.
    """
    recipe = plan.recipe
    made = devices == 1 and recipe.compute.precision == "bf16" and recipe.backbone.recomputes()
    return _BFLOAT16 * trained if made else 0


def memory_of(specs: Mapping[str, RoleSpec], footprint: Footprint, devices: int) -> Memory:
    """What a stage of the roles `specs` takes on each device, without activations."""
    base, own = footprint.base(), {name: footprint.own(spec.kind) for name, spec in specs.items()}
    trained = sum(own[name].count for name, spec in specs.items() if spec.trained)
    gathered = 0
    if devices > 1 and base.count:
        # One network with everybody's adapters in it; while one unit computes, the next is fetched.
        gathered = 2 * (base.unit + sum(part.unit for part in own.values()))
        gathered += base.root + sum(part.root for part in own.values())
    elif devices > 1:
        gathered = max(2 * part.unit + part.root for part in own.values())
    return Memory(
        weights=math.ceil((base.bytes + sum(part.bytes for part in own.values())) / devices),
        gradients=math.ceil(_FLOAT32 * trained / devices),
        optimiser=math.ceil(2 * _FLOAT32 * trained / devices),
        ema=math.ceil(_FLOAT32 * own["student"].count / devices),
        activations=0,
        gathered=gathered,
    )
