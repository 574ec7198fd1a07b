"""The commands that are disturbed, each on a small folder: what must lie there, and what must come out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, final

from flowmap.errors import FlowmapError
from flowmap.files.json_lines import read_lines
from flowmap.files.manifest import checkpoints
from tests.small_runs import EVALUATION, EVERYTHING, FORWARD, HEAD, OF_VIDEOS, TEACHER, checkpoints_every
from tests.video_runs import digits_run, wan_run

from .running import Ended, injected, run
from .tally import Verdict

Result = Mapping[str, Any]

PRELOADED = (
    *OF_VIDEOS,
    "flowmap.comparison.run",
    "flowmap.launch.measure",
    "flowmap.planning.plan",
    "torch.utils.tensorboard",
)
"""What commands import, and would import anew in each process."""
TRACKED = '\n[compute]\ntrackers = ["tensorboard"]\n'
RECIPE = HEAD + TEACHER + FORWARD + EVALUATION + checkpoints_every(1)
SPECIFICATION = """
name = "small"
seeds = [0, 1]
processes = 2
against = "map"
budget = { by = "calls", amount = 120 }

[recipe]
data = "checkerboard"
backbone = { type = "mlp", width = 8, depth = 1 }
compute = { threads = 1 }
checkpoints = { every = 1, keep = 2 }

[[recipe.stages]]
name = "teacher"
steps = 4
batch = 8
objective = "flow_matching"

[recipe.evaluation]
teacher = "teacher"
teacher_calls = 2
metrics = ["frechet_pixels"]
calls = [1, 2]
samples = 16
repeats = 2
real = 200

[stage]
batch = 8
roles.student = { from = "teacher" }

[[contestants]]
name = "map"
samplers = ["flow_map"]
stages = [{ objective = "flow_map" }]

[[contestants]]
name = "twin"
samplers = ["flow_map"]
stages = [{ objective = "flow_map" }]
"""


@final
@dataclass
class Scene:
    """A command, `words`, on a folder that `fill` makes, and its `result`.

    `progress` says what is finished: nothing of it may be gone later. `reads_report` lets it write the report, which
    takes longer than all the rest.
    """

    name: str
    home: Path
    words: tuple[str, ...]
    result: Callable[[Path], Result]
    fill: Callable[[Path], object] = lambda folder: None
    progress: Callable[[Path], Result] = lambda folder: {}
    processes: int = 1
    report: bool = False
    made: str = ""
    operations: list[str] = field(default_factory=list)

    @cached_property
    def base(self) -> Path:
        """The folder as it is before the command."""
        folder = self.home / self.name / "base"
        folder.mkdir(parents=True)
        self.fill(folder)
        return folder

    @cached_property
    def whole(self) -> tuple[Path, Ended, Result]:
        """The folder after the undisturbed command, how that ended, and its result."""
        folder = self.copied("whole")
        log = self.home / self.name / "operations.txt"
        ended = self.run(folder, injected(folder, "count", log=str(log)))
        assert ended.code == 0, ended.text
        self.operations += log.read_text().splitlines()
        return folder, ended, self.result(folder)

    def copied(self, name: str, source: Path | None = None) -> Path:
        """A copy of the folder, to be disturbed."""
        folder = self.home / self.name / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source or self.base, folder, symlinks=True)
        return folder

    def run(self, folder: Path, patch: str = "") -> Ended:
        """The command in `folder`, to its end."""
        return run(folder, *self.words, patch=patch, processes=self.processes, report=self.report)

    def again(self, folder: Path, patch: str = "") -> Ended:
        """The same command once more, unless all that it makes is there: what makes a new folder makes no second."""
        if self.made and (folder / self.made).exists() and self.result(folder) == self.whole[2]:
            return Ended(0, "it is made", 0)
        return self.run(folder, patch)

    def gone(self, finished: Result, folder: Path) -> str:
        """What was `finished` in the folder and is not any more, or is another."""
        try:
            now = self.progress(folder)
        except FlowmapError as error:
            return str(error)
        return ", ".join(name for name, value in finished.items() if now.get(name) != value)

    def difference(self, folder: Path) -> str:
        """What of the result in the folder is not as the undisturbed command makes it."""
        found, expected = self.result(folder), self.whole[2]
        return ", ".join(sorted(n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n)))

    def in_the_end(self, folder: Path, finished: Result, patch: str = "") -> tuple[Verdict, str]:
        """Leave the command alone, and hold what comes out against the undisturbed result and what was finished."""
        ended = self.again(folder, patch)
        if ended.broken or ended.code:
            return ended.broken or "lost", ended.text
        if gone := self.gone(finished, folder):
            return "lost", gone
        if other := self.difference(folder):
            return "silent", f"another result: {other}"
        shutil.rmtree(folder)  # only what went wrong is looked at
        return "right", ""


def scenes(home: Path) -> dict[str, Scene]:
    """All of them, below `home`; what they have in common is made once, when it is first asked for."""
    home.mkdir(parents=True)
    text = HEAD + TEACHER + FORWARD + checkpoints_every(1)
    specified = ("compare", "spec.toml")
    found = [
        Scene("train", home, RUN, run_result, recipe(HEAD + EVERYTHING + checkpoints_every(1)), run_progress),
        Scene("run", home, RUN, run_result, recipe(RECIPE), run_progress),
        Scene("track", home, RUN, run_result, recipe(text + TRACKED), run_progress),
        Scene("two processes", home, RUN, run_result, recipe(text), run_progress, processes=2),
        Scene("evaluate", home, RUN, run_result, lambda folder: _trained(home, folder), run_progress),
        Scene("compare", home, specified, comparison_result, specification, comparison_progress),
        Scene("report", home, ("report", "runs/small"), files, lambda folder: _finished(home, folder), report=True),
        Scene("encode", home, ("encode", "r.toml", "--from", "raw"), files, lambda f: _raw(home, f), encode_progress),
        Scene(
            "sample", home, ("sample", str(home / "runs" / "digits"), "--n", "1", "--nfe", "1"), files, _drawing(home)
        ),
        Scene("export", home, ("export", "wan-run", "--to", "made"), files, lambda f: _linked(home, f), made="made"),
    ]
    return {scene.name: scene for scene in found}


RUN = ("run", "recipe.toml")


def recipe(text: str) -> Callable[[Path], object]:
    """What puts a recipe into a folder."""
    return lambda folder: (folder / "recipe.toml").write_text(text)


def specification(folder: Path) -> None:
    """Put the comparison into a folder."""
    (folder / "spec.toml").write_text(SPECIFICATION)


def _made(home: Path, name: str, text: str) -> Path:
    """A folder in which the recipe `text` was run to its end, made once."""
    folder = home / name
    if not folder.exists():
        folder.mkdir(parents=True)
        recipe(text)(folder)
        ended = run(folder, *RUN)
        assert ended.code == 0, ended.text
        for log in folder.glob("log-*"):
            log.unlink()
    return folder


def _trained(home: Path, folder: Path) -> None:
    source = _made(home, "trained", RECIPE.replace(EVALUATION, ""))
    shutil.copytree(source, folder, dirs_exist_ok=True)
    recipe(RECIPE)(folder)


def _finished(home: Path, folder: Path) -> None:
    shutil.copytree(_made(home, "finished", RECIPE), folder, dirs_exist_ok=True)


def _raw(home: Path, folder: Path) -> None:
    """Raw shards, and the recipe that reads them encoded."""
    wan = wan_run(home, "wan21")
    (source,) = wan.parents[1].glob("video_shards-*")
    shutil.copytree(source, folder / "raw")
    (text,) = (path.read_text() for path in wan.parents[1].glob("*.toml"))
    (folder / "r.toml").write_text(text.replace(str(source), "latents"))


def _drawing(home: Path) -> Callable[[Path], object]:
    return lambda folder: digits_run(home)


def _linked(home: Path, folder: Path) -> None:
    (folder / "wan-run").symlink_to(wan_run(home, "wan21"))


# --- results


def files(folder: Path) -> Result:
    """Every byte of every file, but of locks and of what was printed."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("log-") and not path.name.endswith(".lock")
    }


def run_result(folder: Path) -> Result:
    """All that two runs of a recipe have in common: every file, without times and what draws them."""
    found = {
        name: content
        for name, content in files(folder).items()
        if not name.endswith((".html", "flowmap.log")) and "/tensorboard/" not in name
    }
    return {name: _steps(content) if name.endswith("steps.jsonl") else content for name, content in found.items()}


def _steps(content: bytes) -> Any:
    """The lines of steps, without their times; what is damaged as it is."""
    try:
        lines = [json.loads(line) for line in content.splitlines()]
        return [{key: value for key, value in line.items() if key not in ("seconds", "peak_bytes")} for line in lines]
    except (ValueError, AttributeError):
        return content


def comparison_result(folder: Path) -> Result:
    """The same of a comparison, whose page and lines have times in them."""
    found = {name: value for name, value in run_result(folder).items() if not name.endswith((".log", ".jsonl"))}
    found |= {name: value for name, value in run_result(folder).items() if name.endswith("steps.jsonl")}
    for path in sorted(folder.rglob("metrics.jsonl")):
        found[str(path.relative_to(folder))] = path.read_bytes()
    for path in folder.glob("runs/*/comparison.jsonl"):
        found["lines"] = _but_costs(path.read_bytes())
    for path in folder.glob("runs/*/finished.jsonl"):
        found["finished"] = sorted(path.read_text().splitlines())
    return found


def _but_costs(content: bytes) -> Any:
    """The lines of a comparison without costs, which have times in them; what is damaged as it is."""
    try:
        return [line for line in map(json.loads, content.splitlines()) if line["kind"] != "cost"]
    except (ValueError, TypeError, KeyError):
        return content


# --- what is finished


def run_progress(folder: Path) -> Result:
    """Every line of a step that a checkpoint stands for, with its times (taken again, they are others); each score."""
    found: dict[str, Any] = {}
    for path in folder.rglob("steps.jsonl"):
        newest = checkpoints(path.parent)[-1:]
        for line in read_lines(path):
            if newest and line["step"] <= newest[0].step:
                found[f"{path.resolve().relative_to(folder)}: {line['step']}"] = line
    for path in folder.rglob("metrics.jsonl"):
        for line in read_lines(path):
            found[f"{path}: {line['stage']} {line['sampler']} {line['nfe']} {line['metric']}"] = line
    return found


def comparison_progress(folder: Path) -> Result:
    """The same of all trainings, and those that are finished."""
    return {name: line for each in folder.glob("runs/*") for name, line in _inside(each).items()}


def _inside(root: Path) -> Result:
    # Links lead to the same folders twice.
    found = dict(run_progress(root))
    for line in read_lines(root / "finished.jsonl"):
        found[f"finished: {line['contestant']}, {line['seed']}"] = line
    return found


def encode_progress(folder: Path) -> Result:
    """The parts that are there, as the files that they are."""
    stats = {path.name: path.stat() for path in folder.glob("latents/[!.]*.tar")}
    return {name: (found.st_mtime_ns, found.st_ino) for name, found in stats.items()}
