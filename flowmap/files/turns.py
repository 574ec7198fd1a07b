"""Processes that write into one folder take turns where they change what is everybody's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from flowmap.files.folder import writing

_TURN = ".turn"


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Within this context no other process is in one for the same `folder`, which is there."""
    with writing(folder):
        lock = FileLock(folder / _TURN)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def turns_in(folder: Path, alone: bool) -> Iterator[None]:
    """Leave nothing of turns behind that were taken in this context, at whose end nobody else takes any.

    After an error that may not be so, unless this process is `alone`: then what they need stays.
    """
    try:
        yield
    except BaseException:
        if alone:
            _forget(folder)
        raise
    _forget(folder)


def _forget(folder: Path) -> None:
    with suppress(OSError):
        (folder / _TURN).unlink(missing_ok=True)
