"""How long the report of a run of 100,000 steps takes, beside that of one of 1,000. Aim: under 1 s more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flowmap.report.page import write_report
from flowmap.training.journal import STEPS, Seal
from tests.benchmarks.table import interleaved, show
from tests.test_report import make_run, record, write_lines, write_manifest


def _run(folder: Path, steps: int) -> Path:
    """A run whose second stage has so many steps, of two branches with a raw value each, and a checkpoint's seal."""
    make_run(folder)
    seal = Seal()
    lines = [
        record(i, losses={"main": 1 / i, "critic": 2.0}, raw={"main/r=t": 2 / i, "main/r<t": 3 / i})
        for i in range(1, steps + 1)
    ]
    for line in lines:
        seal.note(line)
    write_lines(folder / "v1.5" / STEPS, lines)
    write_manifest(folder / "v1.5", steps, seal.facts())
    return folder


def test_report(benchmark: Any, tmp_path: Path) -> None:
    folders = {f"{steps:,} steps": _run(tmp_path / str(steps), steps) for steps in (1_000, 100_000)}
    works = {name: lambda folder=folder: write_report(folder) for name, folder in folders.items()}
    interleaved(works, rounds=1)
    seconds = interleaved(works, rounds=5)
    benchmark.pedantic(works["100,000 steps"], rounds=2)
    show(benchmark, "a report", seconds, "1,000 steps")
    benchmark.extra_info["seconds more"] = seconds["100,000 steps"] - seconds["1,000 steps"]
