"""A finished stage's student, ready to sample: what evaluation and `flowmap sample` share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flowmap.configs import SamplerConfig, Weights
from flowmap.draw import Draw
from flowmap.errors import FlowmapError
from flowmap.interfaces import Backbone, Data, Velocity
from flowmap.path import grid
from flowmap.plan import StagePlan
from flowmap.rollout import rollout
from flowmap.stage import base_draw, stage_weights

_CHUNK = 2048


@dataclass(frozen=True)
class Contestant:
    """A finished stage's student, ready to sample."""

    stage: str
    seed: int
    weights: Weights
    network: Velocity
    backbone: Backbone
    data: Data
    device: torch.device

    def draw(self, purpose: str, repeat: int, count: int) -> Draw:
        """Noise of its own: no other stage, weights, seed, purpose or repeat sees it."""
        return Draw.whole(self.seed, f"evaluate/{self.stage}/{self.weights}", repeat, purpose, count, self.device)


def open_contestant(plan: StagePlan, weights: Weights, device: torch.device) -> Contestant:
    """The student of the finished stage of `plan`. Raises FlowmapError if it is not finished."""
    stage = plan.stage
    backbone = plan.recipe.backbone.build(plan.recipe.data.spec())
    own = stage_weights(plan, stage.name, weights)
    role = backbone.role("student", stage.objective.roles()["student"].kind, own, base_draw(plan.seed))
    role.freeze()
    role.module.to(device).eval()
    return Contestant(stage.name, plan.seed, weights, role.network, backbone, plan.recipe.data.build(), device)


def steps_for(sampler: SamplerConfig, calls: int) -> int | None:
    """How many steps of `sampler` take exactly `calls` network calls; None if no number does."""
    return calls // sampler.calls_per_step if calls % sampler.calls_per_step == 0 else None


@torch.no_grad()
def generate(contestant: Contestant, sampler: SamplerConfig, calls: int, shift: float, draw: Draw) -> Tensor:
    """Samples `[draw.count, F, ...]` in data space, on the CPU, with `calls` network calls each.

    Raises FlowmapError if the sampler cannot take exactly that many.
    """
    steps = steps_for(sampler, calls)
    if steps is None:
        per_step = sampler.calls_per_step
        raise FlowmapError(
            f"sampler '{sampler.type}' takes {per_step} calls a step, so {calls} is not possible; "
            f"nearest: {max(per_step, calls - calls % per_step)}"
        )
    backbone, times = contestant.backbone, grid(steps, shift, contestant.device)
    parts: list[Tensor] = []
    for first in range(draw.first, draw.first + draw.count, _CHUNK):
        count = min(_CHUNK, draw.first + draw.count - first)
        part = replace(draw, first=first, count=count)
        noise = part.normal("start noise", backbone.latent_shape())
        cond, _ = backbone.condition(contestant.data.prompts(part), count)
        x = rollout(sampler.build(), contestant.network, noise, times, cond, backbone.chunking(), part)
        parts.append(backbone.decode(x).cpu())
    return torch.cat(parts)
