"""The moving average of a role's own parameters: decay 0 before a start step, then constant (AnyFlow)."""

from __future__ import annotations

import torch

from flowmap.interfaces import Role
from flowmap.recipe.tables import EmaConfig
from flowmap.training.sharding import local


def start_average(role: Role) -> None:
    """Begin averaging `role`: a float32 copy of its parameters."""
    role.average = {name: p.detach().to(torch.float32, copy=True) for name, p in role.own.items()}


@torch.no_grad()
def update_average(role: Role, config: EmaConfig, step: int) -> None:
    """Move the average towards the parameters after `step` (0-based): a <- d a + (1 - d) p."""
    decay = config.decay if step >= config.start else 0.0
    own = [local(role.own[name]).float() for name in role.average]
    torch._foreach_lerp_([local(value) for value in role.average.values()], own, 1.0 - decay)
