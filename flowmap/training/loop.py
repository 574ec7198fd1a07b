"""The one training loop. It yields; whoever runs it draws progress, writes files and decides when to stop."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import final

import torch
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import Loss, Role, Samples, Scene, Taken, Turn, World, always
from flowmap.maths.draw import Draw
from flowmap.recipe.derivatives import tangents
from flowmap.recipe.tables import OptimizerConfig
from flowmap.training.ahead import Ahead, Made, ahead
from flowmap.training.ema import update_average
from flowmap.training.first_batch import FirstBatch
from flowmap.training.ledger import Ledger
from flowmap.training.memory import reset_peak_memory
from flowmap.training.records import Guard, Records, StepRecord, Turned
from flowmap.training.reduction import clip
from flowmap.training.sharding import local
from flowmap.training.stage import Stage
from flowmap.training.tangent_error import TangentError
from flowmap.training.terms import terms, without_loss


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The learning rate of 0-based `step` of `steps`: linear warm-up, constant, linear decay to 0."""
    begun = step if config.warmup_zero else step + 1
    warm = min(1.0, begun / config.warmup) if config.warmup else 1.0
    tail = config.decay * steps
    cool = min(1.0, (steps - step) / tail) if tail else 1.0
    return config.lr * min(warm, cool)


def run_stage(stage: Stage, done: int, due: Taken = always, seconds: float = 0.0) -> Generator[StepRecord, None, None]:
    """Train `stage` from `done` finished steps to its end, one record a step, the same in all processes.

    Steps are read, and their records yielded, about every so many `seconds`, after the steps (from 1) that are `due`,
    and after the last. Those between wait for no accelerator; what is wrong with one of them is found out later, and
    no parameter changes until then.
    Raises NonFiniteError before a non-finite loss or gradient touches any parameter.
    """
    ledger = Ledger()
    roles = ledger.watch(stage.roles.values(), stage.optimizers)
    turns = stage.turns()
    steps = stage.plan.stage.steps
    taken = [sum(map(turn.taken, range(done))) for turn in turns]
    error, first = _tangent_error(stage, ledger), FirstBatch()
    records, guard = Records(stage.processes, seconds), None
    reset_peak_memory(stage.processes.device)
    todo = _draws(stage, turns, range(done, steps))
    with ahead(todo, partial(_samples, stage), stage.prefetch, stage.processes.device) as coming:
        for step in range(done, steps):
            now = records.begin(step + 1) or due(step + 1) or step + 1 == steps
            rates: dict[str, float] = {}
            branches: set[str] = set()
            for index, turn in enumerate(turns):
                if not turn.taken(step):
                    continue
                taken[index] += 1
                optimizer = stage.optimizers[turn.role]
                rates[turn.role] = learning_rate(stage.schedules[turn.role], step, steps)
                for group in optimizer.param_groups:
                    group["lr"] = rates[turn.role]
                parts = Parts(stage, roles, step, f"{index}-{turn.role}", coming, first)
                with error.measuring(taken[index]):
                    made = _take_turn(stage, turn, parts, ledger, branches)
                records.add(made)
                if now:
                    yield from _read(records)
                else:
                    guard = guard or Guard(list(stage.optimizers.values()), stage.processes)
                    guard.see(made)
                optimizer.step()
                stage.roles[turn.role].let_go()
                if turn.role == "student":
                    update_average(stage.roles["student"], stage.plan.stage.ema, step)
            measured, doubts = error.take()
            records.end(lr=rates, measured=measured, doubts=(*first.take(), *doubts), **ledger.take())
            if now:
                # A step without a turn has read nothing of those before.
                yield from _read(records)
                yield from records.told()


def _read(records: Records) -> Iterator[StepRecord]:
    """Read what is not read yet; if that is not finite, tell the steps before, and raise what is wrong."""
    if wrong := records.read():
        yield from records.told(before=wrong.step)
        raise wrong


def _draws(stage: Stage, turns: Sequence[Turn], steps: Iterable[int]) -> Iterator[Draw]:
    """The draws of this process's micro-batches in `steps`, in their order."""
    for step in steps:
        for index, turn in enumerate(turns):
            if turn.taken(step):
                yield from Parts(stage, {}, step, f"{index}-{turn.role}").draws


def _tangent_error(stage: Stage, ledger: Ledger) -> TangentError:
    """What measures the differences of `stage`."""
    recipe, config = stage.plan.recipe, stage.plan.stage
    places = tangents(config.objective, recipe.facts(config))
    mixed = recipe.compute.precision == "bf16"
    return TangentError(places, f"stages.{config.name}.objective", mixed, stage.processes, ledger)


@final
class Parts:
    """What the objective sees in a turn of 0-based `step`, micro-batch after micro-batch of this process.

    Each has its own batch and randomness; all share the roles and the world.
    """

    def __init__(
        self,
        stage: Stage,
        roles: Mapping[str, Role],
        step: int,
        turn: str,
        ahead: Ahead | None = None,
        first: FirstBatch | None = None,
    ) -> None:
        self.step = step
        plan, processes = stage.plan, stage.processes
        group = plan.stage.objective.group()
        whole = Draw.whole(plan.seed, plan.stage.name, step, turn, plan.stage.batch, processes.device, group=group)
        micro = plan.recipe.compute.micro_batch or plan.stage.batch // processes.shares
        self.draws = whole.split(processes.shares, processes.share, micro)
        self._stage, self._roles, self._ahead, self._first = stage, roles, ahead, first

    def __len__(self) -> int:
        return len(self.draws)

    def __iter__(self) -> Iterator[Scene]:
        backbone, processes = self._stage.backbone, self._stage.processes
        world = World(processes.shares, processes.sharers())
        for draw in self.draws:
            made = self._ahead.take(draw) if self._ahead else Made(draw, _samples(self._stage, draw))
            batch = backbone.encode(made.samples.to(draw.device), made.draw.child("encoding"))
            if self._first:
                self._first.see(batch)
            yield Scene(self._roles, batch, made.draw, backbone.chunking(), world)


def _samples(stage: Stage, draw: Draw) -> Samples:
    """The samples of a micro-batch, on the CPU."""
    return stage.data.batch(draw.here.child("data"))


def _take_turn(stage: Stage, turn: Turn, parts: Parts, ledger: Ledger, branches: set[str]) -> Turned:
    """Differentiate the turn's losses, and clip the gradient; `branches` are the names of the step's losses so far."""
    stage.optimizers[turn.role].zero_grad(set_to_none=True)
    stage.reducers[turn.role].begin()
    config, numbers = stage.plan.stage.objective, dict[str, Tensor]()
    details: dict[str, tuple[Tensor, int]] = {}
    for scene in parts:
        seen: set[str] = set()
        for loss in terms(config, turn, scene):
            if loss.branch in seen or loss.branch in branches:
                why = f"two losses of one step are called '{loss.branch}', and only one could be logged"
                raise FlowmapError(f"objective '{config.type}': {why}; each needs a name of its own", 1)
            seen.add(loss.branch)
            _share(loss, parts).backward()
            ledger.backwards += 1
            value = loss.value.detach()
            numbers[loss.branch] = numbers[loss.branch] + value if loss.branch in numbers else value
            for name, found in loss.raw.items():
                total, count = details.get(f"{loss.branch}/{name}", (torch.zeros_like(value), 0))
                details[f"{loss.branch}/{name}"] = (total + found.sum(), count + found.numel())
    if not numbers:
        raise without_loss(config, turn)
    branches.update(numbers)
    stage.reducers[turn.role].end()
    norm = clip(stage.roles[turn.role].own.values(), stage.plan.stage.clip)
    sums = [*numbers.values(), *(total for total, _ in details.values()), norm]
    return Turned(
        turn.role,
        len(parts),
        tuple(numbers),
        {name: count for name, (_, count) in details.items()},
        torch.stack([value.double() for value in sums]),
        partial(_branch_of_bad_gradient, stage, turn, parts),
    )


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
