"""Shard the networks of a stage over all processes (FSDP2), and put whole tensors together again.

Each process keeps its part of every parameter, gradient, moment and moving average; the parts of a network that a
role names as its `units` are gathered one at a time while they compute. What is small or frozen may be whole in each.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import Role, share_tokens
from flowmap.interfaces.held import held, is_exact, take_to
from flowmap.training.compiled import compile_units
from flowmap.training.meshes import sharding
from flowmap.training.precision import compute_in
from flowmap.training.processes import Processes
from flowmap.training.reduction import Flush, Reducer
from flowmap.training.sharing import reduced_once, replicated, sharded_within

_FEW = 0.01
"""Share of a unit's parameters that may be whole in each process, so that the others can be gathered in bfloat16."""


def place(roles: Iterable[Role], processes: Processes) -> dict[str, Reducer]:
    """Put the modules of `roles` on the device, in mixed precision and compiled if so asked.

    They are sharded if there are several processes. Roles may share a module. Their `own` parameters are new objects
    afterwards where they are sharded; whether they are trained must be decided before. Returns what averages the
    gradients of each role.
    """
    roles, reducers = list(roles), dict[str, Reducer]()
    for module in _prepared(roles, processes):
        if processes.number == 1:
            take_whole(module, processes.device)
            reducers |= {role.name: Reducer() for role in roles}
        else:
            reducers |= _shard_trained(module, [role for role in roles if role.module is module], processes)
    return reducers


def place_called(role: Role, processes: Processes) -> None:
    """Shard the module of `role`, which nobody trains, over all `processes`, of which there are several.

    Nothing of it stays gathered after a call: no gradient will ask for it. As `place` otherwise.
    """
    for module in _prepared([role], processes):
        within = sharded_within(
            processes.compute.shard, processes.number, processes.node, size_of(module), processes.least_memory()
        )
        mesh = sharding(processes.device.type, processes.number, within)
        _shard(module, [role], processes, mesh, set(), kept=False)


def put_in(role: Role, own: Mapping[str, Tensor]) -> None:
    """Set the own parameters of a sharded `role` to the whole tensors `own`, of the same names and shapes."""
    role.let_go()
    copy_in(role.own, own)


def size_of(module: nn.Module) -> int:
    """Bytes of the parameters of `module`, as they are held."""
    return sum(_bytes(parameter) for parameter in module.parameters())


def take_whole(module: nn.Module, device: torch.device) -> None:
    """Take all of `module` to `device`. What is trained shares no memory with what it was read from afterwards."""
    for parameter in module.parameters():
        _take_own(device, parameter)
    module.to(device)


def _take_own(device: torch.device, parameter: nn.Parameter) -> None:
    read = parameter.data
    take_to(device, parameter)
    if parameter.requires_grad and parameter.data_ptr() == read.data_ptr():
        parameter.data = read.clone()


def _prepared(roles: list[Role], processes: Processes) -> Iterator[nn.Module]:
    """The modules of `roles`, each once, ready to be taken to the device."""
    compile_units(roles, processes.compute.compile)
    for module in {id(role.module): role.module for role in roles}.values():
        compute_in(module, processes.precision, processes.device)
        share_tokens(module, processes.tokens())
        yield module


def _shard_trained(module: nn.Module, roles: list[Role], processes: Processes) -> dict[str, Reducer]:
    compute, memory = processes.compute, processes.least_memory()
    base = sum(_bytes(parameter) for parameter in module.parameters() if not parameter.requires_grad)
    still = replicated(compute.base, base, memory)
    # Nothing else may refer to a parameter, which would be kept whole beside its shards.
    whole_ones = {parameter for parameter in module.parameters() if still and not parameter.requires_grad}
    within = sharded_within(compute.shard, processes.number, processes.node, _held(module), memory)
    mesh = sharding(processes.device.type, processes.number, within)
    flush = Flush(module, mesh, processes.device)
    _shard(module, roles, processes, mesh, whole_ones, kept=True)
    reducers = {}
    for role in roles:
        gradient = sum(p.numel() * torch.float32.itemsize for p in role.own.values())
        once = reduced_once(compute.reduction, gradient, memory)
        reducers[role.name] = Reducer(module, flush, role.own.values(), once)
    return reducers


def _shard(
    module: nn.Module,
    roles: list[Role],
    processes: Processes,
    mesh: DeviceMesh,
    whole_ones: set[nn.Parameter],
    kept: bool,
) -> None:
    """Shard `module` but for `whole_ones`; of what backward needs first, what forward gathered is `kept`, or not."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    own = {role.name: {key: names[id(p)] for key, p in role.own.items()} for role in roles}
    for role in roles:
        role.own = {}
    scalars = [name for name, parameter in module.named_parameters() if not parameter.ndim]
    if scalars:
        raise FlowmapError(f"parameter '{scalars[0]}' is a scalar, which cannot be sharded; give it the shape [1]")
    # Nobody changes what a network returns, so it may be a view.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
    units = list({id(unit): unit for role in roles for unit in role.units}.values())
    policies = {unit: MixedPrecisionPolicy() for unit in units}
    if processes.precision == "bf16":
        for unit in units:
            exact = set(_exact(unit))
            if sum(p.numel() for p in exact) <= _FEW * sum(p.numel() for p in unit.parameters()):
                whole_ones = whole_ones | exact
                # Inputs are cast where autocast casts them, and nowhere else.
                policies[unit] = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for parameter in whole_ones:
        _take_own(processes.device, parameter)
    for unit in units:
        # Of the last unit, and of what belongs to none, backward needs at once what forward has gathered.
        again, policy = not kept or unit is not units[-1], policies[unit]
        with _taken(unit, whole_ones, processes.device):
            fully_shard(unit, mesh=mesh, reshard_after_forward=again, mp_policy=policy, ignored_params=whole_ones)
    with _taken(module, whole_ones, processes.device):
        fully_shard(module, mesh=mesh, reshard_after_forward=not kept, ignored_params=whole_ones)
    sharded = dict(module.named_parameters())
    for role in roles:
        role.own = {key: sharded[name] for key, name in own[role.name].items()}


@contextmanager
def _taken(part: nn.Module, whole_ones: set[nn.Parameter], device: torch.device) -> Iterator[None]:
    """Within this context the parameters that `part` is about to shard are whole on `device`, and no others."""
    parameters = [p for p in part.parameters() if p not in whole_ones and not isinstance(p, DTensor)]
    for parameter in parameters:
        take_to(device, parameter)
    yield
    for parameter in parameters:
        # Sharded, it is in a circle of references, and would stay until Python looks for those.
        parameter.data = torch.empty(0, dtype=parameter.dtype, device=device)


def _exact(part: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters of `part` that mixed precision takes as they are: all but those of matrix products."""
    if is_exact(part):
        yield from part.parameters()
        return
    if not isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        yield from part.parameters(recurse=False)
    for layer in part.children():
        yield from _exact(layer)


def _held(module: nn.Module) -> int:
    """Bytes of the parameters of `module`, and of the gradient, both moments and the average of the trained ones."""
    return sum(_bytes(p) + p.requires_grad * 4 * p.numel() * torch.float32.itemsize for p in module.parameters())


def _bytes(parameter: nn.Parameter) -> int:
    return parameter.numel() * held(parameter).itemsize


def local(tensor: Tensor) -> Tensor:
    """The part of `tensor` that this process holds: all of it, if it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of `tensor`, which must be asked for in all processes."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def copy_in(target: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    """Copy the whole tensors `source` into those of the same names in `target`, which may be sharded."""
    for name, tensor in target.items():
        local(tensor).copy_(local(like_sharded(source[name], tensor)))


@torch.no_grad()
def like_sharded(value: Tensor, like: Tensor) -> Tensor:
    """The whole tensor `value`, sharded and placed as `like`."""
    value = value.to(like.device)
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
