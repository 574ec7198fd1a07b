"""The processes that share a run, as started by torchrun or accelerate's launcher; one if by neither."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from itertools import pairwise
from typing import Any, final

import torch
from accelerate import PartialState
from torch import Tensor, distributed

from flowmap.console.commands import node, process
from flowmap.interfaces import TokenGroup
from flowmap.phases import phase
from flowmap.recipe.tables import ComputeConfig
from flowmap.schema.words import Precision
from flowmap.training.meshes import mesh

# The first process may evaluate for hours while the others wait.
_PATIENCE = timedelta(days=30)
_POLL_SECONDS = 0.05


@final
class Processes:
    """How many processes there are, which of them this is, its device, and what it says to the others.

    Each node has `node` of them, with neighbouring indices. `sequence` neighbours share samples: this process holds
    those of `share`, one of `shares` of a batch.
    """

    def __init__(self, compute: ComputeConfig) -> None:
        found = accelerator() if compute.device == "auto" else None
        self.number, self.index, self.device = 1, 0, found or torch.device("cpu")
        if process()[1] > 1:
            # Accelerate joins processes without an accelerator only if told that there is none.
            state = PartialState(cpu=found is None)
            self.number, self.index, self.device = state.num_processes, state.process_index, state.device
        self.precision: Precision = compute.precision
        # Neighbours share samples: they are on one machine if any are. One process that samples shares with nobody.
        self.sequence = 1 if self.number % compute.sequence else compute.sequence
        self.shares, self.share = self.number // self.sequence, self.index // self.sequence
        self.compute = compute
        self.node = self.number
        if self.number > 1:
            # Made by all at once, here: later some may be busy elsewhere.
            _group()
            self.node = _node()
            self.tokens()

    @property
    def first(self) -> bool:
        """Whether this process writes the files and talks to the user."""
        return self.index == 0

    def memory(self) -> int | None:
        """Bytes of this process's accelerator; None on a CPU."""
        return int(torch.cuda.get_device_properties(self.device).total_memory) if self.device.type == "cuda" else None

    def least_memory(self) -> int | None:
        """The least `memory` of any process, to decide by what all must decide alike."""
        mine = self.memory()
        return None if mine is None else -int(self.most(-mine))

    def tokens(self) -> TokenGroup | None:
        """Who shares the tokens of this process's samples; None if nobody does."""
        if self.sequence == 1:
            return None
        return TokenGroup(self.sequence, self.index % self.sequence, self._group_of("sequence"))

    def sharers(self) -> Any:
        """Torch's group of the processes that hold one share of the batch each, this one among them; None: all."""
        return None if self.sequence == 1 else self._group_of("share")

    def _group_of(self, dimension: str) -> Any:
        return mesh(self.device.type, share=self.shares, sequence=self.sequence).get_group(dimension)

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

    def agreed(self, numbers: Sequence[float]) -> list[float]:
        """The `numbers` of the first process, for all to go by; the others may see their files later or earlier."""
        return self.total(numbers if self.first else [0.0] * len(numbers))

    def dealt(self, count: int) -> list[tuple[int, int]]:
        """The first and the end of what each share takes of so many things in a row; the first never has least."""
        ends = [-(-count * share // self.shares) for share in range(self.shares + 1)]
        return list(pairwise(ends))

    def collected(self, rows: Tensor, sizes: Sequence[int]) -> Tensor | None:
        """In the first process the `rows` of all shares, one after another, on the CPU; None in the others.

        Share i has `sizes[i]` rows, the first at least one. Nobody waits but the first and whoever gives it rows.
        """
        if not self.first:
            # Of those who hold a share, each has the whole of it.
            if len(rows) and self.index % self.sequence == 0:
                distributed.send(rows.cpu().contiguous(), 0, _group())
            return None
        parts = [rows.cpu()]
        for share, size in enumerate(sizes):
            if share and size:
                parts.append(torch.empty(size, *rows.shape[1:], dtype=rows.dtype))
                with phase("waiting for the samples of the other processes"):
                    distributed.recv(parts[-1], share * self.sequence, _group())
        return torch.cat(parts)

    def in_step(self, count: int) -> tuple[int, int, int]:
        """The first and the end of what this share takes of so many things, if all shares must take equally many.

        And how many of them, the first ones, it takes for company only: a neighbour has them too.
        """
        begin, end = self.dealt(count)[self.share]
        most = -(-count // self.shares)
        return end - most, end, most - (end - begin)

    def told(self, what: Any) -> Any:
        """`what` the first process says, for all; who waits for it waits for as long as it takes."""
        held = [what]
        distributed.broadcast_object_list(held, 0, _group())
        return held[0]

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


@cache
def _node() -> int:
    """How many processes there are on each node; all of them, where nodes have different numbers."""
    everywhere = torch.zeros(distributed.get_world_size(), dtype=torch.int64)
    everywhere[distributed.get_rank()] = node()
    distributed.all_reduce(everywhere, group=_group())
    fewest, most = int(everywhere.min()), int(everywhere.max())
    return most if fewest == most and len(everywhere) % most == 0 else len(everywhere)


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
