"""Count what a stage will cost before it starts: its own objective, run on stand-in networks.

Every draw is known beforehand (flowmap.draw), so the stand-ins are called exactly as the real networks will
be, and the counts are those of the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from flowmap.configs import NetworkKind
from flowmap.draw import Draw
from flowmap.interfaces import Batch, Chunking, Cond, FlowMap, NoCond, Role, Scene, Velocity, Window, World
from flowmap.ledger import Calls, Ledger
from flowmap.plan import StagePlan

_MOST_STEPS = 256


@dataclass(frozen=True)
class StageCost:
    """Counts over the first `steps` steps of a stage: calls per role, and backwards per trained role."""

    steps: int
    calls: Mapping[str, Calls]
    backwards: Mapping[str, int]


def count(plan: StagePlan) -> StageCost:
    """The cost of the first steps of `plan` (of all, if they are few), counted by running them on stand-ins."""
    needed = plan.stage.objective.roles()
    roles = [_stand_in(name, spec.kind) for name, spec in needed.items()]
    for role in roles:
        if not needed[role.name].trained:
            role.freeze()
    ledger = Ledger()
    watched = ledger.watch(roles, [name for name, spec in needed.items() if spec.trained])
    turns = plan.stage.objective.build().turns()
    backbone = plan.recipe.backbone.build(plan.recipe.data.spec())
    chunking, frames = _CountedChunks(backbone.chunking()), backbone.latent_shape()[0]
    steps = min(plan.stage.steps, _MOST_STEPS)
    backwards = dict.fromkeys((turn.role for turn in turns), 0)
    for step in range(steps):
        for index, turn in enumerate(turns):
            if step % turn.every:
                continue
            draw = Draw.whole(plan.seed, plan.stage.name, step, f"{index}-{turn.role}", plan.stage.batch)
            batch = Batch(torch.zeros(draw.count, frames, 1), NoCond(), NoCond())
            for loss in turn.losses(Scene(watched, batch, draw, chunking, World())):
                loss.value.backward()
                backwards[turn.role] += 1
    return StageCost(steps, ledger.calls, backwards)


@final
class _CountedChunks(Chunking):
    """The chunks of `real`, for stand-ins: what is remembered is nothing, but costs its network call."""

    def __init__(self, real: Chunking) -> None:
        self._real = real

    def sizes(self, frames: int, given: int = 0) -> tuple[int, ...]:
        return self._real.sizes(frames, given)

    def window(self, frames: int, draw: Draw) -> Window:
        return self._real.window(frames, draw)

    def forced(self, batch: Batch, window: Window) -> Batch:
        return Batch(batch.x0[:, window.start : window.stop], batch.cond, batch.null)

    def whole(self, batch: Batch) -> Batch:
        return batch

    def given(self, network: Velocity, cond: Cond, frames: Tensor) -> Cond:
        return self.remember(network, cond, frames)

    def remember(self, network: Velocity, cond: Cond, chunk: Tensor) -> Cond:
        network.velocity(chunk, torch.zeros(len(chunk)), cond)
        return cond


def _stand_in(name: str, kind: NetworkKind) -> Role:
    module = _Scale()
    network = _StandInFlowMap(module) if kind == "flow_map" else _StandInVelocity(module)
    role = Role(name, network, module, dict(module.named_parameters()))
    role.average = {"scale": torch.zeros(())}
    return role


@final
class _Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


@final
class _StandInVelocity(Velocity):
    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        result: Tensor = self._module(x)
        return result


@final
class _StandInFlowMap(FlowMap):
    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        result: Tensor = self._module(x)
        return result
