"""The processes in which contestants are trained, and the script whose call starts them."""

from __future__ import annotations

import inspect
import multiprocessing
import os
import sys
from multiprocessing.context import ForkServerContext

from flowmap.errors import FlowmapError


def training_processes() -> ForkServerContext:
    """What starts them: everything is imported once, and each process is a copy of the one that has done so."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["flowmap.comparison.run", "flowmap.launch.run"])
    return context


def threads_of(processes: int) -> int:
    """Of each of so many trainings: its share of the processors, and no more than the environment says."""
    share, told = max(1, (os.cpu_count() or 1) // processes), os.environ.get("OMP_NUM_THREADS", "")
    return min(share, max(1, int(told))) if told.isdecimal() else share


def leave_if_rerun() -> None:
    """End this process if it was started by a comparison, and is running the script again that has asked for it."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "__mp_main__":
            raise SystemExit(_unguarded(frame.f_code.co_filename))
        frame = frame.f_back


def refuse_unguarded() -> None:
    """Raise FlowmapError if the running script cannot be run again, as each process does that it starts.

    A process that does nothing tries it. A notebook or an interactive session has no script, and nothing to guard.
    """
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is None:
        return
    process = training_processes().Process(target=_nothing)
    process.start()
    process.join()
    if process.exitcode:
        raise FlowmapError(_unguarded(script))


def _nothing() -> None:
    """What is done where it matters only that a process can be started."""


def _unguarded(script: str) -> str:
    return (
        f"each training has a process of its own, which begins by running {script} again: put the call of "
        f'flowmap.compare in {script} below `if __name__ == "__main__":`'
    )
