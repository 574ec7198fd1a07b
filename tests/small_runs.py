"""Runs small enough for tests: recipes of a few steps, in this process or in real ones that can be killed.

Starting a process that imports torch takes seconds. So one process imports everything once, and forks a real
`flowmap` process for each order: it has an id, takes signals and dies as any other.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from flowmap.console.signals import Interruption
from flowmap.interfaces import Objective, Turn
from flowmap.plugin import ComponentConfig, Finding, ObjectiveConfig, RoleSpec, StageFacts
from flowmap.plugin.catalogue import catalogue
from flowmap.recipe.layout import Plan, StagePlan, make_plan
from flowmap.recipe.read import read
from flowmap.recipe.recipe import Recipe
from flowmap.recipe.tables import ComputeConfig
from flowmap.training.processes import Processes
from flowmap.training.records import StepRecord
from flowmap.training.train import train
from flowmap.video.pictures import scatter

HEAD = """
name = "small"
data = "checkerboard"
backbone = { type = "mlp", width = 8, depth = 1 }
"""

TEACHER = """
[[stages]]
name = "teacher"
steps = 6
batch = 8
objective = "flow_matching"
optimizer = { warmup = 2, decay = 0.5 }
"""

FORWARD = """
[[stages]]
name = "forward"
steps = 4
batch = 8
objective = "flow_map"
roles.student.from = "teacher"
"""

DISCRETE = """
[[stages]]
name = "discrete"
steps = 4
batch = 8
objective = "discrete_flow_map"
roles.student.from = "teacher"
roles.teacher.from = "teacher"
ema = { decay = 0.9, start = 2 }
"""

CONSISTENCY = """
[[stages]]
name = "consistency"
steps = 4
batch = 8
objective = "consistency"
roles.student.from = "teacher"
roles.teacher.from = "teacher"
"""

ON_POLICY = """
[[stages]]
name = "on_policy"
steps = 5
batch = 8
objective = { type = "backward_simulation", rollout_steps = [1, 2, 4], forward = "discrete_flow_map" }
optimizer = { betas = [0.0, 0.999] }
roles.student.from = "forward"
roles.teacher.from = "teacher"
roles.critic = { from = "teacher", optimizer = { lr = 5e-4, betas = [0.0, 0.999] } }
"""

EVERYTHING = TEACHER + FORWARD + DISCRETE + CONSISTENCY + ON_POLICY
"""A stage of every objective; `on_policy` trains two roles."""

EVALUATION = """
[evaluation]
teacher = "teacher"
teacher_calls = 4
calls = [1, 2]
samples = 24
repeats = 3
real = 200
metrics = ["frechet_pixels", { type = "frechet_teacher", space = "pixels" }, "semigroup"]
contests = [
    { stage = "teacher", samplers = ["euler", "heun"] },
    { stage = "forward", samplers = ["flow_map", "consistency"] },
]
"""


def checkpoints_every(every: int, keep: int = 2) -> str:
    """The table `checkpoints`."""
    return f"\n[checkpoints]\nevery = {every}\nkeep = {keep}\n"


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what others import is theirs
    # What a run imports on its way, and each process would otherwise import anew.
    for name in (
        "flowmap.interfaces.endless",
        "flowmap_datasets.checkerboard",
        "ot",
        "torch._dynamo",
        "torch.distributed.tensor",
        "flowmap.launch.run",
    ):
        importlib.import_module(name)
    # Nor need each load the plugins and the fonts of pictures, which takes longer than a small run.
    catalogue()
    scatter(np.zeros((1, 2)))
# A stage ends with a garbage collection: it would walk through all of that, and in a forked process copy it.
gc.freeze()
# Small tensors: one thread is fastest, and the sums are the same on every machine.
torch.set_num_threads(1)

# --- in this process


@dataclass
class Watcher:
    """Keeps what it is told; `at` is called with every record."""

    records: list[StepRecord] = field(default_factory=list)
    begun: list[tuple[str, int]] = field(default_factory=list)
    ended: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    at: Callable[[StepRecord], None] = lambda record: None

    def begin(self, plan: StagePlan, done: int) -> None:
        self.begun.append((plan.stage.name, done))

    def step(self, record: StepRecord) -> None:
        self.records.append(record)
        self.at(record)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def end(self, plan: StagePlan, note: str) -> None:
        self.ended.append((plan.stage.name, note))


def planned(text: str, folder: Path, *overrides: str) -> Plan:
    """The plan of the recipe `text`, to be run under `folder`."""
    path = folder / "recipe.toml"
    path.write_text(text)
    return make_plan(read(path, overrides)[0], folder / "runs")


def train_all(plan: Plan, watcher: Watcher | None = None, interruption: Interruption | None = None) -> Watcher:
    """Train every stage of `plan` in this process."""
    watcher = watcher or Watcher()
    for stage in plan.stages:
        train(stage, Processes(ComputeConfig(device="cpu")), watcher, interruption or Interruption())
    return watcher


class _Scripted(Objective):
    def __init__(self, turns: tuple[Turn, ...]) -> None:
        self._turns = turns

    def turns(self) -> tuple[Turn, ...]:
        return self._turns


def scripted(*turns: Turn, **roles: RoleSpec) -> ObjectiveConfig:
    """An objective that is nothing but its turns, over `roles` (by default a trained student)."""

    class ScriptedConfig(ObjectiveConfig):
        """A test's own objective."""

        type: Literal["scripted"] = "scripted"

        def roles(self) -> Mapping[str, RoleSpec]:
            return roles or {"student": RoleSpec("velocity", True, "")}

        def findings(self, facts: StageFacts) -> Iterable[Finding]:
            return []

        def build(self) -> Objective:
            return _Scripted(turns)

    return ScriptedConfig()


def scripted_plan(objective: ComponentConfig, folder: Path, *overrides: str, **stage: Any) -> StagePlan:
    """The plan of one stage `teacher` with that objective; `stage` replaces fields of it."""
    recipe: Recipe = planned(HEAD + TEACHER, folder, *overrides).recipe
    changed = recipe.stages[0].model_copy(update={"objective": objective, **stage})
    return make_plan(recipe.model_copy(update={"stages": (changed,)}), folder / "runs").stages[0]


# --- in processes of their own


@dataclass
class Process:
    """A running `flowmap` command."""

    pid: int
    log: Path

    def wait(self) -> int:
        """Its exit code, as a shell's `$?` but with the negative signal number for a death by signal."""
        return int(_ask({"wait": self.pid})["code"])

    def ended(self) -> bool:
        """Whether it has come to its end."""
        return not _ask({"alive": self.pid})["alive"]

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        """Wait until `condition` holds; fails with the process's output if it ends before."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"too slow:\n{self.text}"
            assert not self.ended(), f"ended too early:\n{self.text}"
            time.sleep(0.002)

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")


NO_REPORT = """
import flowmap.launch.run
flowmap.launch.run.write_report = lambda folder: folder / "report.html"
import numpy
import flowmap.interfaces.endless
def coarse(points):
    counts = numpy.histogramdd(points[:, :2], 8)[0].clip(0, 255).astype(numpy.uint8)
    return counts.reshape(8, -1, 1).repeat(3, axis=2)
flowmap.interfaces.endless.scatter = coarse
"""
"""Report and pictures of points take longer than a small run, and have tests of their own: these are coarse."""


FORKED_TRAININGS = """
import multiprocessing, types
from flowmap.comparison import run
run.multiprocessing = types.SimpleNamespace(get_context=lambda name: multiprocessing.get_context("fork"))
"""
"""Trainings of a comparison are forked from the process itself, which has imported everything."""


def start(folder: Path, *words: str, patch: str = "", report: bool = False) -> Process:
    """Start `flowmap *words` in `folder`; `patch` is Python that is run in that process first."""
    patch = patch if report else NO_REPORT + patch
    log = folder / f"log-{len(list(folder.glob('log-*')))}.txt"
    log.touch()
    return Process(_ask({"words": words, "folder": str(folder), "log": str(log), "patch": patch})["pid"], log)


def flowmap(folder: Path, *words: str, patch: str = "", report: bool = False) -> tuple[int, str]:
    """Run `flowmap *words` in `folder` to its end: its exit code and what it printed."""
    process = start(folder, *words, patch=patch, report=report)
    return process.wait(), process.text


def obey(folder: Path, text: str) -> tuple[int, str]:
    """Run the command that a message ends with ('To go on: ...'), word for word; the last one's code and text."""
    command = text.split("To go on: ")[1].splitlines()[0]
    result = (0, "")
    for part in command.split(" && "):
        words = shlex.split(part)
        if words[0] == "flowmap":
            result = flowmap(folder, *words[1:])
        else:
            done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
            result = (done.returncode, done.stdout + done.stderr)
        if result[0]:
            break
    return result


@cache
def _server() -> subprocess.Popen[str]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    server = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, **threads},
    )
    atexit.register(server.communicate)  # closes its input, which ends it
    return server


def _ask(order: dict[str, Any]) -> dict[str, Any]:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(order) + "\n")
    answer = server.stdout.readline()
    assert answer, "the process that starts the others is gone"
    return dict(json.loads(answer))


def warm_up() -> None:
    """Start importing for the processes to come, while the tests of this process run."""
    _server()


def preload(*modules: str) -> None:
    """Import `modules` where processes come from, which then need not."""
    _ask({"import": modules})


def preload_trainings() -> None:
    """Let the trainings of comparisons be copies of a process that has imported all that is imported here.

    Of the program's own choice each would import for seconds what it needs for some steps.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(["flowmap.comparison.run", __name__])
    forkserver.ensure_running()


OF_VIDEOS = (
    "flowmap_wan.backbone",
    "flowmap_wan.export",
    "flowmap.shards.archive",
    "flowmap_video.videos",
    "flowmap.use.sample",
    "flowmap.use.export",
    "diffusers.models.transformers.transformer_wan",
    "transformers.models.umt5.modeling_umt5",
    "av",
)
"""What commands on videos import, and would import anew in each process."""


def _serve() -> None:
    codes: dict[int, int] = {}
    os.fsync = os.fstat  # type: ignore[assignment]  # as in tests/conftest.py

    def gone(pid: int, options: int) -> bool:
        if pid not in codes:
            found, status = os.waitpid(pid, options)
            if found:
                codes[pid] = os.waitstatus_to_exitcode(status)
        return pid in codes

    for line in sys.stdin:
        order = json.loads(line)
        if "import" in order:
            for name in order["import"]:
                importlib.import_module(name)
            gc.freeze()
            answer: dict[str, Any] = {}
        elif "wait" in order:
            gone(order["wait"], 0)
            answer = {"code": codes[order["wait"]]}
        elif "alive" in order:
            answer = {"alive": not gone(order["alive"], os.WNOHANG)}
        else:
            pid = os.fork()
            if not pid:
                _become(order)
            codes.pop(pid, None)  # of an earlier process: ids come again after some ten thousand
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


def _become(order: dict[str, Any]) -> None:
    """In the forked process: be `flowmap` and nothing else."""
    import flowmap.cli.main

    code: object = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(order["folder"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["flowmap", *order["words"]]
        exec(order["patch"], {})
        flowmap.cli.main.main()
        code = 0
    except SystemExit as error:
        code = error.code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


# --- what a run leaves behind


def tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors below `folder`, by file and name."""
    from safetensors.torch import load_file

    return {
        f"{file.relative_to(folder)}:{name}": tensor
        for file in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def trace(folder: Path) -> dict[str, Any]:
    """What must be the same in two runs: every byte of every checkpoint, and the steps without their times."""
    found: dict[str, Any] = {str(f.relative_to(folder)): f.read_bytes() for f in folder.glob("**/checkpoints/*/*")}
    for file in folder.glob("**/steps.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        found[str(file.relative_to(folder))] = [
            {key: value for key, value in line.items() if key not in ("seconds", "peak_bytes")} for line in lines
        ]
    return found


def assert_same(one: Path, other: Path) -> None:
    """Two runs are the same, bit for bit."""
    a, b = trace(one), trace(other)
    assert a.keys() == b.keys()
    assert [name for name in a if a[name] != b[name]] == []
    ours, theirs = tensors(one), tensors(other)
    assert ours
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


if __name__ == "__main__":
    _serve()
