"""The one training loop. It yields; whoever runs it draws progress, writes files and decides when to stop."""

from __future__ import annotations

import math
import re
import resource
import sys
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowmap.draw import Draw
from flowmap.ema import update_average
from flowmap.errors import FlowmapError
from flowmap.interfaces import Role, Scene, Turn, World
from flowmap.ledger import Ledger
from flowmap.stage import Stage
from flowmap.tables import OptimizerConfig


@dataclass(frozen=True)
class StepRecord:
    """What one step did; a line of `steps.jsonl`.

    `step` counts finished steps, from 1. `losses` and `raw` are per branch, `norms` (gradient norm before
    clipping) and `lr` per trained role, `calls` and `backwards` as in the ledger, `peak_bytes` the most memory
    the process (or the accelerator) has held since the stage began.
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

    def line(self) -> dict[str, Any]:
        """The record as a JSON object."""
        return asdict(self)


class NonFiniteError(FlowmapError):
    """A loss or a gradient that is NaN or infinite; the step was not applied."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"step {step}: {what}. The step was not applied.", code=1)
        self.step = step


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The learning rate of 0-based `step` of `steps`: linear warm-up, constant, linear decay to 0."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    tail = config.decay * steps
    cool = min(1.0, (steps - step) / tail) if tail else 1.0
    return config.lr * min(warm, cool)


def run_stage(stage: Stage, done: int) -> Generator[StepRecord, None, None]:
    """Train `stage` from `done` finished steps to its end, one record a step.

    Raises NonFiniteError before a non-finite loss or gradient touches any parameter.
    """
    ledger = Ledger()
    roles = ledger.watch(stage.roles.values(), stage.optimizers)
    turns = stage.turns()
    steps = stage.plan.stage.steps
    reset_peak_memory(stage.accelerator.device)
    for step in range(done, steps):
        begin = time.perf_counter()
        losses: dict[str, float] = {}
        raw: dict[str, float] = {}
        norms: dict[str, float] = {}
        rates: dict[str, float] = {}
        for index, turn in enumerate(turns):
            if step % turn.every:
                continue
            optimizer = stage.optimizers[turn.role]
            rates[turn.role] = learning_rate(stage.schedules[turn.role], step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rates[turn.role]
            scene = make_scene(stage, roles, step, f"{index}-{turn.role}")
            norms[turn.role] = _take_turn(stage, turn, scene, step, ledger, losses, raw)
            optimizer.step()
            if turn.role == "student":
                update_average(stage.roles["student"], stage.plan.stage.ema, step)
        yield StepRecord(
            step=step + 1,
            losses=losses,
            raw=raw,
            norms=norms,
            lr=rates,
            **ledger.take(),
            seconds=time.perf_counter() - begin,
            peak_bytes=peak_memory(stage.accelerator.device),
        )


def make_scene(stage: Stage, roles: dict[str, Role], step: int, turn: str) -> Scene:
    """What the objective sees in `turn` of 0-based `step`: its roles, its own batch, its own randomness."""
    plan = stage.plan
    draw = Draw.whole(plan.seed, plan.stage.name, step, turn, plan.stage.batch, stage.accelerator.device)
    batch = stage.backbone.encode(stage.data.batch(draw.child("data")))
    return Scene(roles, batch, draw, stage.backbone.chunking(), World())


def _take_turn(
    stage: Stage,
    turn: Turn,
    scene: Scene,
    step: int,
    ledger: Ledger,
    losses: dict[str, float],
    raw: dict[str, float],
) -> float:
    """Differentiate the turn's losses; log them; return the gradient norm before clipping."""
    parameters = list(stage.roles[turn.role].own.values())
    stage.optimizers[turn.role].zero_grad(set_to_none=True)
    numbers: dict[str, Tensor] = {}
    details: dict[str, Tensor] = {}
    for loss in turn.losses(scene):
        if loss.branch in numbers or loss.branch in losses:
            why = f"two losses of one step are called '{loss.branch}', and only one could be logged"
            raise FlowmapError(f"objective '{stage.plan.stage.objective.type}': {why}; each needs a name of its own", 1)
        stage.accelerator.backward(loss.value)
        ledger.backwards += 1
        numbers[loss.branch] = loss.value.detach()
        details |= {f"{loss.branch}/{name}": value for name, value in loss.raw.items()}
    limit = stage.plan.stage.clip
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit or math.inf)
    # One transfer for all numbers of the turn: on an accelerator each would be a synchronisation.
    values = torch.stack([v.double() for v in (*numbers.values(), *details.values(), norm)]).tolist()
    losses |= dict(zip(numbers, values, strict=False))
    raw |= dict(zip(details, values[len(numbers) :], strict=False))
    for branch in numbers:
        if not math.isfinite(losses[branch]):
            raise NonFiniteError(step + 1, f"the loss of branch '{branch}' of role '{turn.role}' is {losses[branch]}")
    if not math.isfinite(values[-1]):
        culprit = _branch_of_bad_gradient(stage, turn, scene)
        raise NonFiniteError(step + 1, f"the gradient of branch '{culprit}' of role '{turn.role}' is {values[-1]}")
    return float(values[-1])


def _branch_of_bad_gradient(stage: Stage, turn: Turn, scene: Scene) -> str:
    """Repeat the turn, whose every draw is known, and watch which branch brings the non-finite gradient."""
    parameters = list(stage.roles[turn.role].own.values())
    stage.optimizers[turn.role].zero_grad(set_to_none=True)
    for loss in turn.losses(scene):
        stage.accelerator.backward(loss.value)
        if any(p.grad is not None and not p.grad.isfinite().all() for p in parameters):
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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
