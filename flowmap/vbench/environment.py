"""The environment that VBench's package runs in: made by pip in a cache folder, whole or made again, and asked.

The package pins numpy below 2 and transformers 4.33.2, and cannot stand beside flowmap's own libraries.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, final

from pydantic import BaseModel, ConfigDict, Field

from flowmap.errors import FlowmapError
from flowmap.files.texts import TextError, read_bytes, shaped
from flowmap.vbench.dimensions import VERSION

VARIABLE = "FLOWMAP_VBENCH"
"""The environment variable that names the folder."""

MARKER = "flowmap.json"
"""Written last: a folder without it is a half-made environment."""

SCORER = Path(__file__).with_name("scorer.py")
INSTALL = "flowmap vbench --install"


class Made(BaseModel):
    """What the marker says: the kit's name, Python's version, packages by name, and what could not be imported."""

    model_config = ConfigDict(strict=True)

    kit: str
    python: str
    packages: dict[str, str]
    broken: Annotated[dict[str, str], Field(default_factory=dict)]


@final
@dataclass(frozen=True)
class Environment:
    """An environment that was made whole."""

    folder: Path
    made: Made

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return interpreter(self.folder)

    @property
    def info(self) -> Path:
        """The list of prompts for text, which is in the package."""
        found = sorted(self.folder.glob("**/site-packages/vbench/VBench_full_info.json"))
        if not found:
            raise FlowmapError(
                f"{self.folder} has no VBench_full_info.json in its package; make it anew: {install_line(self.folder)}"
            )
        return found[0]

    @property
    def versions(self) -> dict[str, str]:
        """The packages that a score depends on, for the record."""
        named = ("vbench", "torch", "torchvision", "numpy", "opencv-python", "opencv-python-headless", "decord")
        more = ("transformers", "timm", "pyiqa", "openai-clip", "detectron2")
        kept = {name: self.made.packages[name] for name in (*named, *more) if name in self.made.packages}
        return {"python": self.made.python, **kept}


def default_folder() -> Path:
    """Where the environment is if nobody says: `FLOWMAP_VBENCH`, or the platform's folder for caches."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    if sys.platform == "darwin":
        caches = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        caches = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "flowmap" / f"vbench-{VERSION}"


def install_line(folder: Path) -> str:
    """What to type to make the environment in `folder`."""
    return INSTALL if folder == default_folder() else f"{INSTALL} --environment {shlex.quote(str(folder))}"


def interpreter(folder: Path) -> Path:
    """The Python of the environment in `folder`."""
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def opened(folder: Path) -> Environment | None:
    """The environment in `folder`; None if there is none, or one that was not finished."""
    try:
        made = shaped(read_bytes(folder / MARKER), Made)
    except (OSError, TextError):
        return None
    return Environment(folder, made) if interpreter(folder).exists() else None


def needed(folder: Path) -> Environment:
    """The environment in `folder`; raises FlowmapError, saying how to make it, if there is none."""
    found = opened(folder)
    if found is None:
        half = " (what is there was not finished)" if folder.exists() else ""
        raise FlowmapError(
            f"there is no environment with VBench's package in {folder}{half}; make it: {install_line(folder)}"
        )
    return found


def run_isolated(python: Path, arguments: Sequence[str], log: Path, cwd: Path | None = None) -> int:
    """Run the environment's Python on `arguments` without this process's own paths; its words go to the end of `log`.

    Returns the exit code, which is minus a signal's number if that has ended it. The child ends with an interrupted
    flowmap.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    # Processes of a launcher's: the package would take itself for one of them.
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        variables.pop(name, None)
    if not python.exists():
        raise FlowmapError(
            f"there is no interpreter {python}; make the environment anew: {install_line(python.parent.parent)}", code=1
        )
    with log.open("ab") as words:
        child = subprocess.Popen(
            [str(python), "-I", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            cwd=cwd,
            env=variables,
        )
        try:
            return child.wait()
        except BaseException:
            child.terminate()
            child.wait()
            raise


def ask(python: Path, job: Mapping[str, object], folder: Path, log: Path) -> tuple[int, str]:
    """Have the scorer do a `job` in `folder`; returns its exit code and what it says of a failure ("Type: text")."""
    failure = folder / "failure.json"
    failure.unlink(missing_ok=True)
    asked = folder / "job.json"
    asked.write_text(json.dumps({**job, "failure": str(failure)}), "utf-8")
    code = run_isolated(python, [str(SCORER), str(asked)], log, folder)
    try:
        said = json.loads(failure.read_text("utf-8"))
        return code, f"{said['type']}: {said['text']}"
    except (OSError, ValueError, KeyError):
        return code, ""
