"""Signals that ask a command to stop: Ctrl-C, a terminal that has gone, what schedulers send before they kill."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from flowmap.files.folder import StoppedError

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
HEARD = tuple(signal.Signals[name] for name in _NAMES if name in signal.Signals.__members__)
"""Ctrl-C; what ends processes; a terminal that hangs up; what Slurm, SGE and LSF can send; time that is up."""
_INSISTENT = (signal.SIGINT, signal.SIGTERM)  # shells repeat SIGHUP, and SIGXCPU comes every second
CTRL_C = 130
"""The exit code of what Ctrl-C has ended."""

_STDERR = 2
_AGAIN_SECONDS = 0.05


class Signalled(KeyboardInterrupt):
    """A signal that ends the work where it stands. What catches a KeyboardInterrupt catches this too."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = signal.Signals(number)

    @property
    def code(self) -> int:
        """The exit code of what the signal has ended."""
        return 128 + self.signal

    def words(self) -> str:
        """What has happened to the work."""
        return "interrupted" if self.signal == signal.SIGINT else f"stopped by {self.signal.name}"


def say(text: str) -> None:
    """Write a line of `text`, from within a signal's handler, to a terminal that may have gone."""
    with suppress(OSError):
        os.write(_STDERR, f"{text}\n".encode("ascii", "replace"))


class Interruption:
    """Turns signals into a StoppedError: at once, or when the step in hand is finished and saved.

    `told` hears, while a handler runs, that the first signal was heard.
    """

    def __init__(self, told: Callable[[str], None] = say) -> None:
        self.noted: signal.Signals | None = None
        self._told = told
        self._patient = False
        self._hook = sys.unraisablehook

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within this context a signal ends the work with a StoppedError."""
        with self.raising():
            try:
                yield
            except Signalled as error:
                name = error.signal.name
                raise StoppedError(f"stopped by {name}; what was finished is saved.", error.code) from None

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Within this context a signal is raised as Signalled; who has said `nohup` goes on without a terminal.

        Elsewhere than in the main thread Python hears no signals, and nothing is changed.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        kept = [n for n in HEARD if n != getattr(signal, "SIGHUP", None) or signal.getsignal(n) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._arrived) for number in kept}
        self._hook, sys.unraisablehook = sys.unraisablehook, self._swallowed
        try:
            yield
        finally:
            sys.unraisablehook = self._hook
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def patience(self) -> Iterator[None]:
        """Within this context the first signal is only noted, for the work to end by itself; again, it acts at once.

        One of another kind does not: on Ctrl-C torchrun sends SIGTERM to processes that have had SIGINT already.
        """
        self._patient = True
        try:
            yield
        finally:
            self._patient = False
        if self.noted is not None:
            raise Signalled(self.noted)

    def _swallowed(self, lost: sys.UnraisableHookArgs) -> None:
        """Send a signal again that came while Python was in a finaliser, where every exception is printed and lost."""
        if isinstance(lost.exc_value, Signalled):
            threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), lost.exc_value.signal)).start()
        else:
            self._hook(lost)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if not self._patient or (self.noted == number and number in _INSISTENT):
            raise Signalled(number)
        if self.noted is None:
            self.noted = signal.Signals(number)
            self._told(f"{self.noted.name}: stopping after this step; again to stop now")
