"""Shard the networks of a stage over all processes (FSDP2), and put whole tensors together again.

Each process keeps its part of every parameter, gradient, moment and moving average; the parts of a network that a
role names as its `units` are gathered one at a time while they compute.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import Role
from flowmap.training.compiled import compile_units
from flowmap.training.precision import compute_in
from flowmap.training.processes import Processes


def place(roles: Iterable[Role], processes: Processes) -> None:
    """Put the modules of `roles` on the device, in mixed precision and compiled if so asked.

    They are sharded if there are several processes. Roles may share a module. Their `own` parameters are new objects
    afterwards where they are sharded; whether they are trained must be decided before.
    """
    roles = list(roles)
    compile_units(roles, processes.compiled)
    for module in {id(role.module): role.module for role in roles}.values():
        compute_in(module, processes.precision, processes.device)
        if processes.number == 1:
            module.to(processes.device)
        else:
            _shard(module, [role for role in roles if role.module is module], processes)


def _shard(module: nn.Module, roles: list[Role], processes: Processes) -> None:
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    own = {role.name: {key: names[id(p)] for key, p in role.own.items()} for role in roles}
    scalars = [name for name, parameter in module.named_parameters() if not parameter.ndim]
    if scalars:
        raise FlowmapError(f"parameter '{scalars[0]}' is a scalar, which cannot be sharded; give it the shape [1]")
    # Nobody changes what a network returns, so it may be a view.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
    units = {id(unit): unit for role in roles for unit in role.units}
    for part in (*units.values(), module):
        # The root too: what it had gathered would still be used after the optimiser has changed the parameters.
        fully_shard(part, mesh=processes.mesh(), reshard_after_forward=True)
    sharded = dict(module.named_parameters())
    for role in roles:
        role.own = {key: sharded[name] for key, name in own[role.name].items()}


def local(tensor: Tensor) -> Tensor:
    """The part of `tensor` that this process holds: all of it, if it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of `tensor`, which must be asked for in all processes."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def like_sharded(value: Tensor, like: Tensor) -> Tensor:
    """The whole tensor `value`, sharded and placed as `like`."""
    value = value.to(like.device)
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
