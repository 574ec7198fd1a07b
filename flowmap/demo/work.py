"""Answer one question after the other, chunk by chunk, in a thread that can be stopped between network calls.

Whoever asks takes answers from a generator. To close that, as a cancelled or a closed page does, ends the work at the
next network call.
"""

from __future__ import annotations

import itertools
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextvars import copy_context
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from flowmap.console.options import from_page
from flowmap.demo.answers import Answer, Shown, write_answer, write_frames
from flowmap.demo.question import FIELDS, Question
from flowmap.demo.sides import Side
from flowmap.errors import FlowmapError
from flowmap.phases import Phase, listening
from flowmap.use.sample import draw_samples
from flowmap.use.watching import Watcher
from flowmap.use.wish import Wish

_LOOK_SECONDS = 0.25


class _StoppedError(Exception):
    """Nobody waits for the answer any more."""


@final
class Answering:
    """Answers for `sides`, of which one at a time computes, with files in `folder`."""

    def __init__(self, sides: Sequence[Side], folder: Path) -> None:
        self.sides = tuple(sides)
        self._folder = folder
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._jobs: set[_Job] = set()

    def answers(self, question: Question) -> Iterator[Answer]:
        """How far the answer is, again and again, until it is there; the last has all of it, or says why not."""
        # The other side is left out where nobody asks for it.
        pairs = list(zip(self.sides[: len(question.calls)], question.calls, strict=True))
        try:
            with from_page(FIELDS):
                tasks = [(side, _checked(question, side, calls)) for side, calls in pairs]
        except FlowmapError as error:
            yield Answer("refused", _one_line(error, question.file))
            return
        with from_page(FIELDS):
            job = _Job(tasks, self._folder / f"{next(self._numbers):05d}", self._lock)
        self._jobs.add(job)
        try:
            yield from job.answers()
        finally:
            job.stop()
            self._jobs.discard(job)

    def stop(self, seconds: float) -> None:
        """End all work at its next network call, and wait so long for that."""
        jobs = list(self._jobs)
        for job in jobs:
            job.stop()
        for job in jobs:
            job.wait(seconds)


def _one_line(error: FlowmapError, file: Path | None) -> str:
    """What was wrong, as one line, in which an uploaded `file` goes by its name."""
    words = " ".join(str(error).split())
    return words if file is None else words.replace(str(file), file.name)


def _checked(question: Question, side: Side, calls: int) -> Wish:
    wish = question.wish(side, calls)
    side.opened.asked(wish)
    return wish


@final
class _Job(Watcher):
    """One question: what was asked of each side, the thread that works on it, and what that thread says."""

    def __init__(self, tasks: Sequence[tuple[Side, Wish]], folder: Path, lock: threading.Lock) -> None:
        self._tasks, self._folder, self._lock = tasks, folder, lock
        self._stopping = threading.Event()
        self._said: queue.Queue[Answer] = queue.Queue()
        self._phases: list[Phase] = []
        self._shown: list[Shown | None] = [None] * len(tasks)
        self._side, self._calls, self._parts, self._showing = 0, 0, 0, 0.0
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), daemon=True)

    def stop(self) -> None:
        """End at the next network call."""
        self._stopping.set()

    def wait(self, seconds: float) -> None:
        """Wait so long for the end."""
        if self._thread.is_alive():
            self._thread.join(seconds)

    def answers(self) -> Iterator[Answer]:
        """Begin, when no other question is worked on, and say how far it is now and then, until nothing is left to say.

        Errors are in the words of whoever made the job.
        """
        self._thread.start()
        began = time.monotonic()
        while True:
            try:
                found = self._said.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                found = Answer("working", self._progress(time.monotonic() - began), tuple(self._shown))
            yield found
            if found.state != "working":
                return

    # What the thread does.

    def calling(self) -> None:
        """Count a network call, unless nobody waits for it."""
        if self._stopping.is_set():
            raise _StoppedError
        self._calls += 1

    def finished(self, x: Tensor) -> None:
        """Show the frames that are finished, of a video."""
        side, _ = self._tasks[self._side]
        if side.opened.spec.fps is None or len(x) > 1:
            return
        began = time.monotonic()
        frames = side.opened.contestant.backbone.decode(x).cpu()[0]
        self._parts += 1
        file = self._folder / f"{_SIDES[self._side]}-part-{self._parts}.mp4"
        write_frames(file, frames, side)
        self._showing += time.monotonic() - began
        self._shown[self._side] = Shown(file, f"{len(frames)} of {side.opened.spec.shape[0]} frames are finished")
        self._said.put(Answer("working", self._progress(None), tuple(self._shown)))

    def begin(self, phase: Phase) -> None:
        """A phase begins."""
        self._phases.append(phase)

    def end(self, phase: Phase) -> None:
        """It has ended."""
        self._phases.remove(phase)

    def _run(self) -> None:
        try:
            with self._lock, listening(self):
                self._folder.mkdir(parents=True)
                for index, (side, wish) in enumerate(self._tasks):
                    self._side = index
                    self._shown[index] = self._sampled(side, wish)
            ended = Answer("done", "Done", tuple(self._shown))
        except _StoppedError:
            ended = Answer("stopped", "Cancelled", tuple(self._shown))
        except FlowmapError as error:
            _, wish = self._tasks[self._side]
            ended = Answer("refused", _one_line(error, wish.image or wish.video), tuple(self._shown))
        except OSError as error:
            ended = Answer("refused", f"It cannot be written: {error.strerror or error}", tuple(self._shown))
        except (MemoryError, torch.OutOfMemoryError):
            ended = Answer(
                "refused", "There is not enough memory for this; make fewer, or smaller ones", tuple(self._shown)
            )
        except Exception as error:
            # The page goes on; whoever started it sees what it was.
            traceback.print_exc(file=sys.stderr)
            ended = Answer("refused", f"A fault of flowmap's own, {type(error).__name__}: the terminal has it whole")
        self._said.put(ended)

    def _sampled(self, side: Side, wish: Wish) -> Shown:
        if self._stopping.is_set():
            raise _StoppedError
        self._calls, self._parts, self._showing = 0, 0, 0.0
        began = time.monotonic()
        samples, facts = draw_samples(side.opened.asked(wish), wish, watcher=self)
        seconds = time.monotonic() - began - self._showing
        out = self._folder / _SIDES[self._side]
        return write_answer(out, side, wish, samples, facts, seconds, self._calls)

    def _progress(self, seconds: float | None) -> str:
        phases = tuple(self._phases)
        if not phases and self._shown == [None] * len(self._tasks) and not self._folder.exists():
            return "Waiting for the work before this one to end"
        words = phases[-1].words() if phases else "working"
        of = next((p for p in phases if p.unit == "network calls"), None)
        if of is not None and phases[-1] is not of:
            words = f"{of.words()}, {words}"
        which = f"{_SIDES[self._side].capitalize()}: " if len(self._tasks) > 1 else ""
        return f"{which}{words}" + ("" if seconds is None else f" · {seconds:.0f} s")


_SIDES = ("left", "right")
