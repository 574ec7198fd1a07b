"""The processes that share a run, as started by torchrun or accelerate's launcher; one if by neither."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import Any, final

import torch
from accelerate import PartialState
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from flowmap.console.commands import process
from flowmap.phases import phase
from flowmap.recipe.tables import ComputeConfig
from flowmap.schema.words import Precision

# The first process may evaluate for hours while the others wait.
_PATIENCE = timedelta(days=30)
_POLL_SECONDS = 0.05


@final
class Processes:
    """How many processes there are, which of them this is, its device, and what it says to the others."""

    def __init__(self, compute: ComputeConfig) -> None:
        found = accelerator() if compute.device == "auto" else None
        self.number, self.index, self.device = 1, 0, found or torch.device("cpu")
        if process()[1] > 1:
            # Accelerate joins processes without an accelerator only if told that there is none.
            state = PartialState(cpu=found is None)
            self.number, self.index, self.device = state.num_processes, state.process_index, state.device
        self.precision: Precision = compute.precision
        self.compiled = compute.compile
        if self.number > 1:
            # Made by all at once, here: later some may be busy elsewhere.
            _group()

    @property
    def first(self) -> bool:
        """Whether this process writes the files and talks to the user."""
        return self.index == 0

    def memory(self) -> int | None:
        """Bytes of this process's accelerator; None on a CPU."""
        return int(torch.cuda.get_device_properties(self.device).total_memory) if self.device.type == "cuda" else None

    def mesh(self) -> DeviceMesh:
        """All devices, one a process."""
        return _mesh(self.device.type, self.number)

    def wait(self) -> None:
        """Go on when all processes have come here; signals are heard meanwhile.

        Raises RuntimeError if another process has ended.
        """
        if self.number > 1:
            work = distributed.barrier(_group(), async_op=True)
            with phase("waiting for the other processes"):
                while not work.is_completed():
                    time.sleep(_POLL_SECONDS)
            # It is completed too if another process has died: this raises then.
            work.wait()

    def total(self, numbers: Sequence[float]) -> list[float]:
        """The sums of `numbers` over all processes."""
        return self._reduced(numbers, distributed.ReduceOp.SUM)

    def most(self, number: float) -> float:
        """The largest `number` of any process."""
        return self._reduced([number], distributed.ReduceOp.MAX)[0]

    def _reduced(self, numbers: Sequence[float], by: Any) -> list[float]:
        if self.number == 1:
            return list(numbers)
        tensor = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(tensor, by, _group())
        return tensor.tolist()


def accelerator() -> torch.device | None:
    """The accelerator that `device = "auto"` stands for, if there is one.

    Apple's is none: its tensors cannot be float64, which times and logged sums are.
    """
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None or found.type == "mps":
        return None
    return torch.device(found.type, torch.accelerator.current_device_index())


def leave() -> None:
    """End what connects the processes; to be called last."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


@cache
def _group() -> Any:
    """For small talk on the CPU, whatever the devices are."""
    return distributed.new_group(backend="gloo", timeout=_PATIENCE)


@cache
def _mesh(device: str, number: int) -> DeviceMesh:
    return init_device_mesh(device, (number,))
