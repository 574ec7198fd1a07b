"""The one training loop. It yields; whoever runs it draws progress, writes files and decides when to stop."""

from __future__ import annotations

import math
import re
import resource
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import Loss, Role, Scene, Turn, World
from flowmap.maths.draw import Draw
from flowmap.recipe.step_length import tangents
from flowmap.recipe.tables import OptimizerConfig
from flowmap.training.ema import update_average
from flowmap.training.ledger import Ledger
from flowmap.training.processes import Processes
from flowmap.training.reduction import clip
from flowmap.training.sharding import local
from flowmap.training.stage import Stage
from flowmap.training.tangent_error import TangentError


@dataclass(frozen=True)
class StepRecord:
    """What one step did; a line of `steps.jsonl`, but for the `doubts`: what the user should hear, if anything.

    `step` counts finished steps, from 1. `losses` and `raw` are per branch, `norms` (gradient norm before
    clipping) and `lr` per trained role, `calls` and `backwards` as in the ledger: calls are those of one
    process (all make the same), samples those of all. `peak_bytes` is the most memory that a process (or its
    accelerator) has held since the stage began.
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

    def line(self) -> dict[str, Any]:
        """The record as a JSON object."""
        return {name: value for name, value in asdict(self).items() if name != "doubts"}


class NonFiniteError(FlowmapError):
    """A loss or a gradient that is NaN or infinite; the step was not applied."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"step {step}: {what}. The step was not applied.", code=1)
        self.step = step


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The learning rate of 0-based `step` of `steps`: linear warm-up, constant, linear decay to 0."""
    begun = step if config.warmup_zero else step + 1
    warm = min(1.0, begun / config.warmup) if config.warmup else 1.0
    tail = config.decay * steps
    cool = min(1.0, (steps - step) / tail) if tail else 1.0
    return config.lr * min(warm, cool)


def run_stage(stage: Stage, done: int) -> Generator[StepRecord, None, None]:
    """Train `stage` from `done` finished steps to its end, one record a step, the same in all processes.

    Raises NonFiniteError before a non-finite loss or gradient touches any parameter.
    """
    ledger = Ledger()
    roles = ledger.watch(stage.roles.values(), stage.optimizers)
    turns = stage.turns()
    steps = stage.plan.stage.steps
    taken = [sum(map(turn.taken, range(done))) for turn in turns]
    error = _tangent_error(stage, ledger)
    reset_peak_memory(stage.processes.device)
    for step in range(done, steps):
        begin = time.perf_counter()
        losses: dict[str, float] = {}
        raw: dict[str, float] = {}
        norms: dict[str, float] = {}
        rates: dict[str, float] = {}
        for index, turn in enumerate(turns):
            if not turn.taken(step):
                continue
            taken[index] += 1
            optimizer = stage.optimizers[turn.role]
            rates[turn.role] = learning_rate(stage.schedules[turn.role], step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rates[turn.role]
            parts = Parts(stage, roles, step, f"{index}-{turn.role}")
            with error.measuring(taken[index]):
                norms[turn.role] = _take_turn(stage, turn, parts, ledger, losses, raw)
            optimizer.step()
            stage.roles[turn.role].let_go()
            if turn.role == "student":
                update_average(stage.roles["student"], stage.plan.stage.ema, step)
        measured, doubts = error.take()
        yield StepRecord(
            step=step + 1,
            losses=losses,
            raw=raw | measured,
            norms=norms,
            lr=rates,
            **_of_all(ledger.take(), stage.processes),
            seconds=time.perf_counter() - begin,
            peak_bytes=int(stage.processes.most(peak_memory(stage.processes.device))),
            doubts=doubts,
        )


def _tangent_error(stage: Stage, ledger: Ledger) -> TangentError:
    """What measures the differences of `stage`."""
    recipe, config = stage.plan.recipe, stage.plan.stage
    places = tangents(config.objective, recipe.facts(config))
    mixed = recipe.compute.precision == "bf16"
    return TangentError(places, f"stages.{config.name}.objective", mixed, stage.processes, ledger)


def _of_all(counted: dict[str, Any], processes: Processes) -> dict[str, Any]:
    """What the ledger `counted`, with the samples of all processes."""
    places = [(role, key) for role, calls in counted["calls"].items() for key in calls if key.endswith("_samples")]
    totals = processes.total([counted["calls"][role][key] for role, key in places])
    for (role, key), total in zip(places, totals, strict=True):
        counted["calls"][role][key] = int(total)
    return counted


@final
class Parts:
    """What the objective sees in a turn of 0-based `step`, micro-batch after micro-batch of this process.

    Each has its own batch and randomness; all share the roles and the world.
    """

    def __init__(self, stage: Stage, roles: Mapping[str, Role], step: int, turn: str) -> None:
        self.step = step
        plan, processes = stage.plan, stage.processes
        group = plan.stage.objective.group()
        whole = Draw.whole(plan.seed, plan.stage.name, step, turn, plan.stage.batch, processes.device, group=group)
        micro = plan.recipe.compute.micro_batch or plan.stage.batch // processes.number
        self._draws = whole.split(processes.number, processes.index, micro)
        self._stage, self._roles = stage, roles

    def __len__(self) -> int:
        return len(self._draws)

    def __iter__(self) -> Iterator[Scene]:
        backbone, data = self._stage.backbone, self._stage.data
        world = World(self._stage.processes.number)
        for draw in self._draws:
            batch = backbone.encode(data.batch(draw.child("data")), draw.child("encoding"))
            yield Scene(self._roles, batch, draw, backbone.chunking(), world)


def _take_turn(
    stage: Stage, turn: Turn, parts: Parts, ledger: Ledger, losses: dict[str, float], raw: dict[str, float]
) -> float:
    """Differentiate the turn's losses; log them; return the gradient norm before clipping."""
    stage.optimizers[turn.role].zero_grad(set_to_none=True)
    stage.reducers[turn.role].begin()
    numbers: dict[str, Tensor] = {}
    details: dict[str, tuple[Tensor, int]] = {}
    for scene in parts:
        seen: set[str] = set()
        for loss in turn.losses(scene):
            if loss.branch in seen or loss.branch in losses:
                why = f"two losses of one step are called '{loss.branch}', and only one could be logged"
                raise FlowmapError(
                    f"objective '{stage.plan.stage.objective.type}': {why}; each needs a name of its own", 1
                )
            seen.add(loss.branch)
            _share(loss, parts).backward()
            ledger.backwards += 1
            value = loss.value.detach()
            numbers[loss.branch] = numbers[loss.branch] + value if loss.branch in numbers else value
            for name, found in loss.raw.items():
                total, count = details.get(f"{loss.branch}/{name}", (torch.zeros_like(value), 0))
                details[f"{loss.branch}/{name}"] = (total + found.sum(), count + found.numel())
    stage.reducers[turn.role].end(bool(numbers))
    norm = clip(stage.roles[turn.role].own.values(), stage.plan.stage.clip)
    # One transfer for all numbers of the turn: on an accelerator each would be a synchronisation.
    sums = [*numbers.values(), *(total for total, _ in details.values())]
    *values, size = torch.stack([v.double() for v in (*sums, norm)]).tolist()
    counts = [count for _, count in details.values()]
    summed = stage.processes.total([*values, *counts])
    several = len(parts) * stage.processes.number
    losses |= {name: value / several for name, value in zip(numbers, summed, strict=False)}
    means = zip(details, summed[len(numbers) :], summed[len(values) :], strict=False)
    raw |= {name: total / count for name, total, count in means if count}
    for branch in numbers:
        if not math.isfinite(losses[branch]):
            why = f"the loss of branch '{branch}' of role '{turn.role}' is {losses[branch]}"
            raise NonFiniteError(parts.step + 1, why)
    if not math.isfinite(size):
        culprit = _branch_of_bad_gradient(stage, turn, parts)
        raise NonFiniteError(parts.step + 1, f"the gradient of branch '{culprit}' of role '{turn.role}' is {size}")
    return float(size)


def _share(loss: Loss, parts: Parts) -> Tensor:
    """What `loss` adds to the mean over all micro-batches."""
    return loss.value if len(parts) == 1 else loss.value / len(parts)


def _branch_of_bad_gradient(stage: Stage, turn: Turn, parts: Parts) -> str:
    """Repeat the turn, whose every draw is known, and watch which branch brings the non-finite gradient."""
    stage.optimizers[turn.role].zero_grad(set_to_none=True)
    for scene in parts:
        for loss in turn.losses(scene):
            _share(loss, parts).backward()
            own = stage.roles[turn.role].own.values()
            bad = any(p.grad is not None and not local(p.grad).isfinite().all() for p in own)
            if stage.processes.most(bad):
                return loss.branch
    return "all together"


def reset_peak_memory(device: torch.device) -> None:
    """Start measuring peak memory afresh, where the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        try:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
        except OSError:
            pass  # not permitted here: the peak then counts from the start of the process


def peak_memory(device: torch.device) -> int:
    """Peak bytes since the last reset: allocated on the accelerator, or resident in this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "linux":
        # Not getrusage: its peak is that of whoever started this process, and is never reset.
        status = Path("/proc/self/status").read_text()
        found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
        return int(found[1]) * 1024 if found else 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
