"""Open a stage: make its roles from the backbone and earlier checkpoints, its objective, its optimisers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from flowmap.files.folder import StoppedError
from flowmap.files.manifest import Checkpoint, checkpoints
from flowmap.interfaces import Backbone, Data, Objective, Role, Turn
from flowmap.interfaces.held import postponed
from flowmap.maths.draw import Draw
from flowmap.phases import each, phase
from flowmap.recipe.layout import StagePlan
from flowmap.recipe.tables import OptimizerConfig, RoleConfig
from flowmap.schema.words import Weights
from flowmap.training.checkpoint import read_weights
from flowmap.training.ema import start_average
from flowmap.training.kernels import choose_attention
from flowmap.training.processes import Processes
from flowmap.training.reduction import Reducer, alike
from flowmap.training.sharding import place
from flowmap.training.terms import turns_of
from flowmap.training.verify import verify


@dataclass(frozen=True)
class Stage:
    """A stage ready to run; `optimizers` and `schedules` are those of the trained roles.

    `reducers` average the gradients of each role over all processes. So many micro-batches are made ready ahead as
    `prefetch` says.
    """

    plan: StagePlan
    backbone: Backbone
    data: Data
    objective: Objective
    roles: Mapping[str, Role]
    optimizers: Mapping[str, torch.optim.Optimizer]
    schedules: Mapping[str, OptimizerConfig]
    processes: Processes
    reducers: Mapping[str, Reducer]
    prefetch: int = 0

    def turns(self) -> tuple[Turn, ...]:
        """The objective's turns."""
        return turns_of(self.plan.stage.objective, self.objective)


def base_draw(seed: int) -> Draw:
    """The randomness of a seed's base weights: 'base' is one thing, whichever role or stage starts from it."""
    return Draw.whole(seed, "base", 0, "weights", 1)


def finished(folder: Path, steps: int, check: bool = True) -> Checkpoint | None:
    """The last checkpoint of a stage that has done all its `steps`, verified if to `check`; None if it has not."""
    found = checkpoints(folder)
    if not found or found[-1].step < steps:
        return None
    if check:
        verify(found[-1])
    return found[-1]


def stage_weights(plan: StagePlan, source: str, weights: Weights, check: bool = True) -> dict[str, Tensor]:
    """The student's weights of the finished stage `source` of `plan`'s run and seed.

    Of several processes it is enough if one does `check` them. Raises StoppedError if the stage is not finished, or if
    its checkpoint is damaged.
    """
    folder = plan.folder.parent / source
    checkpoint = finished(folder, plan.recipe.stage(source).steps, check)
    if checkpoint is None:
        raise StoppedError(f"stage '{source}' is not finished in {folder}.")
    return read_weights(checkpoint, "student", weights)


def open_stage(plan: StagePlan, processes: Processes, lowered: float = 1.0) -> Stage:
    """Make everything that `plan` needs, on the device of this process, networks sharded over all processes.

    Learning rates are `lowered` times those of the recipe.
    """
    spec = plan.recipe.data.spec()
    backbone = plan.recipe.backbone.build(spec)
    choose_attention(processes.compute.cudnn_attention, plan.recipe.backbone.cudnn_attention())
    roles: dict[str, Role] = {}
    optimizers: dict[str, torch.optim.Optimizer] = {}
    schedules: dict[str, OptimizerConfig] = {}
    specs = plan.stage.objective.roles()
    with postponed():
        for name, needed in each(list(specs.items()), "making networks"):
            roles[name] = backbone.role(
                name, needed.kind, _weights(plan, plan.role(name), processes), base_draw(plan.seed)
            )
    for name, role in roles.items():
        if not specs[name].trained:
            role.freeze()
    with phase(f"moving networks to {processes.device}"):
        reducers = place(roles.values(), processes)
    for name, role in roles.items():
        if specs[name].trained:
            schedule = plan.role(name).optimizer or plan.stage.optimizer
            schedules[name] = schedule.model_copy(update={"lr": lowered * schedule.lr})
            optimizers[name] = _optimizer(role, schedules[name])
            if name == "student":
                start_average(role)
    with phase("opening the data"):
        data = (plan.stage.data or plan.recipe.data).build()
    return Stage(
        plan,
        backbone,
        data,
        plan.stage.objective.build(),
        roles,
        optimizers,
        schedules,
        processes,
        reducers,
        # On a CPU they would be made by the cores that compute.
        0 if processes.device.type == "cpu" else plan.recipe.compute.prefetch,
    )


def _weights(plan: StagePlan, config: RoleConfig, processes: Processes) -> dict[str, Tensor] | None:
    if config.from_ == "base":
        return None
    return stage_weights(plan, config.from_, config.weights, processes.first)


def _optimizer(role: Role, config: OptimizerConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        [{"params": group} for group in alike(role.own.values())],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )
