"""Faults of plugins: a line for who runs the command, and the traceback in a file for who wrote the plugin."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from flowmap.errors import TRACEBACK, FlowmapError

_EXITS = ("typer", "click")
"""What ends every command by a SystemExit."""


@contextmanager
def in_one_line() -> Iterator[None]:
    """Raise FlowmapError, in this context, for an error of a plugin that is not our own."""
    try:
        yield
    except FlowmapError:
        raise
    except (Exception, SystemExit) as error:
        if damaged := _damage(error):
            raise FlowmapError(damaged) from error
        told = _told(error)
        if told is None:
            raise
        raise FlowmapError(f"{told}; {_written(error)}", 1) from error


def _damage(error: BaseException) -> str:
    """What is damaged in what is installed, where `error` comes of that."""
    if isinstance(error, SystemExit):
        return ""
    from flowmap.plugin.points import damage

    return damage(error)


def _told(error: BaseException) -> str | None:
    if (isinstance(error, SystemExit) and _raised_by(error) in _EXITS) or "flowmap.plugin.catalogue" not in sys.modules:
        return None
    from flowmap.plugin.blame import blamed
    from flowmap.plugin.catalogue import catalogue

    return blamed(error, catalogue())


def _raised_by(error: BaseException) -> str:
    """The package of the code that raised it."""
    step = error.__traceback__
    assert step is not None
    while step.tb_next is not None:
        step = step.tb_next
    return str(step.tb_frame.f_globals.get("__name__")).partition(".")[0]


def _written(error: BaseException) -> str:
    """Where the traceback is: in the log of a run, if it got there, or in a new file."""
    import tempfile
    import traceback

    for note in getattr(error, "__notes__", ()):
        if note.startswith(TRACEBACK):
            return str(note)
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="flowmap-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write("".join(traceback.format_exception(error)))
    except OSError as problem:
        return f"its traceback cannot be written: {problem.strerror}"
    return f"{TRACEBACK}{file.name}"
