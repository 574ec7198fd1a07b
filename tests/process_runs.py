"""Runs that several processes share, and how far the results of two runs are apart.

Two ways to start one. `torchrun` is what a user types, and takes many seconds before it trains. `shared` forks the
processes from one that has imported everything (see `small_runs`), and does to them what torchrun does: tells them
who they are, passes signals on, and ends all when one fails.
"""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowmap.recipe.step_length import NAME
from tests.small_runs import NO_REPORT, Process, start, tensors

PATIENCE = 900
"""Seconds after which a run is said to hang."""


def _become_several(number: int, nodes: int, patience: float) -> None:
    """Fork `number` processes that know of each other, and return in each; this one never does.

    They believe to be on so many `nodes`.

    Its code is run in a process of its own: what it needs is imported within.
    """
    import math
    import os
    import signal
    import socket
    import sys
    import time

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    here = number // nodes
    os.environ.update(place, WORLD_SIZE=str(number), LOCAL_WORLD_SIZE=str(here), GROUP_WORLD_SIZE=str(nodes))
    alive: list[int] = []

    def send(number: int) -> None:
        for pid in alive:
            os.kill(pid, number)

    for rank in range(number):
        pid = os.fork()
        if not pid:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank % here))
            # Whatever PYTHONUNBUFFERED says: else a line is several writes, among which another's may come.
            for stream in (sys.stdout, sys.stderr):
                stream.reconfigure(line_buffering=True, write_through=False)
            return
        alive.append(pid)
    for known in (signal.SIGINT, signal.SIGTERM):
        signal.signal(known, lambda known, frame: send(known))
    deadline, due, first = time.monotonic() + patience, math.inf, 0
    while alive:
        for pid in tuple(alive):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                alive.remove(pid)
                code = os.waitstatus_to_exitcode(status)
                if code and not first:
                    # A killed process says nothing: time for the others to notice and say it.
                    first, due = code, time.monotonic() + (2 if code < 0 else 0)
        if first and time.monotonic() > due:
            send(signal.SIGTERM)
            due = math.inf
        if time.monotonic() > deadline:
            print("hanging", flush=True)
            send(signal.SIGKILL)
        time.sleep(0.02)
    sys.stdout.flush()
    os._exit(first & 255)


def start_shared(folder: Path, *words: str, number: int = 2, nodes: int = 1, patch: str = "") -> Process:
    """Start `flowmap *words` in `number` processes; `patch` is Python that is run first, in each."""
    launcher = f"{inspect.getsource(_become_several)}\n_become_several({number}, {nodes}, {PATIENCE})\n"
    return start(
        folder, *words, patch=f"from __future__ import annotations\n{launcher}\n{NO_REPORT}{patch}", report=True
    )


def shared(folder: Path, *words: str, number: int = 2, nodes: int = 1, patch: str = "") -> tuple[int, str]:
    """Run `flowmap *words` in `number` processes to the end: the first exit code but 0, and what all printed."""
    process = start_shared(folder, *words, number=number, nodes=nodes, patch=patch)
    code = process.wait()
    assert "hanging" not in process.text, process.text
    return code, process.text


# --- as a user types it

_SCRIPT = """
import sys
exec(sys.argv.pop(1))
from flowmap.cli.main import main
main()
"""


@dataclass
class Torchrun:
    """torchrun and the processes that it has started."""

    popen: subprocess.Popen[bytes]
    log: Path

    def wait(self) -> int:
        """The launcher's exit code."""
        return self.popen.wait(PATIENCE)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; fails with what was printed if the run ends before."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"too slow:\n{self.text}"
            assert self.popen.poll() is None, f"ended too early:\n{self.text}"
            time.sleep(0.01)

    @property
    def text(self) -> str:
        """What all have printed so far."""
        return self.log.read_text()


@contextmanager
def torchrun(folder: Path, *words: str, number: int = 2, patch: str = "") -> Iterator[Torchrun]:
    """`torchrun ... -m flowmap *words` while it runs; with a `patch`, a script that runs that Python first."""
    (folder / "patched.py").write_text(_SCRIPT)
    program = ["patched.py", NO_REPORT + patch] if patch else ["-m", "flowmap"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}"]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    log = folder / f"log-{len(list(folder.glob('log-*')))}.txt"
    with log.open("wb") as out:
        popen = subprocess.Popen(
            [*launcher, *program, *words],
            cwd=folder,
            env={**os.environ, **threads, "PYTHONUNBUFFERED": ""},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        yield Torchrun(popen, log)
    finally:
        if popen.poll() is None:
            # It ends its processes before itself; SIGKILL would leave them behind.
            popen.send_signal(signal.SIGTERM)
            popen.wait(PATIENCE)


# --- what two runs of a recipe have left behind


def lines(stage: Path) -> list[dict[str, Any]]:
    """The steps of a stage, as logged."""
    return [json.loads(line) for line in (stage / "steps.jsonl").read_text().splitlines()]


def furthest(one: Path, other: Path) -> dict[str, float]:
    """The largest difference of two stages in each kind of number, relative to the size of what it is in.

    Of the last checkpoint: weights, moving averages and both moments of every trained role, relative to the largest
    entry of the tensor; of every step: losses, raw losses and norms, each relative to itself.
    """
    found: dict[str, float] = defaultdict(float)
    end = max((one / "checkpoints").iterdir()).relative_to(one)
    ours, theirs = tensors(one / end), tensors(other / end)
    assert ours
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.isfinite().all(), name
        assert tensor.shape == theirs[name].shape, name
        kind = _kind(name)
        size = float(tensor.abs().max())
        if size < _ROUNDING:
            # What is 0 in exact arithmetic, such as the gradient of queries that have one key to choose from.
            size = max(float(t.abs().max()) for n, t in ours.items() if _kind(n) == kind)
        found[kind] = max(found[kind], float((tensor - theirs[name]).abs().max()) / size)
    for our, their in zip(lines(one), lines(other), strict=True):
        assert our["step"] == their["step"]
        for group in ("losses", "raw", "norms"):
            assert our[group].keys() == their[group].keys()
            for name, number in our[group].items():
                # Differences of differences: rounding is not small beside them, and rows for company are measured too.
                if name == NAME:
                    continue
                found[group] = max(found[group], abs(number - their[group][name]) / abs(number))
    return dict(found)


_ROUNDING = 1e-9


def _kind(name: str) -> str:
    """The kind of number that a tensor of a checkpoint holds, by its file and name."""
    file, _, key = name.partition(":")
    if file.endswith(".optimizer.safetensors"):
        return key.rpartition("/")[2]
    return "average" if file.endswith(".ema.safetensors") else "weights"


def samples(line: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """How many samples a step has sent through each role's network, with gradient and without."""
    return {role: (calls["grad_samples"], calls["no_grad_samples"]) for role, calls in line["calls"].items()}
