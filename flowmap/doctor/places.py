"""Where things are kept: the current folder, caches, and how much room there is. Torch-free."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import final

from flowmap.vbench.environment import default_folder, opened
from flowmap.weights.names import cache_folder


@final
@dataclass(frozen=True)
class Place:
    """A folder: what for, where, what is in it in words, and the bytes that are free there (None: not known)."""

    what: str
    folder: Path
    holds: str
    free: int | None


def places() -> tuple[Place, ...]:
    """The current folder and every cache that a command reads."""
    hub, environment = cache_folder(), default_folder()
    return (
        Place("runs", Path("runs").absolute(), _count(Path("runs"), "*", "run"), _free(Path("runs").absolute())),
        Place("hub's cache", hub, _count(hub, "models--*", "model"), _free(hub)),
        Place("VBench", environment, "ready" if opened(environment) else "not installed", _free(environment)),
    )


def wrong() -> list[str]:
    """What is wrong with the current folder, into which runs are written."""
    here = Path.cwd()
    if os.access(here, os.W_OK):
        return []
    return [f"{here} is not writable, and runs are written into the current folder: change to another, or use --runs"]


def _count(folder: Path, pattern: str, unit: str) -> str:
    try:
        number = sum(1 for _ in folder.glob(pattern))
    except OSError:
        return "cannot be read"
    return f"{number or 'no'} {unit}{'' if number == 1 else 's'}"


def _free(folder: Path) -> int | None:
    """Bytes that are free where `folder` is, or would be made."""
    there = next(place for place in (folder, *folder.parents) if place.exists() or place == place.parent)
    try:
        return shutil.disk_usage(there).free
    except OSError:
        return None
