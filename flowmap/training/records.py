"""What steps of a stage were like: taken first, and read when it is time, for reading waits for an accelerator."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, final

import torch
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.training.memory import peak_memory
from flowmap.training.processes import Processes

_MOST = 100  # steps that are told together


@dataclass(frozen=True)
class StepRecord:
    """What one step did; a line of `steps.jsonl`, but for the `doubts`: what the user should hear, if anything.

    `step` counts finished steps, from 1. `losses` and `raw` are per branch, `norms` (gradient norm before
    clipping) and `lr` per trained role, `calls` and `backwards` as in the ledger: calls are those of one
    process (all make the same), samples those of all. `seconds` is the mean over the steps that were read together,
    `peak_bytes` the most memory that a process (or its accelerator) has held since the stage began. `newest` says
    whether the stage stands right behind this step: no later one is taken.
    """

    step: int
    losses: dict[str, float]
    raw: dict[str, float]
    norms: dict[str, float]
    lr: dict[str, float]
    calls: dict[str, dict[str, int]]
    backwards: int
    seconds: float
    peak_bytes: int
    doubts: tuple[str, ...] = ()
    newest: bool = True

    def line(self) -> dict[str, Any]:
        """The record as a JSON object."""
        return {name: value for name, value in asdict(self).items() if name not in ("doubts", "newest")}


class NonFiniteError(FlowmapError):
    """A loss or a gradient that is NaN or infinite; the step was not applied."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"step {step}: {what}. The step was not applied.", code=1)
        self.step = step


@final
@dataclass(frozen=True)
class Turned:
    """A turn of `role` that was differentiated, in so many `parts` (micro-batches).

    `numbers` are on the device, in float64: for each of `branches` the sum of its losses over the parts, for each name
    in `counts` the sum of so many numbers to log, and the gradient's norm before clipping. `culprit` finds out which
    branch made a gradient that is not finite, as long as the parameters are those of the turn.
    """

    role: str
    parts: int
    branches: Sequence[str]
    counts: dict[str, int]
    numbers: Tensor
    culprit: Callable[[], str]


@final
@dataclass
class _Step:
    """A step that was taken, from 1; its turns are read one after the other."""

    step: int
    turns: list[Turned] = field(default_factory=list)
    read: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    raw: dict[str, float] = field(default_factory=dict)
    norms: dict[str, float] = field(default_factory=dict)
    rest: dict[str, Any] = field(default_factory=dict)


@final
class Records:
    """The steps of a stage that were taken and are not told yet, in all processes alike.

    They are to be told about every so many `seconds`, 0 for each by itself.
    """

    def __init__(self, processes: Processes, seconds: float = 0.0) -> None:
        self._processes, self._seconds = processes, seconds
        self._steps: list[_Step] = []
        self._begin = time.perf_counter()
        self._together = 1

    def begin(self, step: int) -> bool:
        """A step begins, counted from 1; returns whether it is time to tell it, and those before it."""
        if not self._steps:
            self._begin = time.perf_counter()
        self._steps.append(_Step(step))
        return len(self._steps) >= self._together

    def add(self, turn: Turned) -> None:
        """A turn of the newest step was taken."""
        self._steps[-1].turns.append(turn)

    def end(self, **rest: Any) -> None:
        """The newest step has ended; the `rest` of its record is known without its numbers."""
        self._steps[-1].rest = rest

    def read(self) -> NonFiniteError | None:
        """Read all turns that are not read yet; returns what is wrong with the first that is not finite.

        One transfer for all their numbers: on an accelerator each is a synchronisation.
        """
        unread = [(step, turn) for step in self._steps for turn in step.turns[step.read :]]
        if not unread:
            return None
        found: list[float] = torch.cat([turn.numbers for _, turn in unread]).tolist()
        counts = [float(count) for _, turn in unread for count in turn.counts.values()]
        summed, own = iter(self._processes.total([*found, *counts])), iter(found)
        sums = [[list(islice(x, len(turn.numbers))) for x in (summed, own)] for _, turn in unread]
        for (step, turn), (numbers, mine) in zip(unread, sums, strict=True):
            step.read += 1
            several = turn.parts * self._processes.number
            # The last number is the norm.
            sums_of_losses, totals_of_raw = numbers[: len(turn.branches)], numbers[len(turn.branches) : -1]
            step.losses |= {name: total / several for name, total in zip(turn.branches, sums_of_losses, strict=True)}
            totals = zip(turn.counts, totals_of_raw, strict=True)
            step.raw |= {name: total / count for name, total in totals if (count := next(summed))}
            step.norms[turn.role] = mine[-1]
            if error := _error(step, turn):
                return error
        return None

    def told(self, before: int | None = None) -> Iterator[StepRecord]:
        """The records of the steps (`before` a step), all of which are read; they are no longer kept."""
        steps = [step for step in self._steps if before is None or step.step < before]
        self._steps = self._steps[len(steps) :]
        seconds = (time.perf_counter() - self._begin) / max(1, len(steps))
        peak = self._processes.most(peak_memory(self._processes.device))
        if self._seconds:
            # One number for all processes, whose clocks differ.
            self._together = max(1, int(min(self._seconds / self._processes.most(seconds), _MOST)))
        self._add_up(steps)
        for step in steps:
            yield StepRecord(
                step=step.step,
                losses=step.losses,
                norms=step.norms,
                raw=step.raw | step.rest.pop("measured"),
                seconds=seconds,
                peak_bytes=int(peak),
                newest=step is steps[-1] and not self._steps,
                **step.rest,
            )

    def _add_up(self, steps: Sequence[_Step]) -> None:
        """Make samples that were counted here those of all processes."""
        places = [
            (calls, key)
            for step in steps
            for calls in step.rest["calls"].values()
            for key in calls
            if key.endswith("_samples")
        ]
        totals = self._processes.total([calls[key] for calls, key in places])
        for (calls, key), total in zip(places, totals, strict=True):
            calls[key] = int(total) // self._processes.sequence


def _error(step: _Step, turn: Turned) -> NonFiniteError | None:
    for branch in turn.branches:
        if not math.isfinite(step.losses[branch]):
            why = f"the loss of branch '{branch}' of role '{turn.role}' is {step.losses[branch]}"
            return NonFiniteError(step.step, why)
    norm = step.norms[turn.role]
    if not math.isfinite(norm):
        why = f"the gradient of branch '{turn.culprit()}' of role '{turn.role}' is {norm}"
        return NonFiniteError(step.step, why)
    return None


@final
class Guard:
    """Keeps what is not finite from all parameters without being asked: from the first such turn on none changes.

    Fused optimisers look at `found_inf` on the device before they change anything, as torch's GradScaler has them.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], processes: Processes) -> None:
        self._processes = processes
        self._bad = torch.zeros((), device=processes.device)
        for optimizer in optimizers:
            optimizer.found_inf = self._bad  # type: ignore[attr-defined]

    def see(self, turn: Turned) -> None:
        """Look at a turn, before its optimiser takes its step."""
        mine = turn.numbers[: len(turn.branches)].isfinite().all() & turn.numbers[-1].isfinite()
        bad = (~mine).float()
        if self._processes.number > 1:
            # A loss is of one process, and all must change their parts of the parameters or none.
            torch.distributed.all_reduce(bad, torch.distributed.ReduceOp.MAX)
        torch.maximum(self._bad, bad, out=self._bad)
