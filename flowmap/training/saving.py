"""Save checkpoints while training goes on: copied into the CPU's memory, then written and hashed by a thread.

What waits is the copy. One is written at a time; whatever happens, a reader sees the ones that are whole.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import final

import torch

from flowmap.errors import FlowmapError
from flowmap.files.manifest import Checkpoint, StepsSeal
from flowmap.interfaces import Role
from flowmap.phases import phase
from flowmap.training.checkpoint import contents, save, size_of_contents, written
from flowmap.training.processes import Processes

_log = logging.getLogger("flowmap.training")
_MEMORY = Path("/proc/meminfo")
_SHARE = 0.5
"""Of the memory that is free: what a checkpoint may take that is written while training goes on."""


@final
class Saver:
    """Saves a stage that `processes` train into the folder `stage`, and keeps the newest `keep` checkpoints.

    `last` is the newest one that is whole. With one process on a CPU, which has nothing else to do meanwhile, and where
    memory does not hold a copy, a checkpoint is written before training goes on. All processes call all methods alike.
    """

    def __init__(self, stage: Path, keep: int, processes: Processes, last: Checkpoint | None = None) -> None:
        self.last = last
        self._stage, self._keep, self._first, self._wait = stage, keep, processes.first, processes.wait
        self._aside = processes.number > 1 or processes.device.type != "cpu"
        self._writing: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Wait for the checkpoint in hand, unless a second signal ends the work where it stands."""
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            return
        try:
            self.finish()
        except FlowmapError as failed:
            if error is None:
                raise
            _log.warning("%s", failed)

    def save(
        self,
        step: int,
        optimizers: Mapping[str, torch.optim.Optimizer],
        roles: Mapping[str, Role],
        steps: StepsSeal | None,
    ) -> None:
        """Save the trained `roles` after `step` steps; may come back before that is done.

        Raises StoppedError if this one, or the one before, cannot be written.
        """
        self.finish()
        # Or the others would wait for the first, which may still write, in what gathers: accelerators give up on that.
        self._wait()
        if not (self._aside and _fits(size_of_contents(optimizers, roles))):
            self.last = save(self._stage, step, optimizers, roles, self._keep, self._first, steps)
            return
        copied = dict(contents(optimizers, roles, self._first, copied=True))
        if not self._first:
            self.last = Checkpoint(self._stage / "checkpoints" / f"step-{step:06d}", step)
            return
        # It dies with the process: a checkpoint that was begun is none.
        self._writing = threading.Thread(target=self._write, args=(step, copied, steps), name="checkpoint", daemon=True)
        self._writing.start()

    def check(self) -> None:
        """Raise what has gone wrong, if writing has ended."""
        if self._writing is not None and not self._writing.is_alive():
            self.finish()

    def finish(self) -> Checkpoint | None:
        """Wait until what was saved is written, and return it; raises what has gone wrong with that."""
        if self._writing is not None:
            with phase("writing a checkpoint"):
                self._writing.join()
            self._writing = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self.last

    def _write(self, step: int, copied: dict[str, dict[str, torch.Tensor]], steps: StepsSeal | None) -> None:
        try:
            self.last = written(self._stage, step, copied.items(), self._keep, steps)
        except BaseException as error:  # whatever it is, it is raised where somebody hears it
            self._error = error


def _fits(size: int) -> bool:
    """Whether a copy of so many bytes may be held in memory; where the system does not say, it may."""
    if not _MEMORY.exists():
        return True
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _MEMORY.read_text(), re.MULTILINE)
    return found is None or size <= _SHARE * 1024 * int(found[1])
