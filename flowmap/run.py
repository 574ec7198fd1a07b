"""Run a plan: each stage once, resumed where it stopped, saved so that a kill loses no finished work."""

from __future__ import annotations

import signal
import tomllib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import accelerate.tracking
import tomli_w
from accelerate import Accelerator

from flowmap import __version__
from flowmap.checkpoint import Checkpoint, checkpoints, clean, restore, save, verify
from flowmap.errors import FlowmapError
from flowmap.folder import append_line, read_lines, rewrite_lines, write_whole, writing
from flowmap.loop import NonFiniteError, StepRecord, run_stage
from flowmap.plan import StagePlan
from flowmap.recipe import ComputeConfig
from flowmap.stage import Stage, open_stage

LOCK = "recipe.lock.toml"
STEPS = "steps.jsonl"
_TRACK_EVERY = 10


class Watcher(Protocol):
    """Who is told how a stage goes, such as a progress bar."""

    def begin(self, plan: StagePlan, done: int) -> None:
        """A stage begins with `done` finished steps."""

    def step(self, record: StepRecord) -> None:
        """A step was finished."""

    def end(self, plan: StagePlan, note: str) -> None:
        """A stage ended, or was found finished; `note` says which."""


class Interruption:
    """Remembers Ctrl-C and SIGTERM, so that the step in hand can be finished; a second one acts at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within this context the first signal is only noted."""
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def make_accelerator(compute: ComputeConfig) -> Accelerator:
    """The device and precision of a run. Raises FlowmapError when started as several processes."""
    accelerator = Accelerator(cpu=compute.device == "cpu", mixed_precision=compute.precision)
    if accelerator.num_processes > 1:
        raise FlowmapError(
            f"this version trains in one process; it was started as {accelerator.num_processes}. "
            "Start it without torchrun or accelerate launch."
        )
    return accelerator


def train(plan: StagePlan, accelerator: Accelerator, watcher: Watcher, how_to_go_on: str) -> None:
    """Bring the stage of `plan` to its end from wherever it stands.

    Raises FlowmapError if its folder holds another configuration's stage, a damaged checkpoint, on a signal
    (after saving), and on a non-finite loss or gradient.
    """
    found = _resume_point(plan)
    if found is not None and found.step >= plan.stage.steps:
        watcher.end(plan, f"finished before, {found.step} steps")
        return
    _write_lock(plan)
    clean(plan.folder)
    stage = open_stage(plan, accelerator)
    if found is not None:
        restore(found, stage.optimizers, stage.roles)
    done = found.step if found else 0
    # Steps after the checkpoint are taken again: their lines would stand twice.
    rewrite_lines(plan.folder / STEPS, [r for r in read_lines(plan.folder / STEPS) if r["step"] <= done])
    watcher.begin(plan, done)
    interruption = Interruption()
    with interruption.listening():
        _steps(stage, done, found, watcher, interruption, how_to_go_on)
    watcher.end(plan, f"{plan.stage.steps} steps")


def _steps(
    stage: Stage,
    done: int,
    last: Checkpoint | None,
    watcher: Watcher,
    interruption: Interruption,
    how_to_go_on: str,
) -> None:
    plan = stage.plan
    rhythm = plan.recipe.checkpoints
    trackers = _trackers(plan)
    with writing(plan.folder / STEPS):
        lines = (plan.folder / STEPS).open("a")
    try:
        with closing(lines):
            for record in run_stage(stage, done):
                append_line(lines, record.line())
                watcher.step(record)
                if record.step % _TRACK_EVERY == 0:
                    for tracker in trackers:
                        tracker.log(_flat(record), step=record.step)
                stopped = interruption.signal is not None
                if record.step % rhythm.every == 0 or record.step == plan.stage.steps or stopped:
                    last = save(plan.folder, record.step, stage.optimizers, stage.roles, rhythm.keep)
                if stopped and record.step < plan.stage.steps:
                    name = signal.Signals(interruption.signal or 0).name
                    raise FlowmapError(
                        f"stopped by {name} after step {record.step} of stage '{plan.stage.name}'; saved in "
                        f"{last.path if last else plan.folder}.\nTo go on: {how_to_go_on}",
                        code=128 + (interruption.signal or 0),
                    )
    except NonFiniteError as error:
        where = f"The last good checkpoint is {last.path}" if last else "There is no checkpoint of this stage yet"
        raise FlowmapError(
            f"stage '{plan.stage.name}', {error} {where}. "
            "Training stopped; lower the learning rate or look at the losses in steps.jsonl.",
            code=1,
        ) from error
    finally:
        for tracker in trackers:
            tracker.finish()


def _resume_point(plan: StagePlan) -> Checkpoint | None:
    """The verified newest checkpoint, if the folder's lock is this plan's; None if nothing is there yet."""
    lock = plan.folder / LOCK
    if not lock.exists():
        return None
    found = checkpoints(plan.folder)
    differences = _differences(read_lock(lock), plan.lock)
    if differences and found:
        shown = "\n".join(f"  {line}" for line in differences[:8])
        raise FlowmapError(
            f"{plan.folder} holds stage '{plan.stage.name}' of another configuration ({found[-1].step} steps done):\n"
            f"{shown}\nUndo the change, give the recipe another name, or start over with --fresh "
            "(which sets the old folder aside)."
        )
    if not found:
        return None
    verify(found[-1])
    return found[-1]


def _write_lock(plan: StagePlan) -> None:
    header = f"# Written by flowmap {__version__}: the configuration this stage depends on, complete.\n"
    write_whole(plan.folder / LOCK, header + tomli_w.dumps(plan.lock))


def read_lock(path: Path) -> dict[str, Any]:
    """The configuration in a stage's lock file."""
    try:
        return tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise FlowmapError(f"{path} cannot be read: {error}; move the stage's folder away", code=1) from None


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


def _trackers(plan: StagePlan) -> list[accelerate.tracking.GeneralTracker]:
    trackers = []
    for name in plan.recipe.compute.trackers:
        with writing(plan.folder):
            tracker = accelerate.tracking.LOGGER_TYPE_TO_CLASS[name](name, logging_dir=plan.folder)
            tracker.start()
        trackers.append(tracker)
    return trackers


def _flat(record: StepRecord) -> dict[str, float]:
    groups = {"loss": record.losses, "raw": record.raw, "gradient_norm": record.norms, "lr": record.lr}
    return {f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()}
