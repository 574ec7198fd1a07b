"""How many faults of each kind the short and the long form try."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.small_runs import preload

from . import disks as of_disks
from . import inputs as of_inputs
from . import kills as of_kills
from .folders import folders
from .scenes import PRELOADED, scenes
from .tally import Outcome

KILLS: Mapping[str, tuple[int, int]] = {
    "train": (12, 110),
    "run": (10, 80),
    "two processes": (6, 50),
    "evaluate": (8, 60),
    "compare": (8, 60),
    "encode": (6, 50),
    "sample": (6, 40),
    "export": (6, 40),
    "report": (2, 10),
}
"""The scenes that are killed, and how often: in the short form and in the long one."""

DISKS: Mapping[str, tuple[int, int]] = {
    "run": (50, 200),
    "track": (14, 60),
    "compare": (24, 120),
    "report": (4, 15),
    "encode": (24, 100),
    "sample": (12, 50),
    "export": (24, 80),
}

DAMAGE: Mapping[str, tuple[int, int]] = {
    "finished run": (48, 300),
    "half-trained run": (24, 150),
    "half-measured run": (18, 120),
    "finished comparison": (15, 90),
    "half comparison": (12, 60),
    "video run": (18, 120),
    "encoded": (24, 160),
    "half encoded": (8, 60),
    "exported": (18, 120),
}

INPUTS: Mapping[str, tuple[int, int]] = {
    "recipes": (900, 3000),
    "--set": (600, 2000),
    "shards": (400, 1400),
    "clips": (300, 1000),
    "images": (300, 1000),
    "captions": (300, 900),
    "checkpoints": (200, 600),
    "weights": (60, 300),
}


def kills(home: Path, seed: int, long: bool, only: str) -> Iterator[Outcome]:
    """Kill commands."""
    preload(*PRELOADED)
    found = scenes(home)
    for name, counts in KILLS.items():
        if only in name:
            yield from _timed(f"kill: {name}", of_kills.kills(found[name], seed, counts[long]))


def disks(home: Path, seed: int, long: bool, only: str) -> Iterator[Outcome]:
    """Put failing disks under commands."""
    preload(*PRELOADED)
    found = scenes(home)
    for name, counts in DISKS.items():
        if only in name:
            yield from _timed(f"disk: {name}", of_disks.disks(found[name], seed, counts[long]))


def damage(home: Path, seed: int, long: bool, only: str) -> Iterator[Outcome]:
    """Damage files of folders."""
    preload(*PRELOADED)
    found = folders(home, scenes(home))
    for name, counts in DAMAGE.items():
        if only in name:
            yield from _timed(f"damage: {name}", found[name].cases(seed, counts[long]))


def inputs(home: Path, seed: int, long: bool, only: str) -> Iterator[Outcome]:
    """Give commands inputs that are wrong."""
    for name, counts in INPUTS.items():
        if only in name:
            yield from _timed(f"input: {name}", of_inputs.inputs(name, home, seed, counts[long]))


def _timed(name: str, outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    began, count = time.monotonic(), 0
    for outcome in outcomes:
        count += 1
        yield outcome
    print(f"{name}: {count} in {time.monotonic() - began:.0f} s", flush=True)
