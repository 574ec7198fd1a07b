"""Gradients of several processes: averaged over all of them, measured and clipped as one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

_FLUSH = "gradient_reduction"


@final
class Flush(nn.Module):
    """A part of a sharded module `[]` to `[]` that computes nothing, and whose backward reduces what others have kept.

    FSDP2 has no call for that: at the end of a backward pass through any part of a module it reduces the gradients of
    every part that has some (`set_requires_gradient_sync`).
    """

    def __init__(self, module: nn.Module, mesh: DeviceMesh, device: torch.device) -> None:
        """Put it into `module`, which is on `device` and about to be sharded over `mesh`."""
        super().__init__()
        self._device = device
        module.add_module(_FLUSH, self)
        fully_shard(self, mesh=mesh)

    def forward(self, x: Tensor) -> Tensor:
        """`x`."""
        return x * 1

    def reduce(self) -> None:
        """Reduce what was kept. `module` must have been called before."""
        self(torch.zeros((), device=self._device, requires_grad=True)).backward()


@final
class Reducer:
    """Averages the gradients of the parameters `own`, a part of the sharded `module`, over all processes.

    `once` a turn, for which each process holds all of them, or after each backward pass. Those of parameters that are
    whole in each process are averaged once in any case. Without a `flush` there is one process, and nothing to do.
    """

    def __init__(
        self,
        module: nn.Module | None = None,
        flush: Flush | None = None,
        own: Iterable[nn.Parameter] = (),
        once: bool = False,
    ) -> None:
        self._module, self._flush, self._once = module, flush, once
        self._whole = [parameter for parameter in own if not isinstance(parameter, DTensor)]

    def begin(self) -> None:
        """A turn begins: what follows are its backward passes."""
        self._sync(not self._once)

    def end(self) -> None:
        """It has ended; gradients are those of all processes now."""
        self._sync(True)
        if self._flush is None:
            return
        if self._once:
            self._flush.reduce()
        _average([parameter.grad for parameter in self._whole if parameter.grad is not None])

    def _sync(self, after_each: bool) -> None:
        if isinstance(self._module, FSDPModule):
            self._module.set_requires_gradient_sync(after_each)


def _average(gradients: Sequence[Tensor]) -> None:
    """Put the means over all processes in the place of `gradients`."""
    if not gradients:
        return
    together = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(together)
    together /= torch.distributed.get_world_size()
    for gradient, mean in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def alike(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """`parameters` in groups that one operation can take together: sharded ones and whole ones."""
    sharded: list[nn.Parameter] = []
    whole: list[nn.Parameter] = []
    for parameter in parameters:
        (sharded if isinstance(parameter, DTensor) else whole).append(parameter)
    return [group for group in (sharded, whole) if group]


@torch.no_grad()
def clip(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale the gradients of `parameters` to a norm of at most `limit` (0: any); returns the norm before, a scalar."""
    parameters = list(parameters)
    groups = alike(p for p in parameters if p.grad is not None)
    if not groups:
        return torch.zeros((), device=parameters[0].device)
    norms = [torch.nn.utils.get_total_norm([p.grad for p in group if p.grad is not None]) for group in groups]
    norms = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    for group in groups:
        torch.nn.utils.clip_grads_with_norm_(group, limit or math.inf, norm)
    return norm
