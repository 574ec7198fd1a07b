"""Tell a tracker, such as TensorBoard, what a step has found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import accelerate.tracking

from flowmap.files.folder import writing
from flowmap.phases import each
from flowmap.recipe.layout import StagePlan
from flowmap.recipe.step_length import NAME as TANGENT_ERROR
from flowmap.training.records import StepRecord

_TRACK_EVERY = 10


@contextmanager
def tracking(plan: StagePlan, wanted: bool, done: int) -> Iterator[Callable[[StepRecord], None]]:
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
