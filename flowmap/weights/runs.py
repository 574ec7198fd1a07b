"""Weights that are a run of ours, or a run on a run: what they go back to, as far as locks tell. Torch-free."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowmap.weights.names import RANDOM, find

RUN_LOCK = "recipe.lock.toml"
"""What the folder of a run of ours has, and no other."""

# A run on a run on a run ...: beyond these somebody's folder names itself.
_MOST_RUNS = 50


def is_run(folder: Path) -> bool:
    """Whether `folder` is that of a run of ours."""
    return (folder / RUN_LOCK).is_file()


def run_in(weights: str) -> Path | None:
    """The folder of the run that `weights` are; None if they are none."""
    folder = find(weights)
    return folder if folder is not None and is_run(folder) else None


def origin(weights: str) -> tuple[str | None, Mapping[str, Any]]:
    """The weights that are no run, to which `weights` go back, and the table `backbone` of the run based on them.

    The table is empty if `weights` are no run, and the weights are None if nobody can tell them.
    """
    table: Mapping[str, Any] = {}
    for _ in range(_MOST_RUNS + 1):
        run = None if weights == RANDOM else run_in(weights)
        if run is None:
            return weights, table
        table = _backbone_of(run)
        base = table.get("weights")
        if not isinstance(base, str):
            return None, table
        weights = base
    return None, {}


def _backbone_of(folder: Path) -> Mapping[str, Any]:
    """The table `backbone` of the run in `folder`, as it stands; empty if it cannot be read."""
    try:
        backbone = tomllib.loads((folder / RUN_LOCK).read_text("utf-8")).get("backbone")
    except (OSError, ValueError, RecursionError):
        return {}
    return backbone if isinstance(backbone, dict) else {}
