"""Run a plan: each stage once, resumed where it stopped, saved so that a kill loses no finished work."""

from __future__ import annotations

import logging
import shlex
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import accelerate.tracking
from pydantic import ValidationError

from flowmap.console.signals import Interruption
from flowmap.errors import FlowmapError
from flowmap.files.folder import StoppedError, append_line, sync, writing
from flowmap.files.manifest import Checkpoint, checkpoints
from flowmap.files.sealed import read_sealed, write_sealed
from flowmap.files.texts import TextError
from flowmap.phases import each, phase
from flowmap.plugin.fields import AnyBackbone, AnyData
from flowmap.recipe.layout import LOCK, Plan, StagePlan, seed_folder, seeds_folder
from flowmap.recipe.step_length import NAME as TANGENT_ERROR
from flowmap.recipe.tables import StageConfig
from flowmap.schema.config import Config
from flowmap.training.checkpoint import clean, prune, restore, save, verify
from flowmap.training.journal import STEPS, Seal, begin, read_steps
from flowmap.training.loop import NonFiniteError, StepRecord, run_stage
from flowmap.training.processes import Processes
from flowmap.training.rewinds import collapsed, lowered, rewind, watchdog_of
from flowmap.training.stage import Stage, open_stage
from flowmap.training.watchdog import CollapseError, watched

_TRACK_EVERY = 10
_SHOWN = 8
_log = logging.getLogger("flowmap.training")


class Watcher(Protocol):
    """Who is told how a stage goes, such as a progress bar."""

    def begin(self, plan: StagePlan, done: int) -> None:
        """A stage begins with `done` finished steps."""

    def step(self, record: StepRecord) -> None:
        """A step was finished."""

    def warn(self, text: str) -> None:
        """Something about the training that the user should hear, beside the doubts of single steps."""

    def end(self, plan: StagePlan, note: str) -> None:
        """A stage ended, or was found finished; `note` says which."""


def train(plan: StagePlan, processes: Processes, watcher: Watcher, interruption: Interruption) -> None:
    """Bring the stage of `plan` to its end from wherever it stands; all processes together, the first writes.

    Raises FlowmapError if its folder holds another configuration's stage or on a non-finite loss or gradient, and
    StoppedError on a damaged checkpoint, an unfinished source, a failing write, and on a signal (after saving).
    """
    while True:
        if processes.first:
            clean(plan.folder)
        processes.wait()
        found = _resume_point(plan)
        if found is not None and processes.first:
            # A kill may have come between the saving of the newest and the removal of the oldest.
            prune(plan.folder, plan.recipe.checkpoints.keep)
        if found is not None and found.step >= plan.stage.steps:
            watcher.end(plan, f"finished before, {found.step} steps")
            return
        try:
            _go_on(plan, processes, found, watcher, interruption)
        except CollapseError as error:
            _stop_or_rewind(plan, error, processes, watcher)
            continue
        watcher.end(plan, f"{plan.stage.steps} steps")
        return


def _stop_or_rewind(plan: StagePlan, error: CollapseError, processes: Processes, watcher: Watcher) -> None:
    """Do with a collapse what the recipe says; raises FlowmapError if the stage is not to go on."""
    if plan.recipe.watchdog.action == "stop":
        raise FlowmapError(
            f"{collapsed(plan, error.alarm)}\nLower its learning rates, let it go back by itself with "
            "watchdog.action = 'rewind', or let it go on with 'warn'.",
            code=1,
        ) from error
    # Nobody changes checkpoints while others look at them.
    processes.wait()
    if processes.first:
        told = rewind(plan, error)
        _log.warning("%s", told)
        watcher.warn(told)


def _go_on(
    plan: StagePlan, processes: Processes, found: Checkpoint | None, watcher: Watcher, interruption: Interruption
) -> None:
    """Train from the checkpoint `found`, or from the start."""
    with phase(f"{plan.stage.name}: making networks and optimisers"):
        stage = open_stage(plan, processes, lowered(plan))
    if found is not None:
        with phase(f"{plan.stage.name}: reading the checkpoint of step {found.step}"):
            restore(found, stage.optimizers, stage.roles)
    done = found.step if found else 0
    seal = Seal()
    if processes.first:
        _write_lock(plan)
        # Steps after the checkpoint are taken again: their lines would stand twice.
        seal, lost = begin(plan.folder, done)
        if lost:
            _log.warning(
                "%s: %s says nothing of the first %d steps, and no report counts them",
                plan.stage.name,
                plan.folder / STEPS,
                lost,
            )
    processes.wait()
    watcher.begin(plan, done)
    with interruption.patience():
        _steps(stage, done, found, watcher, interruption, seal)


def _steps(
    stage: Stage, done: int, last: Checkpoint | None, watcher: Watcher, interruption: Interruption, seal: Seal
) -> None:
    plan, processes = stage.plan, stage.processes
    rhythm = plan.recipe.checkpoints
    watchdog = watchdog_of(plan, lambda: read_steps(plan.folder))
    ends = plan.recipe.watchdog.action in ("stop", "rewind")
    try:
        with _said_once(), _tracking(plan, processes.first, done) as track, closing(run_stage(stage, done)) as records:
            for record in watched(records, watchdog, ends) if watchdog else records:
                if processes.first:
                    line = record.line()
                    append_line(plan.folder / STEPS, line)
                    seal.note(line)
                    for doubt in record.doubts:
                        _log.warning("%s, step %d: %s", plan.stage.name, record.step, doubt)
                watcher.step(record)
                track(record)
                # A signal need not reach all processes at the same step.
                stop = int(processes.most(interruption.noted or 0))
                if record.step % rhythm.every == 0 or record.step == plan.stage.steps or stop:
                    if processes.first:
                        with writing(plan.folder / STEPS):
                            # What a checkpoint has behind it must survive whatever the checkpoint survives.
                            sync(plan.folder / STEPS)
                    with phase(f"{plan.stage.name}: saving step {record.step}"):
                        state = (stage.optimizers, stage.roles, rhythm.keep, processes.first, seal.facts())
                        last = save(plan.folder, record.step, *state)
                        processes.wait()
                    if stop:
                        name = signal.Signals(stop).name
                        where = f"after step {record.step} of stage '{plan.stage.name}'"
                        raise StoppedError(f"stopped by {name} {where}; saved in {last.path}.", 128 + stop)
    except NonFiniteError as error:
        where = f"The last good checkpoint is {last.path}" if last else "There is no checkpoint of this stage yet"
        raise FlowmapError(
            f"stage '{plan.stage.name}', {error} {where}. "
            f"Training stopped; lower the learning rate or look at the losses in {plan.folder / STEPS}.",
            code=1,
        ) from error


def refuse_changes(plans: Iterable[StagePlan]) -> None:
    """Raise FlowmapError if a stage of `plans` was begun with another configuration, naming what differs."""
    locks = [(plan, _of_today(read_lock(plan.folder / LOCK))) for plan in plans if _begun(plan)]
    changed = [(plan, _differences(lock, plan.lock)) for plan, lock in locks]
    changed = [(plan, differences) for plan, differences in changed if differences]
    if not changed:
        return
    plan, differences = changed[0]
    shown = "\n".join(f"  {line}" for line in differences[:_SHOWN])
    more = f"\n  and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
    names = dict.fromkeys(plan.stage.name for plan, _ in changed)
    raise FlowmapError(
        f"{plan.folder} holds stage '{plan.stage.name}' of another configuration "
        f"({checkpoints(plan.folder)[-1].step} steps done):\n{shown}{more}\n"
        "Undo the change, give the recipe another name, or start over with --fresh, which sets the old folder aside"
        f" (only what changed: --fresh {' '.join(f'--stage {name}' for name in names)})."
    )


def refuse_other_seeds(plan: Plan) -> None:
    """Raise FlowmapError if stages of `plan` were begun where a run of another number of seeds has them.

    They would be trained again, without a word, beside what is there.
    """
    several = len(plan.recipe.seeds) > 1
    for seed in plan.recipe.seeds:
        here = seed_folder(plan.recipe, plan.folder, seed)
        there = plan.folder if several else seeds_folder(plan.folder, seed)
        stages = [stage for stage in plan.stages if stage.seed == seed and not _begun(stage)]
        left = [there / stage.stage.name for stage in stages if _is_of(there / stage.stage.name, seed)]
        if left:
            move = shlex.join(["mv", *map(str, left), str(here)])
            raise FlowmapError(
                f"{left[0]} holds a stage of seed {seed}, where a run of {'one seed' if several else 'several'} has "
                f"it; one of {'several' if several else 'one'} has it in {here}, and would train it again. Move it:\n"
                f"  {shlex.join(['mkdir', '-p', str(here)])} && {move}\n"
                "Or give the recipe another name, or start over with --fresh."
            )


def _is_of(folder: Path, seed: int) -> bool:
    """Whether `folder` is that of a stage of which anything was trained, with training seed `seed`."""
    return bool(checkpoints(folder)) and read_lock(folder / LOCK).get("seed") == seed


def _begun(plan: StagePlan) -> bool:
    """Whether anything is lost when the stage starts over."""
    return bool(checkpoints(plan.folder))


def _resume_point(plan: StagePlan) -> Checkpoint | None:
    """The verified newest checkpoint, if the folder's lock is this plan's; None if nothing is there yet."""
    refuse_changes([plan])
    if not _begun(plan):
        return None
    newest = checkpoints(plan.folder)[-1]
    verify(newest)
    return newest


def _write_lock(plan: StagePlan) -> None:
    write_sealed(plan.folder / LOCK, "the configuration that this stage depends on, complete.", plan.lock)


def read_lock(path: Path, how: str = "copy it from a backup, or move its folder away") -> dict[str, Any]:
    """The configuration in a lock file; raises FlowmapError, which says `how` to mend it, if it is not as written."""
    try:
        return read_sealed(path)
    except OSError as error:
        raise FlowmapError(f"{path} cannot be read: {error.strerror}; {how}", code=1) from None
    except TextError as error:
        raise FlowmapError(f"{path} cannot be read: it {error}; {how}", code=1) from None


class _StageLock(Config):
    """What StagePlan.lock holds, as this version of flowmap and of the plugins would write it."""

    seed: int
    data: AnyData
    backbone: AnyBackbone
    precision: str
    stages: tuple[StageConfig, ...]


def _of_today(lock: dict[str, Any]) -> dict[str, Any]:
    """An older version's `lock` with the fields that have come since, at their defaults; as it is, if it is too old."""
    try:
        return _StageLock.model_validate(lock).model_dump(mode="json", by_alias=True, exclude_none=True)
    except ValidationError:
        return lock


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    before, after = _leaves(old), _leaves(new)
    missing = "(not there)"
    return [
        f"{key}: was {before.get(key, missing)}, is now {after.get(key, missing)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Dotted paths to plain values; list elements with a name go by it."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list) and value and all(isinstance(e, dict) for e in value):
        items = {str(e.get("name", i)): e for i, e in enumerate(value)}.items()
    else:
        return {path: value}
    return {k: v for key, child in items for k, v in _leaves(child, f"{path}.{key}".lstrip(".")).items()}


@contextmanager
def _said_once() -> Iterator[None]:
    """TensorBoard's own thread dies with a traceback if it cannot write; whoever writes next is told, and says it."""
    shown = threading.excepthook

    def unless_told(ended: threading.ExceptHookArgs) -> None:
        frames = traceback.walk_tb(ended.exc_traceback)
        its_own = any(frame.f_globals.get("__name__", "").startswith("tensorboard.") for frame, _ in frames)
        if not (its_own and isinstance(ended.exc_value, OSError)):
            shown(ended)

    threading.excepthook = unless_told
    try:
        yield
    finally:
        threading.excepthook = shown


@contextmanager
def _tracking(plan: StagePlan, wanted: bool, done: int) -> Iterator[Callable[[StepRecord], None]]:
    """Open the recipe's trackers, if `wanted`, after `done` steps; yields what sends them a record now and then."""
    trackers: list[accelerate.tracking.GeneralTracker] = []

    def track(record: StepRecord) -> None:
        if record.step % _TRACK_EVERY == 0 or TANGENT_ERROR in record.raw:
            with writing(plan.folder):
                for tracker in trackers:
                    tracker.log(_flat(record), step=record.step)

    try:
        with writing(plan.folder):
            for name in each(plan.recipe.compute.trackers if wanted else (), "starting trackers"):
                kind = accelerate.tracking.LOGGER_TYPE_TO_CLASS[name]
                # What was sent of steps that are taken again is hidden: they stand once.
                tracker = kind(name, logging_dir=plan.folder, purge_step=done + 1)
                tracker.start()
                # One that could not start has nothing to finish.
                trackers.append(tracker)
        yield track
    finally:
        with writing(plan.folder):
            for tracker in trackers:
                tracker.finish()


def _flat(record: StepRecord) -> dict[str, float]:
    groups = {"loss": record.losses, "raw": record.raw, "gradient_norm": record.norms, "lr": record.lr}
    return {f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()}
