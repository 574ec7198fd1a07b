"""What to type: the commands that error messages give."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flowmap.errors import FlowmapError
from flowmap.files.folder import StoppedError


def command_line(path: Path, overrides: Sequence[str], only: Sequence[str], runs: Path) -> str:
    """What to type to go on with a run: the command itself, but never a second --fresh."""
    return shlex.join(
        [*_program(), "run", str(path)]
        + [word for text in overrides for word in ("--set", text)]
        + [word for name in only for word in ("--stage", name)]
        + (["--runs", str(runs)] if runs != Path("runs") else [])
    )


def compare_line(paths: Sequence[Path], overrides: Sequence[str], runs: Path, processes: int | None) -> str:
    """What to type to go on with a comparison: the command itself, but neither --fresh nor --redo again."""
    return shlex.join(
        [*_program(), "compare", *map(str, paths)]
        + [word for text in overrides for word in ("--set", text)]
        + (["--runs", str(runs)] if runs != Path("runs") else [])
        + (["--processes", str(processes)] if processes else [])
    )


def evaluate_line(where: str, recipe: Path, overrides: Sequence[str], runs: Path) -> str:
    """What to type to go on with the evaluation of weights: the command itself, but never a second --fresh."""
    return shlex.join(
        [*_program(), "evaluate", where, "--recipe", str(recipe)]
        + [word for text in overrides for word in ("--set", text)]
        + (["--runs", str(runs)] if runs != Path("runs") else [])
    )


def process() -> tuple[int, int]:
    """The index of this process and how many there are, as whoever started them tells each."""
    return int(os.environ.get("RANK") or 0), int(os.environ.get("WORLD_SIZE") or 1)


def node() -> int:
    """How many processes there are on this node, as whoever started them tells each."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or process()[1])


def _program() -> list[str]:
    """How this process was started, as it can be typed again."""
    if process()[1] > 1:
        launcher = ["torchrun"] if shutil.which("torchrun") else [sys.executable, "-m", "torch.distributed.run"]
        nodes = os.environ.get("GROUP_WORLD_SIZE", "1")
        several = [f"--nnodes={nodes}", "--rdzv-endpoint=HOST:PORT"] if nodes != "1" else []
        return [*launcher, *several, f"--nproc-per-node={os.environ.get('LOCAL_WORLD_SIZE', '1')}", "-m", "flowmap"]
    started = Path(sys.argv[0])
    if started.name == "__main__.py":
        return [sys.executable, "-m", "flowmap"]
    found = shutil.which("flowmap")
    known = started.name != "flowmap" or (found is not None and Path(found).resolve() == started.resolve())
    return ["flowmap"] if known else [str(started)]


@contextmanager
def going_on(command: str) -> Iterator[None]:
    """Add to a StoppedError how to go on: by `command`."""
    try:
        yield
    except StoppedError as error:
        raise FlowmapError(f"{error}\nTo go on: {error.before(command)}", error.code) from error
