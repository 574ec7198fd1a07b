"""Commands in processes of their own: watched by their processor time, killed with all that they have started."""

from __future__ import annotations

import inspect
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.process_runs import PATIENCE, _become_several
from tests.small_runs import FORKED_TRAININGS, NO_REPORT, Process, start

from .tally import Verdict

ROOT = Path(__file__).parents[2]
BUSY_SECONDS = 120.0
"""Processor time after which a command hangs: those here take one or two."""
IDLE_SECONDS = 120.0
"""Time without any processor time after which a command waits for what never comes."""
_TICK = os.sysconf("SC_CLK_TCK")
_OWN_GROUP = f"import os, sys\nos.setsid()\nsys.path.insert(0, {str(ROOT)!r})\n"


@dataclass(frozen=True)
class Ended:
    """How a command has ended: its exit code (None: it hung), what it printed, its processor time in seconds."""

    code: int | None
    text: str
    busy: float

    @property
    def broken(self) -> Verdict | None:
        """Whether it hung, or ended in a way in which nothing should."""
        if self.code is None:
            return "hang"
        if self.code < 0 or re.search(r"Traceback \(most recent|Exception ignored|Fatal Python error", self.text):
            return "traceback"
        return None

    @property
    def error(self) -> str:
        """What it said that was wrong."""
        found = re.search(r"^error: (.*)", self.text, re.MULTILINE | re.DOTALL)
        return found[1] if found else ""


def begin(folder: Path, *words: str, patch: str = "", processes: int = 1, report: bool = False) -> Process:
    """Start `flowmap *words` in `folder`, in a group of its own."""
    several = f"{inspect.getsource(_become_several)}\n_become_several({processes}, {PATIENCE})\n"
    first = _OWN_GROUP + FORKED_TRAININGS + (several if processes > 1 else "")
    return start(folder, *words, patch=first + ("" if report else NO_REPORT) + patch, report=True)


def finish(process: Process, until: Callable[[float], bool] | None = None) -> Ended:
    """Wait for the end, or until what is asked of its processor time holds, when it is killed with all its own."""
    busy, changed, now = 0.0, time.monotonic(), time.monotonic
    while not process.ended():
        used = _processor_time(process.pid)
        if used > busy:
            busy, changed = used, now()
        if until is not None and until(used):
            _kill_all(process.pid)
            break
        if busy > BUSY_SECONDS or now() - changed > IDLE_SECONDS:
            _kill_all(process.pid)
            process.wait()
            return Ended(None, process.text, busy)
        time.sleep(0.004)
    code = process.wait()
    _kill_all(process.pid)  # what it may have left behind
    return Ended(code, process.text, busy)


def run(folder: Path, *words: str, patch: str = "", processes: int = 1, report: bool = False) -> Ended:
    """Run `flowmap *words` in `folder` to its end."""
    return finish(begin(folder, *words, patch=patch, processes=processes, report=report))


def injected(folder: Path, do: str, at: int = 0, log: str = "", rank: int | None = None) -> str:
    """The patch that makes a process `do` something at an operation (see `injecting`)."""
    return f"from tests.faults import injecting\ninjecting.install({str(folder)!r}, {do!r}, {at}, {log!r}, {rank})\n"


def limited(size: int) -> str:
    """The patch that lets no file grow beyond `size` bytes, whoever writes it."""
    return f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"


def members(pid: int) -> Iterator[int]:
    """The process and all that it has started, as far as they are still its own."""
    yield pid
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield from members(int(child))


def _processor_time(pid: int) -> float:
    """Seconds of the process, of those it has waited for and of those it has."""
    total = 0
    for member in members(pid):
        with suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))
    return total / _TICK


def _kill_all(pid: int) -> None:
    """Kill the group, and wait until nobody of it is at work."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while _at_work(pid) and time.monotonic() < deadline:
            time.sleep(0.004)


def _at_work(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError):
            fields = place.read_text().rpartition(")")[2].split()
            if fields[2] == str(group) and fields[0] not in "ZX":
                return True
    return False
