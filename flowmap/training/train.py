"""Run a plan: each stage once, resumed where it stopped, saved so that a kill loses no finished work."""

from __future__ import annotations

import logging
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Protocol

from flowmap.console.signals import Interruption
from flowmap.errors import FlowmapError
from flowmap.files.folder import StoppedError, sync, writing
from flowmap.files.json_lines import append_line
from flowmap.files.manifest import Checkpoint, checkpoints
from flowmap.files.sealed import write_sealed
from flowmap.phases import phase
from flowmap.recipe.layout import LOCK, StagePlan
from flowmap.training.changes import begun, refuse_changes
from flowmap.training.checkpoint import prune, restore
from flowmap.training.journal import STEPS, Seal, begin, read_steps
from flowmap.training.loop import run_stage
from flowmap.training.processes import Processes
from flowmap.training.records import NonFiniteError, StepRecord
from flowmap.training.rewinds import collapsed, lowered, rewind, watchdog_of
from flowmap.training.saving import Saver
from flowmap.training.stage import Stage, open_stage
from flowmap.training.tracking import tracking
from flowmap.training.verify import clean, verify
from flowmap.training.watchdog import CollapseError, watched

_log = logging.getLogger("flowmap.training")

_PAUSE_SECONDS = 1.0  # between two readings of an accelerator, which wait for it; a signal is heard at such a moment


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
        found = _resume_point(plan, processes)
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
    pause = 0.0 if processes.device.type == "cpu" else _PAUSE_SECONDS
    saver = Saver(plan.folder, rhythm.keep, processes, last)
    stepping = run_stage(stage, done, lambda step: step % rhythm.every == 0, pause)
    try:
        with _said_once(), tracking(plan, processes.first, done) as track, saver, closing(stepping) as records:
            for record in watched(records, watchdog, ends) if watchdog else records:
                if processes.first:
                    line = record.line()
                    append_line(plan.folder / STEPS, line)
                    seal.note(line)
                    for doubt in record.doubts:
                        _log.warning("%s, step %d: %s", plan.stage.name, record.step, doubt)
                watcher.step(record)
                track(record)
                if not record.newest:
                    continue
                # A signal need not reach all processes at the same step.
                stop = int(processes.most(interruption.noted or 0))
                saver.check()
                if record.step % rhythm.every == 0 or record.step == plan.stage.steps or stop:
                    if processes.first:
                        with writing(plan.folder / STEPS):
                            # What a checkpoint has behind it must survive whatever the checkpoint survives.
                            sync(plan.folder / STEPS)
                    with phase(f"{plan.stage.name}: saving step {record.step}"):
                        saver.save(record.step, stage.optimizers, stage.roles, seal.facts())
                        if stop or record.step == plan.stage.steps:
                            last = saver.finish()
                            processes.wait()
                    if stop and last:
                        name = signal.Signals(stop).name
                        where = f"after step {record.step} of stage '{plan.stage.name}'"
                        raise StoppedError(f"stopped by {name} {where}; saved in {last.path}.", 128 + stop)
    except NonFiniteError as error:
        last = saver.last
        where = f"The last good checkpoint is {last.path}" if last else "There is no checkpoint of this stage yet"
        raise FlowmapError(
            f"stage '{plan.stage.name}', {error} {where}. "
            f"Training stopped; lower the learning rate or look at the losses in {plan.folder / STEPS}.",
            code=1,
        ) from error


def _resume_point(plan: StagePlan, processes: Processes) -> Checkpoint | None:
    """The newest checkpoint, verified by the first process, if the lock is this plan's; None if there is nothing."""
    refuse_changes([plan])
    if not begun(plan):
        return None
    newest = checkpoints(plan.folder)[-1]
    if processes.first:
        verify(newest)
    # Whoever goes on before would be reading what may be damaged.
    processes.wait()
    return newest


def _write_lock(plan: StagePlan) -> None:
    write_sealed(plan.folder / LOCK, "the configuration that this stage depends on, complete.", plan.lock)


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
