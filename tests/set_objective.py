"""An objective over sets of samples, as a stranger would write it: it compares samples within groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor

from flowmap.interfaces import Loss, Objective, Scene, StudentObjective
from flowmap.maths.pairs import draw_pairs
from flowmap.maths.path import noised
from flowmap.plugin import Finding, ObjectiveConfig, RoleSpec, StageFacts
from flowmap.plugin import catalogue as module
from flowmap.plugin.catalogue import Catalogue, Component
from flowmap.schema.settings import BranchesConfig, uniform_times


class EnergyConfig(ObjectiveConfig):
    """Inductive moment matching in its simplest form: the energy distance of jumps and data, within groups."""

    type: Literal["energy"] = "energy"
    samples: int = Field(4, ge=2, le=1024, description="of a group")
    declared: bool = Field(True, description="whether the configuration says so")

    def group(self) -> int:
        return self.samples if self.declared else 1

    def roles(self) -> Mapping[str, RoleSpec]:
        return {"student": RoleSpec("flow_map", True, "jumps")}

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        return ()

    def build(self) -> Objective:
        return Energy(self)


@final
@dataclass(frozen=True)
class Energy(StudentObjective):
    """The mean over groups of 2 E|X - Y| - E|X - X'|, X = X_{t->r}(x_t), Y on the path at r; t, r one for a group."""

    config: EnergyConfig

    def losses(self, scene: Scene) -> Iterator[Loss]:
        draw, batch, size = scene.draw, scene.batch, self.config.samples
        pairs = draw_pairs(draw.groups(size), BranchesConfig(diffusion=0.0), uniform_times())
        x = noised(batch.x0, draw.normal("noise", batch.x0.shape[1:]), pairs.t)
        y = noised(batch.x0, draw.normal("other noise", batch.x0.shape[1:]), pairs.r)
        made = scene.flow_map("student").jump(x, pairs.t, pairs.r, batch.cond)
        of_groups = energy(*(part.flatten(1).unflatten(0, (-1, size)) for part in (made, y)))
        yield Loss("energy", of_groups.mean(), {"energy": of_groups.detach()})


def energy(x: Tensor, y: Tensor) -> Tensor:
    """Of samples `x` and `y` `[G, m, D]` the energy distance of each group `[G]`, without the part of y alone."""
    apart = (x[:, :, None] - x[:, None]).square().sum(-1) + 1e-6
    return 2 * torch.cdist(x, y).mean((1, 2)) - apart.sqrt().mean((1, 2))


def install() -> None:
    """Make the objective an installed one, in this process."""
    real = module.catalogue()
    ours = Component("objective", "energy", EnergyConfig, "strange 0.1", "A stranger's.")
    grown = Catalogue([*real.components, ours], real.broken)
    module.catalogue = lambda: grown  # type: ignore[assignment]
