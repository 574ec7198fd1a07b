"""What a plugin's import may take, and whose the signals are that arrive meanwhile."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, final

from flowmap.errors import FlowmapError

_EXIT = os._exit

SECONDS = "FLOWMAP_PLUGIN_SECONDS"
"""The environment variable that says how long the import of a plugin may take."""

WITHOUT = "FLOWMAP_WITHOUT_PLUGINS"
"""The environment variable that names entry points, with commas between them, that are not loaded."""

_SECONDS = 30.0
_AGAIN_SECONDS = 1.0  # for a plugin that goes on when it is interrupted
_TIMES = 4  # that it is interrupted; then nothing will


@final
class OverdueError(BaseException):
    """The import of a plugin takes too long. What catches every Exception does not catch it."""


def seconds() -> float:
    """How long the import of a plugin may take; raises FlowmapError if the environment says nothing that can be."""
    text = os.environ.get(SECONDS, "").strip()
    try:
        found = float(text or _SECONDS)
    except ValueError:
        found = 0
    if not 0 < found < math.inf:
        raise FlowmapError(f"{SECONDS} is '{text}', and must be a number of seconds above 0")
    return found


def left_out() -> frozenset[str]:
    """The entry points that the environment leaves out."""
    return frozenset(name.strip() for name in os.environ.get(WITHOUT, "").split(","))


@contextmanager
def in_time(limit: float, hopeless: Callable[[], None]) -> Iterator[None]:
    """Raise OverdueError in what takes longer than `limit` seconds, where an alarm can: in the main thread, of a POSIX.

    One that is caught is followed by others. Where all are caught `hopeless` is called, which ends the process.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    over, times = False, 0

    def rung(number: int, frame: FrameType | None) -> None:
        nonlocal times
        if over:
            return
        times += 1
        if times > _TIMES:
            hopeless()
        raise OverdueError

    before = signal.signal(signal.SIGALRM, rung)
    left, interval = signal.setitimer(signal.ITIMER_REAL, limit, _AGAIN_SECONDS)
    try:
        yield
    finally:
        over = True
        signal.setitimer(signal.ITIMER_REAL, left, interval)
        signal.signal(signal.SIGALRM, before)


def leave(status: int) -> NoReturn:
    """End the process at once, whatever a plugin has made of `os._exit`."""
    _EXIT(status)


@contextmanager
def staying() -> Iterator[None]:
    """Have `os._exit` raise SystemExit in this process within this context; a child of it may leave."""
    process, over = os.getpid(), False

    def stay(status: int) -> NoReturn:
        if over or os.getpid() != process:
            _EXIT(status)
        raise SystemExit(f"os._exit({status})")

    before, os._exit = os._exit, stay
    try:
        yield
    finally:
        over, os._exit = True, before


@contextmanager
def heard_signals() -> Iterator[list[BaseException]]:
    """Within this context the list fills with what signals from outside raise."""
    heard: list[BaseException] = []
    if threading.current_thread() is not threading.main_thread():
        yield heard  # no signal arrives in this thread
        return
    before: dict[int, Callable[[int, FrameType | None], object]] = {
        number: at for number in signal.valid_signals() if callable(at := signal.getsignal(number))
    }

    def arrived(number: int, frame: FrameType | None) -> None:
        try:
            before[number](number, frame)
        except BaseException as error:
            heard.append(error)
            raise

    for number in before:
        signal.signal(number, arrived)
    try:
        yield heard
    finally:
        for number, at in before.items():
            signal.signal(number, at)
