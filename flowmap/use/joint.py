"""What several processes do together with one network: each makes a part of the samples, and the first has them all.

A sharded network is gathered, unit after unit, by all processes in every call (FSDP2), so that all must make equally
many: those who have fewer batches make one of a neighbour's again, for company, and drop it. One batch for all would
leave all but one share of the devices idle, and calls without samples are none that a network is made for.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd import forward_ad

from flowmap.errors import FlowmapError
from flowmap.interfaces import Batch, Cond, FlowMap, Velocity
from flowmap.maths.draw import Draw
from flowmap.plugin.kinds import SamplerConfig
from flowmap.training.processes import Processes
from flowmap.use.counting import Tally
from flowmap.use.student import ReadyModel, at_once, generate
from flowmap.use.watching import Watcher


def made_by_all(
    processes: Processes,
    contestant: ReadyModel,
    sampler: SamplerConfig,
    calls: int,
    shift: float | None,
    draw: Draw,
    start: Batch | None,
    scale: float,
    watcher: Watcher | None = None,
    tally: Tally | None = None,
) -> Tensor | None:
    """In the first process all samples of `draw` (see `generate`), of which each has made a part; None in the others.

    Parts are whole batches, cut as one process would cut them. A `tally` counts those that this process makes.
    """
    if processes.number == 1:
        return generate(contestant, sampler, calls, shift, draw, start, scale, watcher=watcher, tally=tally)
    size = at_once(contestant)
    count = -(-draw.count // size)
    begin, end = processes.dealt(count)[processes.share]
    idle = 0
    if contestant.sharded:
        begin, end, idle = processes.in_step(count)
        # The first may be busy for hours, for which nobody waits within a call.
        processes.wait()
    rows = min(begin * size, draw.count), min(end * size, draw.count)
    mine = generate(contestant, sampler, calls, shift, draw, start, scale, watcher=watcher, rows=rows, tally=tally)
    sizes = [min(end * size, draw.count) - min(begin * size, draw.count) for begin, end in processes.dealt(count)]
    return processes.collected(mine[idle * size :], sizes)


@contextmanager
def led(contestant: ReadyModel, processes: Processes) -> Iterator[Velocity | None]:
    """In the first process a network to call at will within this context, whatever the others have; None in those.

    If all have to call it together, the others do here what the first does, until its context has ended.
    """
    network = contestant.network
    if processes.number == 1 or not (contestant.sharded or processes.sequence > 1):
        yield network if processes.first else None
        return
    if not processes.first:
        _follow(network, processes, contestant.device)
        yield None
        return

    def tell(*inputs: Any) -> None:
        processes.told(_packed(inputs, contestant.device))

    yield _LedFlowMap(network, tell) if isinstance(network, FlowMap) else _LedVelocity(network, tell)
    processes.told(None)


@torch.no_grad()
def _follow(network: Velocity, processes: Processes, device: torch.device) -> None:
    while told := processes.told(None):
        x, t, r, cond = _unpacked(told, device)
        if isinstance(network, FlowMap):
            network.mean_velocity(x, t, r, cond)
        else:
            network.velocity(x, t, cond)


def _packed(inputs: Sequence[Any], device: torch.device) -> tuple[str, bytes]:
    """The `device` that the inputs of a call are on, and the inputs. Conditions are of whatever class they are."""
    held = io.BytesIO()
    torch.save(inputs, held)
    return str(device), held.getvalue()


def _unpacked(told: tuple[str, bytes], device: torch.device) -> tuple[Tensor, Tensor, Tensor, Cond]:
    """The same inputs on this process's `device`, but for what was not on the first one's."""
    before, inputs = told
    # From a process of this very run, and from no file: conditions are no tensors alone.
    found: tuple[Tensor, Tensor, Tensor, Cond] = torch.load(
        io.BytesIO(inputs), map_location={before: str(device)}, weights_only=False
    )
    return found


def _refuse_slopes(*inputs: Tensor) -> None:
    """No others could follow a derivative: a graph and a tangent are of one process."""
    if any((x.requires_grad and torch.is_grad_enabled()) or _tangent(x) for x in inputs):
        raise FlowmapError(
            "a metric takes derivatives of a network that several processes call together, which no process can do "
            "for the others; measure it with compute.sampling = 'replicated' and compute.sequence = 1",
            code=1,
        )


def _tangent(x: Tensor) -> bool:
    return forward_ad.unpack_dual(x).tangent is not None


@final
class _LedVelocity(Velocity):
    def __init__(self, network: Velocity, tell: Callable[..., None]) -> None:
        self._network, self._tell = network, tell

    def velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        _refuse_slopes(x, t)
        self._tell(x, t, t, cond)
        return self._network.velocity(x, t, cond)


@final
class _LedFlowMap(FlowMap):
    def __init__(self, network: FlowMap, tell: Callable[..., None]) -> None:
        self._network, self._tell = network, tell

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        _refuse_slopes(x, t, r)
        self._tell(x, t, r, cond)
        return self._network.mean_velocity(x, t, r, cond)
